"""The default, ``deblora run FOLDER``, on eight folders that are long-tailed themselves, with drawn validation.

``python benchmarks/own_folders.py DATA WEIGHTS OUT`` writes the folders ``train/<class>``, ``test/<class>`` below
``OUT``, runs the default on each (hours on two cores; finished stages are skipped when it is started again) and writes
``folders.csv``: macro F1 on the test of the model for new chips and of what is simple. ``DATA`` holds ``aid150``,
``mstar_soc``, ``hit_uav_obb`` and ``opensarship_mini``, ``WEIGHTS`` the folder ``efficientnet_lite0_in1k``.
"""

import csv
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deblora.cli.main import main
from deblora.data.chips import ChipSet
from deblora.data.readers.registry import read_chips
from deblora.data.simulate.chip_folder import Simulation, write_chips
from deblora.data.sources import Reading
from deblora.recipe.methods import FLOORS


@dataclass(frozen=True)
class Folder:
    """What a folder is drawn from, and how its run is kept short."""

    source: str
    largest: int
    imbalance: float
    seed: int
    n_test: int
    sizes: str
    n_looked_at: int
    least: int = 20
    """Chips of a class below which it is left out."""


FROM_DATA = {
    "aid-a": Folder("aid150", 150, 50, 11, 900, "[112, 144]", 500),
    "aid-b": Folder("aid150", 60, 20, 12, 900, "[112, 144]", 500),
    "mstar-a": Folder("mstar_soc", 180, 50, 13, 800, "[112, 128]", 400),
    "mstar-b": Folder("mstar_soc", 60, 10, 14, 800, "[112, 128]", 400),
    "hit-uav": Folder("hit_uav_obb", 400, 40, 15, 800, "[64, 96, 112]", 400),
    "opensarship": Folder("opensarship_mini", 100, 20, 16, 900, "[64, 96, 112]", 1000, least=12),
}
SIMULATED = {"simulated-sar": "sar", "simulated-optical": "optical"}
COLUMNS = ("folder", "n_labels", "n_classes", "chosen", "image_size", "views", "method", "group", "value")


def draw(chips: ChipSet, root: Path, own: Folder) -> None:
    """Write a long tail of the chips, the rarest class with at least 3, and a test that is no more than even."""
    rng, y = np.random.default_rng(own.seed), chips.labels
    splits = np.array(chips.splits)
    classes = [
        c for c, name in enumerate(chips.class_names) if name != "dont-care" and (y == c).sum() >= own.least
    ]
    known = np.isin(y, classes)
    if (splits == "test").any():
        test, pool = np.flatnonzero(known & (splits == "test")), np.flatnonzero(known & (splits != "test"))
    else:
        order = rng.permutation(np.flatnonzero(known))
        test, pool = order[: len(order) // 3], order[len(order) // 3 :]
    if len(test) > own.n_test:
        each = max(5, own.n_test // len(classes))
        test = np.concatenate([rng.permutation(test[y[test] == c])[:each] for c in classes])
    train = []
    for rank, c in enumerate(rng.permutation(classes)):
        n = max(3, round(own.largest * own.imbalance ** (-rank / max(1, len(classes) - 1))))
        train.append(rng.permutation(pool[y[pool] == c])[:n])
    for split, kept in (("train", np.concatenate(train)), ("test", test)):
        for i in kept.tolist():
            pixels = chips.pixels.read(i)
            folder = root / split / chips.class_names[y[i]].replace("/", "-")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(folder / f"{i}.png")


def make_folders(data: Path, out: Path) -> list[Path]:
    """Write the eight folders, those that are there excepted."""
    found = []
    for name, own in FROM_DATA.items():
        root = out / "folders" / name
        found.append(root)
        if not root.exists():
            is_objects = own.source == "hit_uav_obb"
            reading = Reading(crop="square", context=1.5) if is_objects else Reading()
            chips = read_chips(data / own.source, format="dota" if is_objects else "auto", reading=reading)
            draw(chips, root, own)
    for name, sensor in SIMULATED.items():
        root = out / "folders" / name
        found.append(root)
        if not root.exists():
            root.mkdir(parents=True)
            write_chips(root, Simulation(sensor, 120, 30, 1, 30, 64, 1.0), seed=3)  # type: ignore[arg-type]
            shutil.rmtree(root / "val")
    return found


def options_of(name: str, weights: Path) -> list[str]:
    """Return the command line of a folder: the embedded model for simulated chips, else EfficientNet-Lite0."""
    if name in SIMULATED:
        return ["--look.max_chips", "400"]
    own = FROM_DATA[name]
    return [
        *(
            "--backbone.name",
            "efficientnet-lite0",
            "--backbone.path",
            str(weights / "efficientnet_lite0_in1k"),
        ),
        *(
            "--lora.loss",
            "balanced_softmax",
            "--evaluate.classifiers",
            "[balanced_softmax, sade, cross_entropy]",
        ),
        *("--look.sizes", own.sizes, "--look.max_chips", str(own.n_looked_at)),
    ]


def summary(run: Path) -> list[dict[str, object]]:
    """Return the lines of a finished run."""
    choice = json.loads((run / "eval" / "choice.json").read_text())
    look = json.loads((run / "look" / "choice.json").read_text())
    counts = json.loads((run / "audit" / "groups.json").read_text())["counts"]
    facts = {
        "folder": run.name,
        "n_labels": sum(counts["train"]) + sum(counts["val"]),
        "n_classes": len(counts["train"]),
        "chosen": choice["method"],
        "image_size": look["image_size"],
        "views": look["views"],
    }
    with (run / "eval" / "scores.csv").open(newline="") as file:
        scores = [row for row in csv.DictReader(file) if row["metric"] == "macro_f1"]
    return [
        {**facts, "method": row["method"], "group": row["group"], "value": row["value"]}
        for row in scores
        if row["group"] in ("tail", "all")
        and (row["method"], row["classifier"]) in (*FLOORS, ("shipped", choice["classifier"]))
    ]


if __name__ == "__main__":
    data, weights, out = map(Path, sys.argv[1:4])
    lines: list[dict[str, object]] = []
    for folder in make_folders(data, out):
        run = out / "runs" / folder.name
        resume = ["--resume"] if run.exists() else []
        if main(["run", str(folder), "--out", str(run), *resume, *options_of(folder.name, weights)]):
            raise SystemExit(f"{folder} failed")
        lines += summary(run)
    with (out / "folders.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
