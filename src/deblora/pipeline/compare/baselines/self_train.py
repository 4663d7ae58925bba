"""Stage ``train-row-self-trained``: an adapter learns from training chips and from soft labels of validation chips.

The soft labels come from features alone (``classifiers.semi_supervised``) with fixed settings and equal shares of all
classes: no label of a validation chip reaches the adapter. The chips themselves do, so validation scores of this row
say nothing.
"""

import numpy as np
import torch

from deblora.data.chips import ChipSet
from deblora.evaluate.classifiers import semi_supervised
from deblora.models.adapters.lora import n_trainable, save_adapter
from deblora.pipeline.adapter import PEFT_NAMES, attach_first, chips_sidecar, train_adapter
from deblora.pipeline.classify.chips import open_chips
from deblora.pipeline.classify.evaluate.fit import side_by_side
from deblora.pipeline.compare.baselines.settings import (
    SELF_TRAINED,
    n_steps_of,
    row_settings,
    save_facts,
    save_head,
)
from deblora.pipeline.compare.baselines.train import loop_options
from deblora.pipeline.open_model import open_for_chips
from deblora.recipe.classify import Recipe
from deblora.run.artifacts import FeatureTable
from deblora.run.run_dir import ADAPTER, FACTS, HEAD, HISTORY, SOFT_LABELS, RunDir
from deblora.run.stage import Stage
from deblora.train.classifiers import SoftLabelClassifier, Supervised
from deblora.train.samples import TrainingOrder


def _work(run: RunDir, recipe: Recipe) -> None:
    chips = open_chips(run, recipe)
    both = _by_content(run, chips)
    train, others = both.split("train"), both.split("val")
    known, unknown = (side_by_side(run, ("lora", "base"), own.ids) for own in (train, others))
    adapted_size = FeatureTable.load(run.features("lora")).features.shape[1]
    soft = semi_supervised.soft_labels(
        known, train.labels, train.n_classes, unknown, adapted_size=adapted_size
    )
    targets = torch.from_numpy(np.vstack([np.eye(train.n_classes)[train.labels], soft])).float()
    backbone = open_for_chips(run, recipe, train)  # bands are normalized by training chips alone
    n_steps = n_steps_of(SELF_TRAINED, recipe)
    attach_first(backbone, recipe.lora, n_steps=n_steps, seed=recipe.seed)
    classifier = SoftLabelClassifier(
        backbone.feature_size, log_prior=targets.mean(dim=0).log(), seed=recipe.seed
    )
    samples = TrainingOrder(
        both.pixels,
        {"labels": targets},
        spec=backbone.spec,
        n_samples=n_steps * recipe.lora.train_batch_size,
        seed=recipe.seed,
        n_views=recipe.extract.views,
    )
    folder = run.checkpoints(f"row-{SELF_TRAINED}")
    options = loop_options(recipe, SELF_TRAINED, n_steps)
    records = train_adapter(Supervised(backbone, classifier), samples, backbone, folder=folder, **options)
    record = chips_sidecar(run, recipe, SELF_TRAINED, backbone)
    save_adapter(backbone, PEFT_NAMES["lora"], run.row(SELF_TRAINED) / ADAPTER, record)
    save_head(run, SELF_TRAINED, classifier)
    FeatureTable(others.ids, soft.astype(np.float32), {"row": SELF_TRAINED}).save(
        run.row(SELF_TRAINED) / SOFT_LABELS
    )
    save_facts(
        run,
        SELF_TRAINED,
        records,
        n_trained=n_trainable(backbone),
        n_chips=len(both),
        n_steps=n_steps,
    )


def _by_content(run: RunDir, chips: ChipSet) -> ChipSet:
    """Return training chips, then validation chips in the order of their features.

    Ids of validation chips may name their classes, and the order of training follows that of the chips.
    """
    splits = np.array(chips.splits)
    train, others = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "val")
    features = FeatureTable.load(run.features("base")).rows(tuple(chips.ids[i] for i in others))
    return chips.subset(np.concatenate([train, others[np.lexsort(features.T)]]))


STAGE = Stage(
    name=f"train-row-{SELF_TRAINED}",
    settings=lambda recipe: [
        *row_settings(SELF_TRAINED, recipe),
        semi_supervised.TEACHER_SHRINKAGE,
        semi_supervised.TEACHER_TEMPERATURE,
        semi_supervised.SHARPENING,
    ],
    inputs=lambda run: [run.samples, run.groups, run.features("lora"), run.features("base")],
    outputs=lambda run: [
        run.row(SELF_TRAINED) / file for file in (ADAPTER, HEAD, SOFT_LABELS, HISTORY, FACTS)
    ],
    work=_work,
    method=SELF_TRAINED,
)
