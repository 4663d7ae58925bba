"""Stage ``train-lora``: adapt the pre-trained model to the target data."""

import numpy as np
import torch

from deblora.models.adapters.lora import save_adapter
from deblora.pipeline.adapter import (
    PEFT_NAMES,
    adapter_settings,
    attach_first,
    chips_sidecar,
    first_objective,
    first_samples,
    save_history,
    train_adapter,
)
from deblora.pipeline.classify.chips import open_chips
from deblora.pipeline.open_model import model_settings, open_for_chips
from deblora.recipe.classify import Recipe
from deblora.run.processes import is_first
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage
from deblora.train.samples import TrainingOrder


def _work(run: RunDir, recipe: Recipe) -> None:
    settings = recipe.lora
    chips = open_chips(run, recipe).split("train")
    backbone = open_for_chips(run, recipe, chips)
    attach_first(backbone, settings, n_steps=settings.max_train_steps, seed=recipe.seed)
    objective = first_objective(recipe, backbone, chips)
    samples = TrainingOrder(
        chips.pixels,
        {"labels": torch.from_numpy(chips.labels.astype(np.int64))},
        spec=backbone.spec,
        n_samples=settings.max_train_steps * settings.train_batch_size,
        seed=recipe.seed,
        n_views=recipe.extract.views,
    )
    records = train_adapter(
        objective,
        first_samples(objective, samples, seed=recipe.seed),
        backbone,
        folder=run.checkpoints("lora"),
        n_steps=settings.max_train_steps,
        batch_size=settings.train_batch_size,
        learning_rate=settings.learning_rate,
        checkpointing_steps=settings.checkpointing_steps,
        seed=recipe.seed,
        mixed_precision=recipe.mixed_precision,
    )
    if is_first():
        record = chips_sidecar(run, recipe, "lora", backbone)
        save_adapter(backbone, PEFT_NAMES["lora"], run.adapter("lora"), record)
        save_history(run, "lora", records)


STAGE = Stage(
    name="train-lora",
    settings=lambda recipe: [
        model_settings(recipe.backbone),
        adapter_settings(recipe),
        recipe.mixed_precision,
    ],
    inputs=lambda run: [run.samples, run.groups],
    outputs=lambda run: [run.adapter("lora"), run.history("lora")],
    work=_work,
    shared=True,
)
