"""How often 95 % intervals hold the truth, from 5 test samples per class on: ours against percentiles of draws.

Two methods predict classes by known confusion matrices, with errors that go together, so that their true macro F1 and
its difference are known. Single-threaded; about two minutes.

    python benchmarks/coverage.py > benchmarks/results/coverage.json
"""

import json

import numpy as np

from deblora.data.longtail import Groups
from deblora.evaluate.intervals import bootstrap_f1, group_estimates, stratified_draws
from deblora.evaluate.metrics import grouped_means, per_class_f1

N_REPEATS, N_DRAWS = 400, 300
ACCURACIES = {"hard": (0.95, 0.40), "easy": (0.98, 0.85)}
"""Share of right predictions of the most and the least frequent class."""


def confusion(n_classes: int, ends: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Return class probabilities of predictions, by true class."""
    right = np.linspace(*ends, n_classes)
    table = rng.dirichlet(np.full(n_classes, 0.5), size=n_classes) * (1 - np.eye(n_classes))
    table *= ((1 - right) / table.sum(axis=1))[:, None]
    return table + np.diag(right)


def draw(table: np.ndarray, y: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Return predictions: right for small ``u``, so that two methods that share it err together."""
    n_classes = len(table)
    right_first = np.array([[c, *np.delete(np.arange(n_classes), c)] for c in range(n_classes)])
    steps = np.take_along_axis(table, right_first, axis=1).cumsum(axis=1)
    place = (u[:, None] > steps[y]).sum(axis=1).clip(max=n_classes - 1)
    return right_first[y, place]


def coverage(n_classes: int, per_class: int, ends: tuple[float, float]) -> dict[str, dict[str, float]]:
    """Return the share of intervals that hold the truth, by what they are of, and how wide they are."""
    rng = np.random.default_rng(0)
    n_tail = max(2, n_classes // 3)
    groups = Groups(tuple(range(n_classes - 2 * n_tail)), tuple(range(n_classes - 2 * n_tail, n_classes - n_tail)),
                    tuple(range(n_classes - n_tail, n_classes)))  # fmt: skip
    y = np.repeat(np.arange(n_classes), per_class)
    held: dict[str, list[tuple[bool, float]]] = {}
    for i in range(N_REPEATS):
        if i % 50 == 0:
            tables = [confusion(n_classes, (ends[0], ends[1] - lower), rng) for lower in (0.0, 0.1)]
            true = [2 * np.diagonal(table) / (1 + table.sum(axis=0)) for table in tables]
        u = rng.random(len(y))
        other = np.where(rng.random(len(y)) < 0.5, u, rng.random(len(y)))
        guesses = [draw(table, y, own) for table, own in zip(tables, (u, other), strict=True)]
        draws = stratified_draws(y, n_classes, rng=rng, n_draws=N_DRAWS)
        f1 = [per_class_f1(y, guess, n_classes) for guess in guesses]
        drawn = [bootstrap_f1(y, guess, draws) for guess in guesses]
        cases = {
            "score": (f1[0], drawn[0], true[0]),
            "difference": (f1[0] - f1[1], drawn[0] - drawn[1], true[0] - true[1]),
        }
        for kind, (value, over, truth) in cases.items():
            found = group_estimates(value, over, groups, draws.n_units, is_difference=kind == "difference")
            means = grouped_means(over, groups)
            for group, members in (("tail", groups.tail), ("all", range(n_classes))):
                aim = truth[list(members)].mean()
                ends_of = {
                    "ours": (found[group].ci_lower, found[group].ci_upper),
                    "percentiles": np.percentile(means[group], [2.5, 97.5]),
                }
                for name, (low, high) in ends_of.items():
                    if np.isfinite(low) and high > low:
                        held.setdefault(f"{name}, {kind}, {group}", []).append(
                            (low <= aim <= high, high - low)
                        )
    return {
        name: {
            "coverage": round(float(np.mean([h for h, _ in own])), 3),
            "width": round(float(np.mean([w for _, w in own])), 3),
            "n": len(own),
        }
        for name, own in held.items()
    }


if __name__ == "__main__":
    print(
        json.dumps(
            {
                f"{n_classes} classes, {per_class} test samples each, {name}": coverage(
                    n_classes, per_class, ends
                )
                for n_classes in (4, 10, 30)
                for per_class in (5, 10, 30)
                for name, ends in ACCURACIES.items()
            },
            indent=1,
        )
    )
