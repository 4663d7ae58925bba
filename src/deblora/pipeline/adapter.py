"""What both adapters share: settings, attaching, training, sidecar files."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from deblora.data.chips import ChipSet
from deblora.evaluate.classifiers.linear import log_prior
from deblora.files import write_atomic
from deblora.models.adapters.lora import attach_lora
from deblora.models.backbone import Backbone
from deblora.models.backbones.clip_text import TEMPLATES, check_text, load_text_head
from deblora.pipeline.audited import groups_of
from deblora.pipeline.open_model import text_model
from deblora.recipe.classify import LoraRecipe, Recipe, tables
from deblora.run.run_dir import RunDir
from deblora.train.loop import Orthogonal, rank_schedule, train
from deblora.train.mae import Reconstruct, WithNoise
from deblora.train.objectives import Classify, Contrast, Denoise, Numbered

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


def adapter_settings(recipe: Recipe) -> dict[str, object]:
    """Return what a training of an adapter depends on."""
    return {**tables(recipe.lora), "views": recipe.extract.views}


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


def first_objective(
    recipe: Recipe, backbone: Backbone, chips: ChipSet, *, loss: str | None = None
) -> nn.Module:
    """Return the module whose forward gives the loss of a batch of training chips.

    Args:
        recipe: Loss, templates, seed and, for texts, the folder of the model.
        loss: Another one than that of the recipe.
        backbone: Model with a trainable adapter.
        chips: Training chips; labels are read for the class prior, and to leave out classes without a chip.
    """
    loss = loss or recipe.lora.loss
    if loss == "mae":
        return Reconstruct(backbone, seed=recipe.seed)
    if loss == "denoise":
        return Denoise(backbone, seed=recipe.seed)
    if loss == "contrast":
        trained, names = trained_classes(chips)
        head = load_text_head(text_model(recipe.backbone), names, templates_of(recipe))
        return Contrast(backbone, head, n_classes=chips.n_classes, trained=trained)
    prior = None
    if loss == "balanced_softmax":
        prior = torch.from_numpy(np.asarray(log_prior(chips.labels, chips.n_classes), dtype=np.float32))
    return Classify(backbone, chips.n_classes, log_prior=prior, seed=recipe.seed)


def check_loss(recipe: Recipe) -> None:
    """Check, before anything is written, that the model has what the loss needs; nothing is loaded.

    Raises:
        ModelError: If texts are asked for and there is no whole CLIP model.
    """
    if recipe.lora.loss == "contrast":
        check_text(text_model(recipe.backbone))


def first_samples(
    objective: nn.Module, samples: Dataset[dict[str, torch.Tensor]], *, seed: int
) -> Dataset[dict[str, torch.Tensor]]:
    """Return the samples with what the objective takes beside the pixels.

    Args:
        objective: What :func:`first_objective` returned.
        samples: Pixels and labels in a fixed order.
        seed: Seed of random numbers that belong to a sample.
    """
    if isinstance(objective, Reconstruct):
        return WithNoise(samples, n_patches=objective.side**2, seed=seed)
    if isinstance(objective, Denoise):
        return Numbered(samples)
    return samples


def templates_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the sentences around a class name."""
    return tuple(recipe.lora.templates or TEMPLATES)


def trained_classes(chips: ChipSet) -> tuple[list[int], tuple[str, ...]]:
    """Return labels and names of the classes with training chips."""
    trained = sorted({int(label) for label in chips.labels})
    return trained, tuple(chips.class_names[label] for label in trained)
