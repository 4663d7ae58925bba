"""What a row with its own training is made of, and which settings it depends on."""

import csv
import io
import json

import numpy as np
import torch
from torch import nn

from deblora.data.chips import ChipSet
from deblora.debias.centers import class_means
from deblora.evaluate.classifiers.linear import inverse_log_prior, log_prior
from deblora.files import write_atomic
from deblora.pipeline.adapter import adapter_settings
from deblora.pipeline.audited import groups_of
from deblora.pipeline.open_model import model_settings
from deblora.recipe.classify import Recipe
from deblora.recipe.methods import METHODS
from deblora.run.artifacts import FeatureTable
from deblora.run.run_dir import FACTS, HEAD, HISTORY, RunDir
from deblora.train.classifiers import (
    Classifier,
    LiftClassifier,
    ResltClassifier,
    SadeClassifier,
    SoftLabelClassifier,
    branch_members,
)

SELF_TRAINED = "self-trained"
"""The method whose adapter also learns from soft labels of validation chips."""

CLASSIFICATION = ("cross_entropy", "balanced_softmax")


def n_steps_of(name: str, recipe: Recipe) -> int:
    """Return the optimizer steps of a row, of each adapter for clora."""
    rows = recipe.rows
    own = {"scratch": rows.scratch_max_train_steps, "clora": rows.clora_max_train_steps}.get(name)
    return own or rows.max_train_steps or recipe.lora.max_train_steps


def loss_of(name: str, recipe: Recipe) -> str:
    """Return the loss of a row that ends in a throw-away head."""
    if name == "lora-bs":
        return "balanced_softmax"
    given = recipe.rows.loss or recipe.lora.loss
    return given if given in CLASSIFICATION else "cross_entropy"


def learning_rate_of(name: str, recipe: Recipe) -> float:
    """Return the peak learning rate of a row."""
    rows = recipe.rows
    own = {
        "scratch": rows.scratch_learning_rate,
        "fine-tune": rows.fine_tune_learning_rate,
        "lift": rows.lift_learning_rate,
    }
    return own.get(name, recipe.lora.learning_rate)


def row_settings(name: str, recipe: Recipe) -> list[object]:
    """Return what the training of a row depends on, and nothing that only other rows depend on."""
    lora = adapter_settings(recipe)
    for key in ("loss", "learning_rate", "max_train_steps"):
        lora.pop(key)
    own: dict[str, object] = {
        "lift": recipe.rows.lift_scale,
        "reslt": recipe.rows.reslt_beta,
        "sade": recipe.rows.sade_tau,
        "clora": recipe.lora.loss,
    }
    return [
        name,
        model_settings(recipe.backbone),
        lora,
        n_steps_of(name, recipe),
        learning_rate_of(name, recipe),
        "" if METHODS[name].own_logits or name == "clora" else loss_of(name, recipe),
        own.get(name),
        recipe.mixed_precision,
    ]


def classifier_of(name: str, run: RunDir, recipe: Recipe, train: ChipSet, feature_size: int) -> Classifier:
    """Return the fresh classifier of a method that is one itself; labels of training chips are read only."""
    prior = _float(log_prior(train.labels, train.n_classes))
    if name == SELF_TRAINED:  # its own prior, which only training needs, is stored with its weights
        return SoftLabelClassifier(feature_size, log_prior=prior, seed=recipe.seed)
    if name == "lift":
        base = FeatureTable.load(run.features("base")).rows(train.ids)
        means = class_means(base, train.labels, train.n_classes)
        return LiftClassifier(_float(means), log_prior=prior, scale=recipe.rows.lift_scale)
    if name == "reslt":
        groups = groups_of(run)
        members = branch_members((groups.head, groups.middle, groups.tail), train.n_classes)
        return ResltClassifier(feature_size, in_branch=members, beta=recipe.rows.reslt_beta, seed=recipe.seed)
    inverse = _float(inverse_log_prior(train.labels, train.n_classes))
    return SadeClassifier(
        feature_size, log_prior=prior, inverse_log_prior=inverse, tau=recipe.rows.sade_tau, seed=recipe.seed
    )


def save_facts(
    run: RunDir, name: str, records: list[tuple[int, float]], *, n_trained: int, n_chips: int, n_steps: int
) -> None:
    """Write the loss by step, and what the table of costs says of a training.

    Args:
        run: Where.
        name: The row.
        records: Step and loss.
        n_trained: Trained numbers of the extractor; heads that are thrown away do not count.
        n_chips: Training chips.
        n_steps: Optimizer steps, over all adapters of the row.
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([("step", "loss"), *records])
    write_atomic(run.row(name) / HISTORY, buffer.getvalue())
    facts = {"n_trained": n_trained, "n_chips": n_chips, "n_steps": n_steps}
    write_atomic(run.row(name) / FACTS, json.dumps(facts))


def save_head(run: RunDir, name: str, head: nn.Module) -> None:
    """Write the classifier of a row as safetensors."""
    from safetensors.torch import save

    state = {key: value.detach().cpu().contiguous() for key, value in head.state_dict().items()}
    write_atomic(run.row(name) / HEAD, save(state))


def _float(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))
