"""Simulated chips for studies: a long-tailed folder of pictures, drawn once per setting and seed."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from deblora.data.longtail import exponential_counts
from deblora.data.simulate.chips import CLASS_NAMES, simulated_chips
from deblora.errors import RecipeError
from deblora.files import folder_written_at_once
from deblora.progress import no_bar


@dataclass(frozen=True)
class Simulation:
    """What is drawn; defaults are those of the demo.

    Args:
        sensor: ``sar`` or ``optical``.
        largest: Training chips of the most frequent class.
        imbalance_factor: Largest over smallest class, >= 1.
        n_val: Validation chips per class.
        n_test: Test chips per class.
        chip_size: Pixels per side.
        tail_coverage: Share of grounds, paints and sizes that tail classes show in training, in (0, 1]; below 1,
            training and test differ for them.
    """

    sensor: Literal["sar", "optical"] = "sar"
    largest: int = 200
    imbalance_factor: float = 50.0
    n_val: int = 15
    n_test: int = 40
    chip_size: int = 64
    tail_coverage: float = 0.5


RANGES: dict[str, tuple[float, float]] = {
    "largest": (2, 1e6),
    "imbalance_factor": (1, 1e6),
    "n_val": (1, 1e6),
    "n_test": (1, 1e6),
    "chip_size": (16, 1024),
    "tail_coverage": (0.01, 1),
}


def simulation_from(values: Mapping[str, Any], place: str) -> Simulation:
    """Build a simulation from a table of settings.

    Args:
        values: Its settings.
        place: Where they stand, for messages.

    Raises:
        RecipeError: Lists every unknown key and every value of a wrong type or out of range.
    """
    known = {item.name: item for item in fields(Simulation)}
    problems, arguments = [], {}
    for key, value in values.items():
        if key not in known:
            problems.append(f"simulate.{key} is not a setting; known keys: {', '.join(known)}")
        elif key == "sensor":
            if value not in ("sar", "optical"):
                problems.append(f"simulate.sensor is {value!r}, expected sar or optical")
            arguments[key] = value
        else:
            low, high = RANGES[key]
            kinds = (int,) if known[key].type is int else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds):
                problems.append(f"simulate.{key} is {value!r}, expected {kinds[-1].__name__}")
            elif not (math.isfinite(value) and low <= value <= high):
                problems.append(f"simulate.{key} is {value!r}, allowed are {low:g} to {high:g}")
            arguments[key] = value
    if problems:
        raise RecipeError(f"{place} has problems:\n" + "\n".join(f"  - {line}" for line in problems))
    return Simulation(**arguments)


def simulated_folder(root: Path, simulation: Simulation, *, seed: int) -> Path:
    """Return where the chips of a simulation and seed lie below ``root``."""
    key = hashlib.sha256(json.dumps(asdict(simulation), sort_keys=True).encode()).hexdigest()[:12]
    return root / key / f"seed-{seed}" / "simulated"


def draw_chips(root: Path, simulation: Simulation, *, seed: int) -> Path:
    """Write the chips of a simulation below ``root`` unless they are there, and return their folder."""
    folder = simulated_folder(root, simulation, seed=seed)
    if not folder.is_dir():
        with folder_written_at_once(folder) as unfinished:
            write_chips(unfinished, simulation, seed=seed)
    return folder


def write_chips(folder: Path, simulation: Simulation, *, seed: int) -> None:
    """Write ``folder/<split>/<class>/<name>.png``; training counts fall exponentially in the order of the classes."""
    n_classes = len(CLASS_NAMES)
    train = exponential_counts(
        n_classes, largest=simulation.largest, imbalance_factor=simulation.imbalance_factor
    )
    counts = {
        "train": tuple(int(n) for n in train),
        "val": (simulation.n_val,) * n_classes,
        "test": (simulation.n_test,) * n_classes,
    }
    chips = simulated_chips(
        sensor=simulation.sensor,
        counts_per_class=counts,
        chip_size=simulation.chip_size,
        tail_coverage=simulation.tail_coverage,
        seed=seed,
    )
    for i, chip_id in enumerate(
        tqdm(chips.ids, desc=f"simulate {simulation.sensor} chips", unit="chip", disable=no_bar())
    ):
        path = folder / f"{chip_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = chips.pixels.read(i)
        Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)).save(path)
