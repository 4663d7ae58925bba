"""Stage ``extract``: one feature per chip through the base model, the LoRA adapter or the de-biased adapter.

Only pixels and ids are handed to the model; labels stay in the audit's table.
"""

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from deblora.artifacts import FeatureTable
from deblora.config import Recipe
from deblora.errors import ArtifactError
from deblora.models.backbone import Backbone
from deblora.models.lora import load_adapter, merge_adapters
from deblora.run_dir import RunDir
from deblora.stages.chips import check_bands, open_chips
from deblora.stages.model_input import adopt_input, fit_input
from deblora.stages.stage import Stage
from deblora.stages.train_lora import PEFT_NAMES, model_settings, open_backbone
from deblora.train.extract import extract_features
from deblora.train.objectives import ResidualMap

RESIDUAL = "residual.safetensors"


def stage_for(adapter: str) -> Stage:
    """Return the stage that extracts through ``base``, ``lora`` or ``deblora``."""
    parents = {"base": [], "lora": ["lora"], "deblora": ["lora", "deblora"]}[adapter]

    def work(run: RunDir, recipe: Recipe) -> None:
        _extract(run, recipe, adapter)

    return Stage(
        name=f"extract-{adapter}",
        settings=lambda recipe: [
            model_settings(recipe.backbone),
            recipe.deblora.placement if adapter == "deblora" else "",
        ],
        inputs=lambda run: [
            run.samples,
            run.groups,
            *(run.adapter(name) for name in parents),
            *([run.features("lora")] if adapter == "deblora" else []),  # what a residual map is applied to
        ],
        outputs=lambda run: [run.features(adapter)],
        work=work,
    )


def _extract(run: RunDir, recipe: Recipe, adapter: str) -> None:
    if adapter == "deblora" and recipe.deblora.placement == "residual":
        moved = move_features(run, FeatureTable.load(run.features("lora")))
        moved.save(run.features("deblora"))
        return
    chips = open_chips(run, recipe)
    backbone = open_adapted(run, recipe, adapter)
    table = extract_features(
        backbone, chips.pixels, chips.ids, batch_size=recipe.extract.batch_size, title=f"extract {adapter}"
    )
    FeatureTable(table.ids, table.features, {"adapter": adapter, "base": backbone.weights_sha256}).save(
        run.features(adapter)
    )


def open_adapted(run: RunDir, recipe: Recipe, adapter: str) -> Backbone:
    """Return the model with the adapters of ``base``, ``lora`` or ``deblora`` loaded, checked against the chips."""
    backbone = open_backbone(recipe.backbone, seed=recipe.seed)
    check_bands(run, backbone.spec.n_bands, backbone.name, named=recipe.data.band_names)
    if adapter == "base":
        fit_input(backbone, open_chips(run, recipe))
    else:
        adopt_input(backbone, run.adapter("lora"))
    stacked = adapter == "deblora" and recipe.deblora.placement == "stack"
    names = {"base": [], "lora": ["lora"], "deblora": ["lora", "deblora"] if stacked else ["deblora"]}[
        adapter
    ]
    for name in names:
        load_adapter(backbone, run.adapter(name), adapter_name=PEFT_NAMES[name])
    if names:
        merge_adapters(backbone)
    return backbone


def move_features(run: RunDir, table: FeatureTable) -> FeatureTable:
    """Apply the residual map of ``deblora.placement: residual`` to features of the first adapter."""
    path = run.adapter("deblora") / RESIDUAL
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; run train-deblora again")
    try:
        weights = load_file(path)
        rank, size = weights["down.weight"].shape
        residual = ResidualMap(size, rank, seed=0)
        residual.load_state_dict(weights)
    except (SafetensorError, RuntimeError, ValueError, KeyError, OSError) as error:
        raise ArtifactError(f"{path} is damaged ({str(error)[:300]}); run train-deblora again") from error
    if size != table.features.shape[1]:
        raise ArtifactError(
            f"{path} maps {size} dimensions, features have another number; run train-deblora again"
        )
    with torch.inference_mode():
        moved = residual(torch.from_numpy(table.features)).numpy()
    return FeatureTable(table.ids, moved, {"adapter": "deblora", "placement": "residual"})
