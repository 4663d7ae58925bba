"""Stages ``extract-row-<name>``: one feature per chip, and the logits of rows that are classifiers themselves.

As everywhere, the model is handed pixels only.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from deblora.data.chips import ChipSet
from deblora.errors import ArtifactError
from deblora.models.adapters.lora import load_adapter
from deblora.models.backbone import Backbone
from deblora.models.whole import load_whole
from deblora.pipeline.adapter import PEFT_NAMES
from deblora.pipeline.classify.chips import open_chips
from deblora.pipeline.compare.baselines.settings import classifier_of
from deblora.pipeline.open_model import adopt_input, model_settings, open_checked, open_for_chips
from deblora.recipe.classify import Recipe
from deblora.recipe.methods import METHODS
from deblora.run.artifacts import FeatureTable
from deblora.run.run_dir import ADAPTER, ADAPTERS, FEATURES, HEAD, LOGITS, WEIGHTS, RunDir
from deblora.run.stage import Stage
from deblora.train.extract import extract_features


def stage_for(name: str) -> Stage:
    """Return the stage that extracts the features of a row."""

    def work(run: RunDir, recipe: Recipe) -> None:
        _extract(run, recipe, name)

    def settings(recipe: Recipe) -> object:
        own = [recipe.rows.lift_scale, recipe.rows.reslt_beta] if METHODS[name].own_logits else []
        views = [] if recipe.extract.views == 1 else [recipe.extract.views]
        return [model_settings(recipe.backbone), *own, *views]

    return Stage(
        name=f"extract-row-{name}",
        settings=settings,
        inputs=lambda run: [run.samples, run.groups, *_trained(run, name)],
        outputs=lambda run: [
            run.row(name) / file for file in (FEATURES, *([LOGITS] if METHODS[name].own_logits else []))
        ],
        work=work,
        method=name,
    )


def _trained(run: RunDir, name: str) -> list[Path]:
    folder = run.row(name)
    if METHODS[name].trains == "all":
        return [folder / WEIGHTS]
    if name == "clora":
        return [folder / ADAPTERS, *_class_folders(folder)]
    joint = [folder / HEAD] if METHODS[name].own_logits else []
    return [folder / ADAPTER, *joint, *([run.features("base")] if name == "lift" else [])]


def _class_folders(folder: Path) -> list[Path]:
    return sorted((folder / ADAPTERS).glob("class-*"))


def _extract(run: RunDir, recipe: Recipe, name: str) -> None:
    chips = open_chips(run, recipe)
    if name == "clora":
        table = _mean_over_classes(run, recipe, chips)
    else:
        if METHODS[name].trains == "all":  # whole weights come without the statistics of the training chips
            backbone = open_for_chips(run, recipe, chips)
            load_whole(backbone, run.row(name) / WEIGHTS)
        else:
            backbone = _adapted(run, recipe, run.row(name) / ADAPTER)
        table = _features(backbone, chips, recipe, f"extract {name}")
    table = FeatureTable(table.ids, table.features, {"row": name})
    table.save(run.row(name) / FEATURES)
    if METHODS[name].own_logits:
        _own_logits(run, recipe, name, chips, table).save(run.row(name) / LOGITS)


def _adapted(run: RunDir, recipe: Recipe, folder: Path) -> Backbone:
    backbone = open_checked(run, recipe)
    adopt_input(backbone, folder)
    load_adapter(backbone, folder, adapter_name=PEFT_NAMES["lora"])
    return backbone


def _features(backbone: Backbone, chips: ChipSet, recipe: Recipe, title: str) -> FeatureTable:
    settings = recipe.extract
    features = extract_features(
        backbone, chips.pixels, chips.ids, batch_size=settings.batch_size, n_views=settings.views, title=title
    )
    return FeatureTable(chips.ids, features)


def _mean_over_classes(run: RunDir, recipe: Recipe, chips: ChipSet) -> FeatureTable:
    folders = _class_folders(run.row("clora"))
    if len(folders) != chips.n_classes:
        raise ArtifactError(
            f"{run.row('clora') / ADAPTERS} holds {len(folders)} adapters for {chips.n_classes} classes; delete it and "
            "run the comparison again"
        )
    total = np.zeros(())
    for i, folder in enumerate(folders, start=1):
        table = _features(_adapted(run, recipe, folder), chips, recipe, f"extract clora {i}/{len(folders)}")
        total = total + table.features.astype(np.float64)
    return FeatureTable(chips.ids, (total / len(folders)).astype(np.float32))


def _own_logits(run: RunDir, recipe: Recipe, name: str, chips: ChipSet, table: FeatureTable) -> FeatureTable:
    path = run.row(name) / HEAD
    head = classifier_of(name, run, recipe, chips.split("train"), table.features.shape[1])
    try:
        head.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged ({str(error)[:300]}); train its row again") from error
    with torch.inference_mode():
        logits = head.eval()(torch.from_numpy(table.features)).numpy()
    return FeatureTable(table.ids, logits, {"row": name})
