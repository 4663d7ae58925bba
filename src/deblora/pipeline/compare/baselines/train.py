"""Stages ``train-row-<name>``: all weights, or an adapter with a loss of its own."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from deblora.data.chips import ChipSet
from deblora.files import write_atomic
from deblora.models.adapters.lora import n_trainable, save_adapter
from deblora.models.backbone import Backbone
from deblora.models.whole import (
    estimate_statistics,
    has_statistics,
    learn_statistics,
    make_trainable,
    reinitialize,
    save_whole,
)
from deblora.pipeline.adapter import (
    PEFT_NAMES,
    attach_first,
    chips_sidecar,
    first_objective,
    first_samples,
    train_adapter,
)
from deblora.pipeline.classify.chips import open_chips
from deblora.pipeline.compare.baselines.settings import (
    CLASSIFICATION,
    classifier_of,
    learning_rate_of,
    loss_of,
    n_steps_of,
    row_settings,
    save_facts,
    save_head,
)
from deblora.pipeline.open_model import open_checked, open_for_chips
from deblora.progress import no_bar, titled
from deblora.recipe.classify import Recipe
from deblora.recipe.methods import METHODS
from deblora.run.run_dir import ADAPTER, ADAPTERS, FACTS, HEAD, HISTORY, WEIGHTS, RunDir
from deblora.run.stage import Stage
from deblora.train.classifiers import OneVsRest, Supervised, alternating_order
from deblora.train.extract import read_batch
from deblora.train.samples import TrainingOrder, training_order

MAX_STATISTICS_CHIPS = 4096
"""Training chips whose batches give the statistics of a model without pre-trained ones (ours)."""


def stage_for(name: str) -> Stage:
    """Return the stage that trains a row."""

    def work(run: RunDir, recipe: Recipe) -> None:
        _train(run, recipe, name)

    trained = [WEIGHTS] if METHODS[name].trains == "all" else [ADAPTER]
    kept = [HEAD] if METHODS[name].own_logits else []
    return Stage(
        name=f"train-row-{name}",
        settings=lambda recipe: row_settings(name, recipe),
        inputs=lambda run: [run.samples, run.groups, *([run.features("base")] if name == "lift" else [])],
        outputs=lambda run: [run.row(name) / file for file in (*trained, *kept, HISTORY, FACTS)],
        work=work,
        method=name,
    )


def _train(run: RunDir, recipe: Recipe, name: str) -> None:
    chips = open_chips(run, recipe).split("train")
    backbone = open_for_chips(run, recipe, chips)
    n_steps = n_steps_of(name, recipe)
    n_trained = _prepare(backbone, recipe, name, n_steps)
    objective: nn.Module
    if METHODS[name].own_logits:
        objective = Supervised(backbone, classifier_of(name, run, recipe, chips, backbone.feature_size))
    else:
        objective = first_objective(recipe, backbone, chips, loss=loss_of(name, recipe))
    samples = TrainingOrder(
        chips.pixels,
        {"labels": torch.from_numpy(chips.labels.astype(np.int64))},
        spec=backbone.spec,
        n_samples=n_steps * recipe.lora.train_batch_size,
        seed=recipe.seed,
        n_views=recipe.extract.views,
    )
    records = train_adapter(
        objective,
        samples,
        backbone,
        folder=run.checkpoints(f"row-{name}"),
        **loop_options(recipe, name, n_steps),
    )
    if name == "scratch":
        _statistics(backbone, chips, recipe)
    if METHODS[name].trains == "all":
        save_whole(backbone, run.row(name) / WEIGHTS)
    else:
        record = chips_sidecar(run, recipe, name, backbone)
        save_adapter(backbone, PEFT_NAMES["lora"], run.row(name) / ADAPTER, record)
    if isinstance(objective, Supervised):
        save_head(run, name, objective.classifier)
    save_facts(run, name, records, n_trained=n_trained, n_chips=len(chips), n_steps=n_steps)


def _prepare(backbone: Backbone, recipe: Recipe, name: str, n_steps: int) -> int:
    """Make trainable what the row trains, and return how many numbers that are."""
    if METHODS[name].trains != "all":
        attach_first(backbone, recipe.lora, n_steps=n_steps, seed=recipe.seed)
        return n_trainable(backbone)
    if name == "scratch":
        reinitialize(backbone, seed=recipe.seed)
        learn_statistics(backbone)
    return make_trainable(backbone)


def loop_options(recipe: Recipe, name: str, n_steps: int) -> dict[str, Any]:
    """Return the settings of the training loop for a row."""
    return {
        "n_steps": n_steps,
        "batch_size": recipe.lora.train_batch_size,
        "learning_rate": learning_rate_of(name, recipe),
        "checkpointing_steps": recipe.lora.checkpointing_steps,
        "seed": recipe.seed,
        "mixed_precision": recipe.mixed_precision,
        "optimizer": "sgd" if name == "lift" else "adamw",
    }


def _statistics(backbone: Backbone, chips: ChipSet, recipe: Recipe) -> None:
    if not has_statistics(backbone):
        return
    batch_size = recipe.lora.train_batch_size
    order = training_order(len(chips), min(len(chips), MAX_STATISTICS_CHIPS), recipe.seed)
    # A last batch of very few chips would count as much as a full one.
    starts = range(0, max(1, len(order) - batch_size + 1), batch_size)
    batches = (
        read_batch(chips.pixels, [int(i) for i in order[start : start + batch_size]], backbone.spec)
        for start in starts
    )
    estimate_statistics(backbone, batches)


NAME = "clora"


def adapter_folder(root: Path, label: int) -> Path:
    """Return the folder of a class's adapter."""
    return root / f"class-{label:04d}"


def _work(run: RunDir, recipe: Recipe) -> None:
    chips = open_chips(run, recipe).split("train")
    n_steps, unfinished = n_steps_of(NAME, recipe), run.checkpoints(f"row-{NAME}")
    done = unfinished / ADAPTERS  # finished classes outlive a kill, as long as nothing they depend on changes
    records: list[tuple[int, float]] = []
    n_trained, spec = 0, open_for_chips(run, recipe, chips).spec
    for label in tqdm(range(chips.n_classes), desc=titled(f"train {NAME}"), unit="class", disable=no_bar()):
        backbone = open_checked(run, recipe)
        backbone.spec = spec
        attach_first(backbone, recipe.lora, n_steps=n_steps, seed=recipe.seed)
        n_trained += n_trainable(backbone)
        kept = unfinished / f"class-{label:04d}.json"
        if adapter_folder(done, label).is_dir():
            records += [(step, loss) for step, loss in json.loads(kept.read_text())]
            continue
        objective, samples = _class_training(backbone, chips, label, recipe, n_steps)
        folder = unfinished / f"class-{label:04d}"
        own = train_adapter(
            objective, samples, backbone, folder=folder, **loop_options(recipe, NAME, n_steps)
        )
        own = [(label * n_steps + step, loss) for step, loss in own]
        records += own
        write_atomic(kept, json.dumps(own))
        save_adapter(
            backbone,
            PEFT_NAMES["lora"],
            adapter_folder(done, label),
            chips_sidecar(run, recipe, f"{NAME} {label}", backbone),
        )
        shutil.rmtree(folder, ignore_errors=True)
    home = run.row(NAME) / ADAPTERS
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    done.rename(home)
    total = n_steps * chips.n_classes
    save_facts(run, NAME, records, n_trained=n_trained, n_chips=len(chips), n_steps=total)


def _class_training(
    backbone: Backbone, chips: ChipSet, label: int, recipe: Recipe, n_steps: int
) -> tuple[nn.Module, Dataset[dict[str, torch.Tensor]]]:
    """Return the objective and the samples of a class: against the rest, or its own chips if the loss has no labels."""
    n_samples = n_steps * recipe.lora.train_batch_size
    is_member = chips.labels == label
    options = {
        "spec": backbone.spec,
        "n_samples": n_samples,
        "seed": recipe.seed,
        "n_views": recipe.extract.views,
    }
    if recipe.lora.loss not in CLASSIFICATION:
        own = chips.subset(np.flatnonzero(is_member))
        labels = {"labels": torch.from_numpy(own.labels.astype(np.int64))}
        objective = first_objective(recipe, backbone, own)
        samples = TrainingOrder(own.pixels, labels, **options)  # type: ignore[arg-type]
        return objective, first_samples(objective, samples, seed=recipe.seed)
    labels = {"labels": torch.from_numpy(is_member.astype(np.int64))}
    rest = TrainingOrder(chips.pixels, labels, **options)  # type: ignore[arg-type]
    rest.order = alternating_order(is_member, n_samples, recipe.seed)
    return OneVsRest(backbone, seed=recipe.seed), rest


STAGE = Stage(
    name=f"train-row-{NAME}",
    settings=lambda recipe: row_settings(NAME, recipe),
    inputs=lambda run: [run.samples, run.groups],
    outputs=lambda run: [run.row(NAME) / name for name in (ADAPTERS, HISTORY, FACTS)],
    work=_work,
    method=NAME,
)
