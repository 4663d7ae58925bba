"""Stage ``train-row-clora``: class-wise LoRA without a leak, one adapter per class on the same frozen model.

The authors' ship scripts extract the features of a chip through the adapter of its true class, for test chips too. Here
every chip, whatever its class, gets the mean of its features through all adapters. Training costs C times as much as
one adapter; extraction less, because the layers before the first adapted one are computed once for all adapters.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from deblora.data.chips import ChipSet
from deblora.models.adapters.lora import n_trainable, save_adapter
from deblora.models.backbone import Backbone
from deblora.pipeline.adapter import PEFT_NAMES, attach_first, chips_sidecar, train_adapter
from deblora.pipeline.classify.chips import open_chips
from deblora.pipeline.compare.baselines.settings import CLASSIFICATION, n_steps_of, row_settings, save_facts
from deblora.pipeline.compare.baselines.train import loop_options
from deblora.pipeline.objective import first_objective, first_samples
from deblora.pipeline.open_model import open_checked, open_for_chips
from deblora.progress import titled
from deblora.recipe.classify import Recipe
from deblora.run.run_dir import ADAPTERS, FACTS, HISTORY, RunDir
from deblora.run.stage import Stage
from deblora.train.classifiers import OneVsRest, alternating_order
from deblora.train.samples import TrainingOrder

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
    for label in tqdm(range(chips.n_classes), desc=titled(f"train {NAME}"), unit="class"):
        backbone = open_checked(run, recipe)
        backbone.spec = spec
        attach_first(backbone, recipe.lora, n_steps=n_steps, seed=recipe.seed)
        n_trained += n_trainable(backbone)
        if adapter_folder(done, label).is_dir():
            continue
        objective, samples = _class_training(backbone, chips, label, recipe, n_steps)
        folder = unfinished / f"class-{label:04d}"
        own = train_adapter(
            objective, samples, backbone, folder=folder, **loop_options(recipe, NAME, n_steps)
        )
        records += [(label * n_steps + step, loss) for step, loss in own]
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
    shutil.rmtree(unfinished, ignore_errors=True)


def _class_training(
    backbone: Backbone, chips: ChipSet, label: int, recipe: Recipe, n_steps: int
) -> tuple[nn.Module, Dataset[dict[str, torch.Tensor]]]:
    """Return the objective and the samples of a class: against the rest, or its own chips if the loss has no labels."""
    n_samples = n_steps * recipe.lora.train_batch_size
    is_member = chips.labels == label
    options = {"spec": backbone.spec, "n_samples": n_samples, "seed": recipe.seed, "flip": recipe.lora.flip}
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
)
