"""When do de-biased centers help? Gaussian features in the paper's regime, with a knob for the train-test mismatch.

Usage: ``python scripts/simulate_regime.py --out results/6-paper-regime/regime.csv``. Writes one row per draw, coverage,
features and probe.

Every sample is ``class + attribute + interaction + noise``: attributes (viewpoint, surroundings) are shared by all
classes, as the paper assumes of tail classes and the clusters they touch. Tail classes show only a share ``coverage``
of the attributes in training, and all of them in validation and test; 1 is no mismatch. The long tail is that of the
paper: 8,600 samples of the first class, 100 of the last, imbalance 86, head classes near saturation.
"""

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from deblora.data.longtail import Groups, exponential_counts
from deblora.debias.kmeans.estimator import cluster_features
from deblora.debias.variants import moved_features
from deblora.evaluate.classifiers.classifier import Standardizer
from deblora.evaluate.classifiers.linear import LinearFits, log_prior
from deblora.evaluate.classifiers.search import select
from deblora.evaluate.metrics import group_scores, per_class_f1

N_CLASSES, N_DIMENSIONS, N_ATTRIBUTES = 15, 32, 8
N_VAL, N_TEST = 40, 200  # per class
CLASS_SCALE, ATTRIBUTE_SCALE, INTERACTION_SCALE = 0.7, 0.7, 0.3  # of the noise, per dimension
PENALTIES = (1e-1, 1e-2, 1e-3)
ROWS = ("none", "contract", "contract-class-mean", "contract-random-head-mean", "shift")
N_CLUSTERS, RHO = 32, 10.0
GROUPS = Groups(head=tuple(range(5)), middle=tuple(range(5, 10)), tail=tuple(range(10, 15)))


@dataclass(frozen=True)
class Split:
    """Features with their classes."""

    x: Float[np.ndarray, "n d"]
    y: Int[np.ndarray, " n"]


class World:
    """Class means, attributes and how they interact, drawn once per seed."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.classes = CLASS_SCALE * rng.standard_normal((N_CLASSES, N_DIMENSIONS))
        self.attributes = ATTRIBUTE_SCALE * rng.standard_normal((N_ATTRIBUTES, N_DIMENSIONS))
        self.interactions = INTERACTION_SCALE * rng.standard_normal((N_CLASSES, N_ATTRIBUTES, N_DIMENSIONS))
        self.shares = rng.dirichlet(np.ones(N_ATTRIBUTES), size=N_CLASSES)
        self.order = rng.permuted(np.tile(np.arange(N_ATTRIBUTES), (N_CLASSES, 1)), axis=1)

    def shown(self, coverage: float) -> Bool[np.ndarray, "c a"]:
        """Return which attributes a class shows in training; head and middle classes show all."""
        shown = np.ones((N_CLASSES, N_ATTRIBUTES), dtype=bool)
        n_hidden = N_ATTRIBUTES - max(1, round(coverage * N_ATTRIBUTES))
        for c in GROUPS.tail:
            shown[c, self.order[c, :n_hidden]] = False
        return shown

    def draw(
        self, counts: Int[np.ndarray, " c"], shown: Bool[np.ndarray, "c a"], rng: np.random.Generator
    ) -> Split:
        """Draw that many samples of each class, with the attributes that it shows."""
        labels = np.repeat(np.arange(N_CLASSES), counts)
        shares = self.shares * shown
        shares /= shares.sum(axis=1, keepdims=True)
        chosen = np.concatenate(
            [rng.choice(N_ATTRIBUTES, size=n, p=own) for n, own in zip(counts, shares, strict=True)]
        )
        means = self.classes[labels] + self.attributes[chosen] + self.interactions[labels, chosen]
        return Split(means + rng.standard_normal(means.shape), labels)


def scores(seed: int, coverage: float) -> Iterator[dict[str, object]]:
    """Yield macro F1 of every group for all features and both probes; penalties are chosen on validation."""
    rng = np.random.default_rng(seed)
    world = World(rng)
    everything = np.ones((N_CLASSES, N_ATTRIBUTES), dtype=bool)
    counts = exponential_counts(N_CLASSES, largest=8600, imbalance_factor=86)
    train = world.draw(counts, world.shown(coverage), rng)
    val = world.draw(np.full(N_CLASSES, N_VAL), everything, rng)
    test = world.draw(np.full(N_CLASSES, N_TEST), everything, rng)
    clusters = None
    if "contract" in ROWS:
        clusters = cluster_features(train.x, n_clusters=N_CLUSTERS, rho=RHO, seed=seed)[:2]
    for row in ROWS:
        moved = train.x
        if row != "none":
            moved = moved_features(row, train.x, train.y, GROUPS, clusters=clusters, seed=seed).features
        sizes = None if row == "shift" else ()  # the shift works on unit features
        standardizer = Standardizer.fit(train.x, sizes)
        fits = LinearFits.of(moved, train.y, N_CLASSES, standardizer=standardizer).warm()
        for loss, tau in (("cross_entropy", 0.0), ("balanced_softmax", 1.0)):
            prior = tau * log_prior(train.y, N_CLASSES)
            trials = (({"l2": l2}, fits(l2).adjusted(prior)) for l2 in PENALTIES)
            best = select(trials, val.x, val.y).classifier
            f1 = per_class_f1(test.y, best.logits(test.x).argmax(axis=1), N_CLASSES)
            groups = {name: round(100 * value, 3) for name, value in group_scores(f1, GROUPS).items()}
            yield {"seed": seed, "coverage": coverage, "features": row, "classifier": loss, **groups}


def main() -> None:
    """Write all scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--coverages", type=float, nargs="+", default=(0.125, 0.25, 0.5, 1.0))
    arguments = parser.parse_args()
    points = [(seed, coverage) for seed in range(arguments.seeds) for coverage in arguments.coverages]
    found = [row for point in tqdm(points, unit="draw") for row in scores(*point)]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)


if __name__ == "__main__":
    main()
