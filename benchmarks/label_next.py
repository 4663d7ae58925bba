"""What labels of chosen chips bring: strategies of `deblora suggest` on pools with a known truth.

The classes of a data set are ranked at random, training chips drawn to a long tail of 50:1 (rare classes have 1 to 3),
and a pool from the chips that are left: long-tailed like the labels, uniform, or reversed. Each strategy chooses chips,
whose true labels are added; the classifier (balanced softmax, penalty by cross-validation on the first labels) is then
fitted again and judged on test chips that no choice sees. Features are frozen, with the mean of four flips.

    python benchmarks/label_next.py data/mstar_soc --image-size 112 --out results/8-label-next/mstar.csv
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from deblora.data.longtail import exponential_counts
from deblora.data.readers.registry import read_chips
from deblora.evaluate.classifiers.cross_validation import fit_cross_validated
from deblora.evaluate.classifiers.linear import LinearFits, log_prior
from deblora.evaluate.metrics import per_class_f1
from deblora.evaluate.suggest import STRATEGIES, propose
from deblora.models.backbone import load_backbone
from deblora.train.extract import extract_features

POOLS, BUDGETS = ("long-tailed", "uniform", "reversed"), (10, 20, 50, 100, 200)
RANDOM_BUDGETS = (*BUDGETS, 300, 400, 500, 600, 700, 800)
FACTOR, N_TEST = 50, 60
COLUMNS = ("pool", "strategy", "rounds", "n_labels", "seed", "tail", "all", "n_rare", "precision", "seconds")


def features_of(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, int]:
    """Return features and classes of all chips; they are kept beside the result."""
    chips = read_chips(options.data)
    kept = options.out.with_suffix(".npz")
    if kept.is_file():
        return np.load(kept)["features"].astype(np.float64), chips.labels, chips.n_classes
    backbone = load_backbone(options.backbone, path=options.path, image_size=options.image_size)
    features = extract_features(backbone, chips.pixels, chips.ids, batch_size=64, n_views=4)
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.savez(kept, features=features.astype(np.float16))
    return features.astype(np.float16).astype(np.float64), chips.labels, chips.n_classes


def draw(y: np.ndarray, n_classes: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return labeled chips, test chips, and a pool of each kind, as positions; classes by falling frequency."""
    order = rng.permutation(n_classes)
    members = [rng.permutation(np.flatnonzero(y == c)) for c in order]
    n_test = min(N_TEST, *(len(own) // 4 for own in members))
    test, free = [own[:n_test] for own in members], [own[n_test:] for own in members]
    room = min(len(own) for own in free)
    n_labeled = exponential_counts(n_classes, largest=min(100, room // 2), imbalance_factor=FACTOR)
    labeled = [own[:n] for own, n in zip(free, n_labeled, strict=True)]
    left = [own[n:] for own, n in zip(free, n_labeled, strict=True)]
    most = min(150, room - int(n_labeled.max()))
    tail = exponential_counts(n_classes, largest=most, imbalance_factor=FACTOR / 5)
    sizes = {"long-tailed": tail, "reversed": tail[::-1], "uniform": np.full(n_classes, int(tail.mean()))}
    parts = {
        name: np.concatenate([own[:n] for own, n in zip(left, counts, strict=True)])
        for name, counts in sizes.items()
    }
    return {"labeled": np.concatenate(labeled), "test": np.concatenate(test), "order": order, **parts}


def judge(
    x: np.ndarray,
    y: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    l2: float,
    n_classes: int,
    tail: np.ndarray,
) -> tuple[float, float]:
    """Return macro F1 over tail and all classes."""
    fitted = LinearFits.of(x[train], y[train], n_classes).fit(l2).adjusted(log_prior(y[train], n_classes))
    f1 = per_class_f1(y[test], fitted.logits(x[test]).argmax(axis=1), n_classes)
    return float(f1[tail].mean()), float(f1.mean())


def simulate(x: np.ndarray, y: np.ndarray, n_classes: int, seed: int) -> list[dict[str, object]]:
    """Return a line per pool, strategy, number of rounds and budget."""
    rng = np.random.default_rng(seed)
    drawn = draw(y, n_classes, rng)
    start, test = drawn["labeled"], drawn["test"]
    tail = drawn["order"][-(n_classes // 3) :]
    found = fit_cross_validated(x[start], y[start], n_classes, rng=rng)
    lines: list[dict[str, object]] = []

    def line(pool: str, strategy: str, rounds: int, chosen: np.ndarray, right: float, seconds: float) -> None:
        scores = judge(x, y, np.concatenate([start, chosen]), test, found.l2, n_classes, tail)
        n_rare = int(np.isin(y[chosen], tail).sum())
        values = (pool, strategy, rounds, len(chosen), seed, *scores, n_rare, right, round(seconds, 2))
        lines.append(dict(zip(COLUMNS, values, strict=True)))

    for pool in POOLS:
        free = drawn[pool]
        line(pool, "start", 1, free[:0], float("nan"), 0.0)
        for strategy in STRATEGIES:
            budgets = [n for n in (RANDOM_BUDGETS if strategy == "random" else BUDGETS) if n <= len(free)]
            for n in budgets:
                begin = time.process_time()
                proposals = propose(
                    found.classifier.logits(x[free]), x[free], n, temperature=found.temperature,
                    counts=np.bincount(y[start], minlength=n_classes), known=x[start], strategy=strategy,
                    rng=np.random.default_rng(seed + 100),
                )  # fmt: skip
                seconds = time.process_time() - begin
                rare = np.isin(proposals.classes, tail)
                hits = y[free[proposals.indices]] == proposals.classes
                right = float(hits[rare].mean()) if rare.any() else float("nan")
                line(pool, strategy, 1, free[proposals.indices], right, seconds)
        for strategy in ("apart", "half-sure", "margin"):
            chosen, failed, fitted = free[:0], np.zeros(n_classes, dtype=np.int64), found
            while len(chosen) < 100:
                known = np.concatenate([start, chosen])
                rest = np.setdiff1d(free, chosen)
                proposals = propose(
                    fitted.classifier.logits(x[rest]), x[rest], 20, temperature=fitted.temperature,
                    counts=np.bincount(y[known], minlength=n_classes), known=x[known], failed=failed, strategy=strategy,
                    rng=np.random.default_rng(seed + 100 + len(chosen)),
                )  # fmt: skip
                new = rest[proposals.indices]
                wrong = proposals.classes[y[new] != proposals.classes]
                failed = failed + np.bincount(wrong, minlength=n_classes)
                chosen = np.concatenate([chosen, new])
                known = np.concatenate([start, chosen])
                fitted = fit_cross_validated(
                    x[known], y[known], n_classes, rng=np.random.default_rng(seed), penalties=(found.l2,)
                )
            line(pool, strategy, len(chosen) // 20, chosen, float("nan"), 0.0)
    return lines


def main() -> None:
    """Simulate seeds that are not there yet, and write all lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--path", default="weights/efficientnet_lite0_in1k")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    x, y, n_classes = features_of(options)
    lines: list[dict[str, object]] = []
    if options.out.is_file():
        with options.out.open(newline="") as file:
            lines = [dict(row) for row in csv.DictReader(file)]
    done = {int(str(row["seed"])) for row in lines}
    for seed in range(options.seeds):
        if seed not in done:
            with threadpool_limits(limits=1):
                lines += simulate(x, y, n_classes, seed)
            with options.out.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(lines)


if __name__ == "__main__":
    main()
