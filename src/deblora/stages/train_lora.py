"""Stage ``train-lora``: adapt the pre-trained model to the target data."""

import csv
import io
from pathlib import Path

import numpy as np
import torch

from deblora.artifacts import file_sha256, write_atomic
from deblora.config import BackboneRecipe, Recipe, tables
from deblora.models.backbone import Backbone, load_backbone, weights_file, with_unit_features
from deblora.models.bands import with_bands
from deblora.models.diffusion_files import pipeline_sha256
from deblora.models.hub import find_weights
from deblora.models.lora import attach_lora, save_adapter
from deblora.models.presets import PRESETS
from deblora.models.vision import EMBEDDED
from deblora.processes import is_first
from deblora.run_dir import RunDir
from deblora.stages.chips import check_bands, groups_of, open_chips
from deblora.stages.first_objective import first_objective, first_samples
from deblora.stages.model_input import fit_input, uses_train_statistics
from deblora.stages.stage import Stage
from deblora.train.loop import forget_checkpoints, train
from deblora.train.samples import TrainingOrder

FIRST_SETTINGS = ("name", "path", "image_size", "pool", "sensor", "l2_normalize")
PEFT_NAMES = {"lora": "stage0", "deblora": "deblora"}  # peft warns of names within its prefix "lora_"


def weights_path(recipe: BackboneRecipe) -> Path | None:
    """Return where the weights of the recipe lie, fetched from the hub if need be; ``None`` for the embedded model.

    Raises:
        ModelError: If a model of the hub is not here and cannot be fetched.
    """
    preset = PRESETS.get(recipe.name)
    if not recipe.path or preset is None:
        return Path(recipe.path) if recipe.path else None
    return find_weights(
        recipe.path, revision=recipe.revision, files=preset.hub_files, from_hub=bool(preset.hub_files)
    )


def open_backbone(recipe: BackboneRecipe, *, seed: int = 0) -> Backbone:
    """Load the frozen model of the recipe, for as many bands as it asks for; the seed is that of diffusion noise."""
    settings = {key: value for key, value in tables(recipe).items() if key not in ("name", "path")}
    backbone = load_backbone(recipe.name, path=weights_path(recipe), noise_seed=seed, **settings)
    by_chips = uses_train_statistics(recipe, native_bands=backbone.spec.n_bands)
    if recipe.n_bands is not None:
        backbone = with_bands(backbone, recipe.n_bands)
    backbone.train_statistics = by_chips
    return with_unit_features(backbone) if recipe.l2_normalize else backbone


def model_settings(recipe: BackboneRecipe) -> list[object]:
    """Return what a stage that runs the model depends on: its settings and the hash of its weights.

    Settings that came later are left out at their defaults, so that finished runs stay finished.
    """
    default = BackboneRecipe()
    chosen = {
        key: value
        for key, value in recipe.__dict__.items()
        if key in FIRST_SETTINGS or value != getattr(default, key)
    }
    if recipe.name == "stable-diffusion":
        return [chosen, pipeline_sha256(recipe.path or "")]
    file = weights_file(weights_path(recipe) or EMBEDDED, names=PRESETS[recipe.name].files)
    return [chosen, file_sha256(file)]


def sidecar(run: RunDir, recipe: Recipe, stage: str, *, train_statistics: bool = False) -> dict[str, object]:
    """Return what an adapter's ``base.json`` says beyond the model: classes, groups, bands, seed and settings."""
    from deblora.stages.chips import class_names

    groups = {name: list(members) for name, members in groups_of(run).named().items()}
    return {
        "stage": stage,
        "classes": list(class_names(run)),
        "groups": groups,
        "normalize": "train" if train_statistics else "model",
        "bands": list(recipe.data.band_names),
        "seed": recipe.seed,
        "settings": tables(recipe),
    }


def save_history(run: RunDir, name: str, records: list[tuple[int, float]]) -> None:
    """Write the training loss by step."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([("step", "loss"), *records])
    write_atomic(run.history(name), buffer.getvalue())


def _work(run: RunDir, recipe: Recipe) -> None:
    settings = recipe.lora
    chips = open_chips(run, recipe).split("train")
    backbone = open_backbone(recipe.backbone, seed=recipe.seed)
    check_bands(run, backbone.spec.n_bands, backbone.name, named=recipe.data.band_names)
    fit_input(backbone, chips)
    targets = tuple(settings.targets) if settings.targets else None
    attach_lora(
        backbone,
        rank=settings.rank,
        alpha=settings.alpha or settings.rank,
        targets=targets,
        adapter_name=PEFT_NAMES["lora"],
        seed=recipe.seed,
    )
    objective = first_objective(recipe, backbone, chips)
    samples = TrainingOrder(
        chips.pixels,
        {"labels": torch.from_numpy(chips.labels.astype(np.int64))},
        spec=backbone.spec,
        n_samples=settings.max_train_steps * settings.train_batch_size,
        seed=recipe.seed,
        flip=settings.flip,
    )
    records = train(
        objective,
        first_samples(objective, samples, seed=recipe.seed),
        folder=run.checkpoints("lora"),
        n_steps=settings.max_train_steps,
        batch_size=settings.train_batch_size,
        learning_rate=settings.learning_rate,
        checkpointing_steps=settings.checkpointing_steps,
        seed=recipe.seed,
        mixed_precision=recipe.mixed_precision,
    )
    if is_first():
        record = sidecar(run, recipe, "lora", train_statistics=backbone.train_statistics)
        save_adapter(backbone, PEFT_NAMES["lora"], run.adapter("lora"), record)
        save_history(run, "lora", records)
        forget_checkpoints(run.checkpoints("lora"))


STAGE = Stage(
    name="train-lora",
    settings=lambda recipe: [model_settings(recipe.backbone), recipe.lora.__dict__, recipe.mixed_precision],
    inputs=lambda run: [run.samples, run.groups],
    outputs=lambda run: [run.adapter("lora"), run.history("lora")],
    work=_work,
    shared=True,
)
