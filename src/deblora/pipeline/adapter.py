"""What both adapters share: settings, attaching, training, sidecar files."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from deblora.files import write_atomic
from deblora.models.adapters.lora import attach_lora
from deblora.models.backbone import Backbone
from deblora.pipeline.audited import groups_of
from deblora.recipe.classify import LoraRecipe, Recipe, tables
from deblora.run.run_dir import RunDir
from deblora.train.adalora import Orthogonal, rank_schedule
from deblora.train.loop import train

PEFT_NAMES = {"lora": "stage0", "deblora": "deblora"}  # peft warns of names within its prefix "lora_"


def chips_sidecar(run: RunDir, recipe: Recipe, stage: str, backbone: Backbone) -> dict[str, object]:
    """Return :func:`sidecar` of an adapter that was trained on chips, with the bands that the recipe names."""
    return sidecar(
        run, recipe, stage, bands=recipe.data.band_names, train_statistics=backbone.train_statistics
    )


def sidecar(
    run: RunDir, recipe: Any, stage: str, *, bands: Sequence[str] = (), train_statistics: bool = False
) -> dict[str, object]:
    """Return what an adapter's ``base.json`` says beyond the model.

    Args:
        run: Its classes and groups are named.
        recipe: Of classification or detection; seed and all settings are kept.
        stage: What trained the adapter.
        bands: Names of the bands, where there are any.
        train_statistics: Whether bands were normalized by the training chips.
    """
    from deblora.pipeline.audited import class_names

    groups = {name: list(members) for name, members in groups_of(run).named().items()}
    return {
        "stage": stage,
        "classes": list(class_names(run)),
        "groups": groups,
        "normalize": "train" if train_statistics else "model",
        "bands": list(bands),
        "seed": recipe.seed,
        "settings": tables(recipe),
    }


def save_history(run: RunDir, name: str, records: list[tuple[int, float]]) -> None:
    """Write the training loss by step."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([("step", "loss"), *records])
    write_atomic(run.history(name), buffer.getvalue())


def adapter_settings(lora: LoraRecipe) -> dict[str, object]:
    """Return what a training of an adapter depends on."""
    return dict(tables(lora))


def attach_first(backbone: Backbone, settings: LoraRecipe, *, n_steps: int, seed: int) -> None:
    """Attach a fresh first adapter of the recipe's kind."""
    attach_lora(
        backbone,
        rank=settings.rank,
        alpha=settings.alpha or settings.rank,
        targets=tuple(settings.targets) if settings.targets else None,
        kind=settings.adapter,
        n_steps=n_steps,
        adapter_name=PEFT_NAMES["lora"],
        seed=seed,
    )


def train_adapter(
    objective: nn.Module, samples: Dataset[dict[str, torch.Tensor]], backbone: Backbone, **options: Any
) -> list[tuple[int, float]]:
    """Train as :func:`~deblora.train.loop.train`; AdaLoRA gets its penalty and its schedule of ranks."""
    schedule = rank_schedule(backbone.encoder)
    return train(
        objective if schedule is None else Orthogonal(objective), samples, after_step=schedule, **options
    )
