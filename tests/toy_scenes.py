"""Toy scenes: bright oriented rectangles on dark ground, one band per class."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from deblora.data.scenes.dota import Labels, write_labels
from deblora.detect.boxes import corners

NAMES = ("long", "middling", "square")
SIDES = {"long": (26.0, 9.0), "middling": (20.0, 10.0), "square": (13.0, 13.0)}
QUOTAS = {"train": (9, 5, 3), "val": (3, 3, 3), "test": (3, 3, 3)}
SIZE = 64


def write_split(folder: Path, split: str, *, seed: int, size: int = SIZE) -> None:
    """Two objects per image at fixed places with random turns."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "labelTxt").mkdir()
    queue = [name for name, n in zip(NAMES, QUOTAS[split], strict=True) for _ in range(n)]
    for number in range(0, len(queue), 2):
        image = Image.new("RGB", (size, size), (20, 20, 20))
        quads, names = [], queue[number : number + 2]
        for place, name in enumerate(names):
            center = (18.0, 18.0) if place == 0 else (size - 18.0, size - 18.0)
            box = torch.tensor([[*center, *SIDES[name], rng.uniform(-1.5, 1.5)]], dtype=torch.float64)
            quad = corners(box)[0].numpy()
            color = tuple(240 if i == NAMES.index(name) else 60 for i in range(3))
            ImageDraw.Draw(image).polygon([tuple(p) for p in quad.tolist()], fill=color)
            quads.append(quad.round(3))
        image.save(folder / "images" / f"{split}{number}.png")
        labels = Labels(np.array(quads), tuple(names), np.zeros(len(names), dtype=np.int64), 0.5, "toy")
        write_labels(folder / "labelTxt" / f"{split}{number}.txt", labels)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    for seed, split in enumerate(QUOTAS):
        write_split(root / split, split, seed=seed)
    return root


def recipe(scenes: Path, **tables: dict[str, object]) -> dict[str, object]:
    """A recipe that trains for seconds."""
    values: dict[str, dict[str, object]] = {
        "data": {
            "train": str(scenes / "train"),
            "val": str(scenes / "val"),
            "test": str(scenes / "test"),
            "tile": 64,
            "overlap": 16,
        },
        "head": {"n_channels": 16, "n_convs": 1},
        "train": {"max_train_steps": 4, "train_batch_size": 2, "checkpointing_steps": 2},
        "method": {"name": "lora", "rank": 2},
    }
    for name, table in tables.items():
        values[name] = {**values.get(name, {}), **table}
    return dict(values)
