"""Stage ``extract``: one feature per chip through the base model, the LoRA adapter or the de-biased adapter.

Only pixels and ids are handed to the model; labels stay in the audit's table. Each process of a run extracts a range of
the chips, and the first one writes.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from deblora.data.chips import ChipSet, SubsetPixels
from deblora.debias.row_blocks import blocks_of_rows
from deblora.models.adapters.lora import load_adapter
from deblora.models.backbone import Backbone
from deblora.pipeline.adapter import PEFT_NAMES
from deblora.pipeline.classify.chips import open_chips
from deblora.pipeline.classify.train_deblora import is_map, load_map
from deblora.pipeline.open_model import adopt_input, model_settings, open_checked, open_for_chips
from deblora.recipe.classify import ExtractRecipe, Recipe
from deblora.run.artifacts import FeatureTable, save_index
from deblora.run.processes import device, gather_rows, is_first, rank, shares, world_size
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage
from deblora.train.extract import extract_features


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
            *([] if recipe.extract.precision == "no" else [recipe.extract.precision]),
            *([] if recipe.extract.views == 1 else [recipe.extract.views]),
        ],
        inputs=lambda run: [
            run.samples,
            run.groups,
            *(run.adapter(name) for name in parents),
            *([run.features("lora")] if adapter == "deblora" else []),  # what a map is applied to
        ],
        outputs=lambda run: run.feature_files(adapter),
        work=work,
        shared=True,
        command="extract",
    )


def _extract(run: RunDir, recipe: Recipe, adapter: str) -> None:
    if adapter == "deblora" and is_map(recipe.deblora.placement):
        if is_first():
            _move(run, recipe)
        return
    chips = open_chips(run, recipe)
    backbone = open_adapted(run, recipe, adapter)
    backbone.to(device())
    notes = {"adapter": adapter, "base": backbone.weights_sha256}
    if recipe.extract.precision != "no":
        notes["precision"] = recipe.extract.precision
    if recipe.extract.views != 1:
        notes["views"] = str(recipe.extract.views)

    def features_of(rows: slice, title: str) -> Float[np.ndarray, "n d"] | None:
        return _shared_features(backbone, chips, rows, recipe.extract, title)

    _save(run, adapter, chips.ids, notes, features_of, recipe.extract.shard_rows)


def _shared_features(
    backbone: Backbone, chips: ChipSet, rows: slice, settings: ExtractRecipe, title: str
) -> Float[np.ndarray, "n d"] | None:
    """Extract a part of these rows in each process and bring them together in the first one."""
    n_rows = rows.stop - rows.start
    ranges = shares(n_rows, world_size(), batch_size=settings.batch_size)
    own = tuple(rows.start + i for i in ranges[rank()])
    features = extract_features(
        backbone,
        SubsetPixels(chips.pixels, own),
        tuple(chips.ids[i] for i in own),
        batch_size=settings.batch_size,
        n_views=settings.views,
        precision=settings.precision,
        title=title if is_first() else None,
    )
    return gather_rows(features, ranges)


def open_adapted(run: RunDir, recipe: Recipe, adapter: str, *, trained: bool = False) -> Backbone:
    """Return the model with the adapters of ``base``, ``lora`` or ``deblora`` loaded, checked against the chips.

    Args:
        run: Where.
        recipe: Its settings.
        adapter: Which one.
        trained: Whether ``base`` takes its statistics from the first adapter, which has those of the training chips.
    """
    if adapter == "base" and not trained:
        return open_for_chips(run, recipe, open_chips(run, recipe))
    backbone = open_checked(run, recipe)
    adopt_input(backbone, run.adapter("lora"))
    if adapter == "base":
        return backbone
    stacked = adapter == "deblora" and recipe.deblora.placement == "stack"
    for name in ["lora", "deblora"] if stacked else [adapter]:
        load_adapter(backbone, run.adapter(name), adapter_name=PEFT_NAMES[name])
    return backbone


def _save(
    run: RunDir,
    adapter: str,
    ids: tuple[str, ...],
    notes: dict[str, str],
    features_of: Callable[[slice, str], Float[np.ndarray, "n d"] | None],
    shard_rows: int | None,
) -> None:
    """Write features as one file, or shard by shard, of which memory holds one at a time."""
    blocks = blocks_of_rows(len(ids), shard_rows)
    shards = []
    before = run.feature_files(adapter)
    for number, rows in enumerate(blocks, start=1):
        part = "" if shard_rows is None else f" {number}/{len(blocks)}"
        features = features_of(rows, f"extract {adapter}{part}")
        if features is not None:
            single = run.feature_file(adapter)
            path = single if shard_rows is None else run.feature_shard(adapter, number, len(blocks))
            FeatureTable(ids[rows], features, notes).save(path)
            shards.append(path)
    if not is_first():
        return
    if shard_rows is not None:
        save_index(run.feature_index(adapter), shards)
        shards.append(run.feature_index(adapter))
    for path in before:  # of another layout
        if path not in shards:
            path.unlink(missing_ok=True)


def _move(run: RunDir, recipe: Recipe) -> None:
    """Apply the map in feature space to the features of the first adapter, block by block."""
    table = FeatureTable.load(run.features("lora"))
    placement = recipe.deblora.placement
    trained = load_map(run, placement, table.features.shape[1])

    def moved(rows: slice, _: str) -> Float[np.ndarray, "n d"]:
        return trained(table.features[rows])

    notes = {"adapter": "deblora", "placement": placement}
    _save(run, "deblora", table.ids, notes, moved, recipe.extract.shard_rows)
