"""Tables of the heads: group F1 with intervals, accuracy under other test priors, paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from deblora.data.longtail import Groups
from deblora.errors import DataError
from deblora.evaluate.bootstrap import bootstrap_scores, judged_by_one, stratified_draws, without_interval
from deblora.evaluate.metrics import group_scores, per_class_f1
from deblora.evaluate.priors import Prior, resampled_indices
from deblora.pipeline.tables import interval_cells

PRIORS: tuple[Prior, ...] = ("forward", "uniform", "backward")
N_SETS = 20
"""Test sets per prior (ours)."""
CHOSEN = "chosen_on_validation"
STRONG = ("lora", CHOSEN)
"""The best head on the features of the first adapter, chosen on validation."""
OURS = ("shift", CHOSEN)
"""The best shifted row and head, chosen on validation."""
SEMI = ("semi-supervised", CHOSEN)
"""The head, chosen on validation, that also sees validation features without labels."""
TRANSDUCTIVE = ("transductive", CHOSEN)
"""The same head once it also sees the test features without labels: a row of its own, never pooled with others."""
FAIR = ("ours", CHOSEN)
"""The best strong head or the semi-supervised one, whichever is better on validation chips it did not see."""
BASELINES = (("lora", "cross_entropy"), ("lora", "balanced_softmax"), STRONG)

Name = tuple[str, str]


@dataclass(frozen=True)
class Judged:
    """Predicted test classes of a method and head, and its macro F1 on validation, in [0, 1].

    ``held_out`` is the same on validation chips whose features the head was not fitted to, where it sees any.
    """

    predicted: Int[np.ndarray, " m"]
    validation: float
    held_out: float | None = None


def with_chosen(judged: Mapping[Name, Judged]) -> tuple[dict[Name, Judged], dict[Name, Name]]:
    """Add the rows that validation chooses: the strong head on LoRA features, and one of each kind of ours.

    The plain probe is no strong head. The first row wins ties.

    Returns:
        All rows, and which row stands behind each added one.
    """
    pools = {
        STRONG: [name for name in judged if name[0] == "lora" and name[1] != "cross_entropy"],
        OURS: [name for name in judged if name[0].startswith("shift-")],
        SEMI: [name for name in judged if name[0] == SEMI[0]],
        TRANSDUCTIVE: [name for name in judged if name[0] == TRANSDUCTIVE[0]],
    }
    behind = {
        chosen: max(pool, key=lambda name: judged[name].validation) for chosen, pool in pools.items() if pool
    }
    semi = [name for name in pools[SEMI] if judged[name].held_out is not None]
    if semi and STRONG in behind:
        behind[FAIR] = max([behind[STRONG], *semi], key=lambda name: _fair(judged[name]))
    return {**judged, **{chosen: judged[name] for chosen, name in behind.items()}}, behind


def _fair(row: Judged) -> float:
    return row.validation if row.held_out is None else row.held_out


def prior_accuracies(
    y: Int[np.ndarray, " m"],
    predicted: Int[np.ndarray, " m"],
    train_counts: Int[np.ndarray, " c"],
    *,
    seed: int,
) -> dict[str, float]:
    """Return the accuracy on test sets as imbalanced as the training set, by the direction of their tail.

    The mean over 20 such sets (ours: one alone holds few samples of its rare classes). All methods see the same
    samples for one seed.

    Args:
        y: True test classes.
        predicted: Predicted ones.
        train_counts: Training samples per class.
        seed: Of the sets.

    Returns:
        Keys ``accuracy_forward``, ``accuracy_uniform``, ``accuracy_backward``, in [0, 1]; NaN where a class has no
        test sample.
    """
    factor = float(train_counts.max() / max(1, train_counts.min()))
    hit = y == predicted
    found = {}
    for prior in PRIORS:
        try:
            drawn = [
                resampled_indices(
                    y, train_counts, prior=prior, imbalance_factor=factor, seed=seed * N_SETS + i
                )
                for i in range(N_SETS)
            ]
        except DataError:
            found[f"accuracy_{prior}"] = float("nan")
        else:
            found[f"accuracy_{prior}"] = float(np.mean([hit[kept].mean() for kept in drawn]))
    return found


def score_tables(
    judged: Mapping[Name, Judged],
    y: Int[np.ndarray, " m"],
    groups: Groups,
    train_counts: Int[np.ndarray, " c"],
    *,
    names: Mapping[str, object],
    n_draws: int,
    seed: int,
    baselines: Sequence[Name] = BASELINES,
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Return results in the columns of ``results.csv`` and paired differences in those of ``differences.csv``.

    Args:
        judged: Predictions by method and head.
        y: True test classes.
        groups: Head, middle and tail classes.
        train_counts: Training chips per class.
        names: Data set and backbone, the first columns.
        n_draws: Draws of the bootstrap over test chips, one set for all rows.
        seed: Of the draws; the last column.
        baselines: Rows that others are compared with; absent ones are left out.
    """
    n_classes = len(train_counts)
    draws = stratified_draws(y, rng=np.random.default_rng(seed), n_draws=n_draws)
    hidden = judged_by_one(np.bincount(y, minlength=n_classes), groups)
    drawn = {
        name: without_interval(bootstrap_scores(y, row.predicted, n_classes, groups, draws), hidden)
        for name, row in judged.items()
    }
    points = {
        name: group_scores(per_class_f1(y, row.predicted, n_classes), groups) for name, row in judged.items()
    }
    sizes = {**{name: len(members) for name, members in groups.named().items()}, "all": n_classes}
    last = {"n_test": len(y), "seed": seed}
    results: list[dict[str, object]] = []
    for (method, probe), row in judged.items():
        first = {**names, "method": method, "probe": probe}
        for group, value in points[method, probe].items():
            ends = interval_cells(drawn[method, probe][group])
            score = {"metric": "macro_f1", "group": group, "value": value, **ends}
            results.append({**first, **score, "n_classes": sizes[group], **last})
        for metric, value in prior_accuracies(y, row.predicted, train_counts, seed=seed).items():
            ends = interval_cells(np.array([np.nan]))
            score = {"metric": metric, "group": "all", "value": value, **ends}
            results.append({**first, **score, "n_classes": n_classes, **last})
    differences: list[dict[str, object]] = [
        {
            "method": name[0],
            "probe": name[1],
            "baseline": baseline[0],
            "baseline_probe": baseline[1],
            "group": group,
            "value": points[name][group] - points[baseline][group],
            **interval_cells(drawn[name][group] - drawn[baseline][group]),
        }
        for name in judged
        for baseline in baselines
        if baseline in judged and baseline != name
        for group in points[name]
    ]
    return results, differences
