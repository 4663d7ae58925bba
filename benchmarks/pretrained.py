"""Check that backbones give the features they should: a plain probe beside the figure published with the weights.

Example: ``python benchmarks/pretrained.py --data DATA --weights WEIGHTS --out benchmarks/results/pretrained.json``.
``DATA`` holds ``aid150`` and ``mstar_soc``, ``WEIGHTS`` holds ``efficientnet_lite0_in1k`` and ``galileo_nano``. The
published figures chose their penalty on the test images; here a tenth of the training chips chooses it.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from machine import describe_machine

from deblora.data.readers.registry import read_chips
from deblora.evaluate.classifiers.classifier import Standardizer
from deblora.evaluate.classifiers.linear import LinearFits
from deblora.evaluate.classifiers.search import select
from deblora.models.backbone import load_backbone
from deblora.train.extract import extract_features

VAL_SHARE = 0.1
PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)


@dataclass(frozen=True)
class Case:
    """One row of the table that comes with the weights."""

    data: str
    backbone: str
    folder: str
    image_size: int
    sensor: str
    train_per_class: int | None
    published: float
    published_random: float


CASES = (
    Case("aid150", "efficientnet-lite0", "efficientnet_lite0_in1k", 160, "S2_RGB", 60, 0.835, 0.2533),
    Case("aid150", "galileo-nano", "galileo_nano", 128, "S2_RGB", 60, 0.609, 0.361),
    Case("mstar_soc", "galileo-nano", "galileo_nano", 128, "S1", None, 0.702, 0.445),
)


def accuracy(case: Case, data: Path, weights: Path, seed: int) -> dict[str, float]:
    """Extract, fit the plain probe, score the test split once."""
    chips = read_chips(data / case.data)
    rng = np.random.default_rng(seed)
    train, test = chips.split("train"), chips.split("test")
    if case.train_per_class is not None:
        chosen = [
            rng.permutation(np.flatnonzero(train.labels == c))[: case.train_per_class]
            for c in range(train.n_classes)
        ]
        train = train.subset(np.sort(np.concatenate(chosen)))
    backbone = load_backbone(
        case.backbone, path=weights / case.folder, image_size=case.image_size, sensor=case.sensor
    )
    x = extract_features(backbone, train.pixels, train.ids, title=f"{case.data} train")
    x_test = extract_features(backbone, test.pixels, test.ids, title=f"{case.data} test")
    is_val = np.zeros(len(x), dtype=bool)
    is_val[rng.permutation(len(x))[: int(VAL_SHARE * len(x))]] = True
    standardizer = Standardizer.fit(x[~is_val], ())
    fits = LinearFits.of(x[~is_val], train.labels[~is_val], train.n_classes, standardizer=standardizer).warm()
    trials = (({"l2": l2}, fits(l2)) for l2 in PENALTIES)
    chosen = select(trials, x[is_val], train.labels[is_val])
    found = float((chosen.classifier.logits(x_test).argmax(axis=1) == test.labels).mean())
    return {"accuracy": round(found, 4), "l2": chosen.record["l2"], "n_train": len(x), "n_test": len(x_test)}


def main() -> None:
    """Run every case and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for case in CASES:
        rows.append({**case.__dict__, **accuracy(case, arguments.data, arguments.weights, arguments.seed)})
        print(json.dumps(rows[-1]), flush=True)
    found = {
        "machine": describe_machine("torch", "numpy", "scipy"),
        "seed": arguments.seed,
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
