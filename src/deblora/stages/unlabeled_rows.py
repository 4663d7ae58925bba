"""Rows of the comparison whose heads also see features without labels: of validation chips, or of the test chips."""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float

from deblora.artifacts import FeatureTable, Groups
from deblora.data.chips import ChipSet
from deblora.heads.search import Chosen, Samples
from deblora.heads.unlabeled_trials import semi_supervised_head, transductive_head
from deblora.run_dir import RunDir

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
    return np.hstack([FeatureTable.load(run.features(kind)).rows(ids) for kind in kinds])


def samples_of(
    run: RunDir, kinds: tuple[str, ...], splits: Mapping[str, ChipSet], groups: Groups, *, seed: int
) -> tuple[Samples, Float[np.ndarray, "m d"], list[int]]:
    """Return what a head is fitted and chosen on, the test features, and the columns of each kind.

    Raises:
        ArtifactError: If a table is missing, damaged or lacks a chip.
    """
    train, val, test = (splits[name] for name in ("train", "val", "test"))
    features = side_by_side(run, kinds, train.ids)
    samples = Samples(
        x=features,
        y=train.labels,
        x_val=side_by_side(run, kinds, val.ids),
        y_val=val.labels,
        n_classes=train.n_classes,
        groups=groups,
        statistics_of=features,
        seed=seed,
    )
    return samples, side_by_side(run, kinds, test.ids), [features.shape[1] // len(kinds)] * len(kinds)


def unlabeled_heads(
    row: str, found: dict[str, tuple[Samples, Float[np.ndarray, "m d"], list[int]]]
) -> Iterator[tuple[str, Chosen]]:
    """Fit the heads of a row of :data:`UNLABELED`.

    Args:
        row: ``semi-supervised`` or ``transductive``; only the latter looks at the test features.
        found: By head, what it is fitted and chosen on, the test features, and the columns of each kind.

    Yields:
        Name and chosen head.
    """
    for name, (samples, test, sizes) in found.items():
        chosen = semi_supervised_head(samples, sizes=sizes)
        yield (
            name,
            chosen if row == SEMI_SUPERVISED else transductive_head(samples, chosen, test, sizes=sizes),
        )
