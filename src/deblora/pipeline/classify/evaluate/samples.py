"""Rows of the comparison whose heads also see features without labels: of validation chips, or of the test chips."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from deblora.data.chips import ChipSet
from deblora.data.longtail import Groups
from deblora.evaluate.heads.search import Chosen, Samples
from deblora.evaluate.heads.semi_supervised import (
    ENOUGH,
    held_out_predictions,
    n_short,
    semi_supervised_head,
    transductive_head,
)
from deblora.recipe.classify import ROWS
from deblora.run.artifacts import FeatureTable
from deblora.run.run_dir import FEATURES, RunDir

log = logging.getLogger("deblora")

SEMI_SUPERVISED = "semi-supervised"
TRANSDUCTIVE = "transductive"
UNLABELED = (SEMI_SUPERVISED, TRANSDUCTIVE)

KINDS = {"gaussians_lora": ("lora",), "gaussians_both": ("lora", "base")}
"""Heads of these rows: features of the first adapter alone, or with those of the base model beside them."""


def side_by_side(run: RunDir, kinds: tuple[str, ...], ids: tuple[str, ...]) -> Float[np.ndarray, "n d"]:
    """Return features of all kinds for these chips, one kind after the other.

    Raises:
        ArtifactError: If a table is missing, damaged or lacks a chip.
    """
    return np.hstack([FeatureTable.load(table_of(run, kind)).rows(ids) for kind in kinds])


def table_of(run: RunDir, kind: str) -> Path:
    """Return the file of a table: ``base``, ``lora``, ``deblora``, or a row with a training of its own."""
    return run.row(kind) / FEATURES if kind in ROWS else run.features(kind)


def samples_of(
    run: RunDir, kinds: tuple[str, ...], splits: Mapping[str, ChipSet], groups: Groups, *, seed: int
) -> Samples:
    """Return what a head is fitted and chosen on.

    Raises:
        ArtifactError: If a table is missing, damaged or lacks a chip.
    """
    train, val = splits["train"], splits["val"]
    features = side_by_side(run, kinds, train.ids)
    return Samples(
        x=features,
        y=train.labels,
        x_val=side_by_side(run, kinds, val.ids),
        y_val=val.labels,
        n_classes=train.n_classes,
        groups=groups,
        statistics_of=features,
        seed=seed,
    )


def warn_of_few(method: str, y_val: Int[np.ndarray, " v"], n_classes: int) -> None:
    """Log it if a class has so few validation chips that the validation score of these rows says little."""
    n_few = n_short(y_val, n_classes)
    if n_few:
        log.warning(
            "%s: %d of %d classes have fewer than %d validation chips, too few unlabeled ones; do not trust its "
            "validation score",
            method,
            n_few,
            n_classes,
            ENOUGH,
        )


def unlabeled_head(samples: Samples, *, n_kinds: int, test: Float[np.ndarray, "m d"] | None = None) -> Chosen:
    """Fit a head that also sees validation features without labels, or with ``test`` those instead (transductive)."""
    sizes = _sizes(samples, n_kinds)
    chosen = semi_supervised_head(samples, sizes=sizes)
    return chosen if test is None else transductive_head(samples, chosen, test, sizes=sizes)


def unseen_predictions(samples: Samples, chosen: Chosen, *, n_kinds: int) -> Int[np.ndarray, " v"]:
    """Return validation predictions by heads that did not see the chip, with the settings that were chosen."""
    return held_out_predictions(
        samples,
        shrinkage=float(chosen.record["shrinkage"]),
        temperature=float(chosen.record["temperature"]),
        sizes=_sizes(samples, n_kinds),
    )


def _sizes(samples: Samples, n_kinds: int) -> list[int]:
    return [samples.x.shape[1] // n_kinds] * n_kinds
