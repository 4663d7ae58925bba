"""Simulated chips: as many per class as asked for, each one a small scene around one object.

Tail classes see only a part of their grounds, paints and sizes in train and all of them in val and test, so
that a few training chips mislead about the class. That is the situation calibration is meant for.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Int, UInt8

from deblora.data.chips import ChipSet
from deblora.data.simulate.render import (
    CLASSES,
    ClassSpec,
    Scene,
    SceneObject,
    draw_scene,
    place,
    render_optical,
    render_sar,
    surroundings,
)
from deblora.data.simulate.shapes import Body, Material

Sensor = Literal["sar", "optical"]
CLASS_NAMES: tuple[str, ...] = tuple(sorted(CLASSES, key=lambda name: -CLASSES[name].frequency))
TAIL_CLASS_NAMES: tuple[str, ...] = CLASS_NAMES[-(len(CLASS_NAMES) // 3) :]
SPLITS = ("train", "val", "test")
HULL_SHARE = 0.6  # ours: an object of middle size spans this share of its chip
_T = TypeVar("_T")


@dataclass(frozen=True)
class Attributes:
    """What was drawn for a chip, before any sensor saw it; ``length`` in meters, ``heading`` in radians."""

    class_name: str
    ground: Material
    paint: Material
    length: float
    aspect: float
    heading: float


@dataclass(frozen=True)
class Recipe:
    """All that decides one chip except the sensor."""

    split: str
    class_index: int
    index: int
    coverage: float
    seed: int

    def rng(self, stream: int) -> np.random.Generator:
        """Return stream 0 for the geometry or stream 1 for the sensor; chips do not depend on each other."""
        return np.random.default_rng(
            [self.seed, SPLITS.index(self.split), self.class_index, self.index, stream]
        )


def covered(choices: Sequence[_T], coverage: float) -> Sequence[_T]:
    """Return the first max(1, round(coverage x n)) of ``choices``."""
    return choices[: max(1, math.floor(coverage * len(choices) + 0.5))]


def draw_attributes(recipe: Recipe, rng: np.random.Generator) -> Attributes:
    """Draw ground, paint, size and heading uniformly from the covered ranges of the class."""
    name = CLASS_NAMES[recipe.class_index]
    spec = CLASSES[name]
    grounds, paints = covered(spec.grounds, recipe.coverage), covered(spec.paints, recipe.coverage)
    return Attributes(
        class_name=name,
        ground=grounds[int(rng.integers(len(grounds)))],
        paint=paints[int(rng.integers(len(paints)))],
        length=float(_between(spec.length, recipe.coverage * rng.random())),
        aspect=float(_between(spec.aspect, recipe.coverage * rng.random())),
        heading=float(rng.uniform(0, 2 * np.pi)),
    )


def local_scene(recipe: Recipe, chip_size: int) -> Scene:
    """Lay out the scene of one chip at twice its resolution: surroundings, neighbors in rows, the object."""
    rng = recipe.rng(0)
    drawn = draw_attributes(recipe, rng)
    spec = CLASSES[drawn.class_name]
    # The power keeps size visible: a long ship fills more of its chip than a short one.
    extent = drawn.length**0.7 * (sum(spec.length) / 2) ** 0.3 / HULL_SHARE
    center = tuple(rng.uniform(-0.06, 0.06, size=2) * extent)
    parts = place(surroundings(spec.zone, drawn.ground, extent, rng), (0.0, 0.0), drawn.heading)
    body = _body(spec, drawn, drawn.paint, rng)
    main = SceneObject(drawn.class_name, center, drawn.heading, body)
    for neighbor in (*_neighbors(spec, drawn, center, extent, recipe.coverage, rng), main):
        parts += neighbor.parts()
    size = 16 * math.ceil(chip_size / 8)
    return draw_scene(parts, ground=drawn.ground, size=size, gsd=extent / (2 * chip_size))


def render_chip(recipe: Recipe, *, sensor: Sensor, chip_size: int) -> UInt8[np.ndarray, "s s b"]:
    """Return one chip, RGB for optical, one band for SAR; both sensors see the same objects."""
    scene = local_scene(recipe, chip_size)
    image = render_optical(scene, recipe.rng(1)) if sensor == "optical" else render_sar(scene, recipe.rng(1))
    start = (image.shape[0] - chip_size) // 2
    return image[start : start + chip_size, start : start + chip_size]


class SimulatedPixels:
    """Chips drawn when they are first read, then kept in memory."""

    def __init__(self, recipes: Sequence[Recipe], *, sensor: Sensor, chip_size: int) -> None:
        self._recipes, self._sensor, self._chip_size = tuple(recipes), sensor, chip_size
        self._kept: dict[int, UInt8[np.ndarray, "s s b"]] = {}

    def __len__(self) -> int:
        return len(self._recipes)

    def read(self, index: int) -> UInt8[np.ndarray, "s s b"]:
        """Return chip ``index``."""
        if index not in self._kept:
            recipe = self._recipes[index]
            self._kept[index] = render_chip(recipe, sensor=self._sensor, chip_size=self._chip_size)
        return self._kept[index]

    def attributes(self, index: int) -> Attributes:
        """Return what was drawn for chip ``index``."""
        return draw_attributes(self._recipes[index], self._recipes[index].rng(0))


def simulated_chips(
    *,
    sensor: Sensor,
    counts_per_class: Mapping[str, tuple[int, ...]],
    chip_size: int,
    tail_coverage: float,
    seed: int,
) -> ChipSet:
    """Return a labeled chip set with exactly the counts asked for.

    A chip depends on seed, split, class, its number within them, and for tail classes in train on
    ``tail_coverage``; raising a count adds chips and leaves the others as they are.

    Args:
        sensor: "sar" (h w 1) or "optical" (h w 3), uint8.
        counts_per_class: For any of "train", "val" and "test" one count per class, in the order of
            ``CLASS_NAMES``.
        chip_size: Side in pixels, at least 16.
        tail_coverage: In (0, 1]; share of grounds, paints and sizes that ``TAIL_CLASS_NAMES`` show in train.
        seed: Not negative.

    Returns:
        Chips with ids such as ``train/helicopter/00012``.

    Raises:
        ValueError: If an argument is outside its range.
    """
    _check(sensor, counts_per_class, chip_size, tail_coverage, seed)
    recipes = [
        Recipe(split, c, i, tail_coverage if split == "train" and name in TAIL_CLASS_NAMES else 1.0, seed)
        for split in SPLITS
        for c, name in enumerate(CLASS_NAMES)
        for i in range(counts_per_class.get(split, (0,) * len(CLASS_NAMES))[c])
    ]
    labels: Int[np.ndarray, " n"] = np.array([r.class_index for r in recipes], dtype=np.int64)
    return ChipSet(
        ids=tuple(f"{r.split}/{CLASS_NAMES[r.class_index]}/{r.index:05d}" for r in recipes),
        labels=labels,
        splits=tuple(r.split for r in recipes),
        class_names=CLASS_NAMES,
        pixels=SimulatedPixels(recipes, sensor=sensor, chip_size=chip_size),
    )


def _check(
    sensor: str, counts: Mapping[str, tuple[int, ...]], chip_size: int, tail_coverage: float, seed: int
) -> None:
    if sensor not in ("sar", "optical"):
        raise ValueError(f"sensor must be 'sar' or 'optical', not {sensor!r}")
    for split, numbers in counts.items():
        if split not in SPLITS:
            raise ValueError(f"counts_per_class knows the splits {SPLITS}, not {split!r}")
        if len(numbers) != len(CLASS_NAMES) or min(numbers) < 0:
            raise ValueError(f"{split} needs {len(CLASS_NAMES)} counts of at least 0, not {numbers!r}")
    if chip_size < 16:
        raise ValueError(f"chip_size must be at least 16, not {chip_size}")
    if not 0 < tail_coverage <= 1:
        raise ValueError(f"tail_coverage must lie in (0, 1], not {tail_coverage}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, not {seed}")


def _between(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + share * (bounds[1] - bounds[0])


def _body(spec: ClassSpec, drawn: Attributes, paint: Material, rng: np.random.Generator) -> Body:
    return Body(drawn.length, drawn.length * drawn.aspect, spec.height, paint, float(rng.random()))


def _neighbors(
    spec: ClassSpec,
    drawn: Attributes,
    center: tuple[float, float],
    extent: float,
    coverage: float,
    rng: np.random.Generator,
) -> list[SceneObject]:
    """Return the objects of the same row and the rows before and behind; about a third are missing."""
    if spec.spacing is None or rng.random() < 0.4:
        return []
    paints = covered(spec.paints, coverage)
    along, across = spec.spacing[0] * drawn.length, spec.spacing[1] * drawn.length * drawn.aspect
    cosine, sine = math.cos(drawn.heading), math.sin(drawn.heading)
    objects = []
    for i in (-1, 0, 1):
        for j in (-3, -2, -1, 1, 2, 3) if i == 0 else (-2, -1, 0, 1, 2):
            x, y = i * along, j * across
            if math.hypot(x, y) > 0.75 * extent + 0.3 * drawn.length or rng.random() < 0.35:
                continue
            position = (center[0] + x * cosine - y * sine, center[1] + x * sine + y * cosine)
            body = _body(spec, drawn, paints[int(rng.integers(len(paints)))], rng)
            objects.append(SceneObject(drawn.class_name, position, drawn.heading, body))
    return objects
