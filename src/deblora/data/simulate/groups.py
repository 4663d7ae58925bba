"""Groups of like objects in whole scenes: what is drawn for them and how they stand in rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from deblora.data.simulate.chips import covered
from deblora.data.simulate.materials import Body, Material
from deblora.data.simulate.objects import BOX_TURN, ROUND, tight_quad
from deblora.data.simulate.render import CLASSES, SceneObject

# Ours: fewest and most objects of one group; the other classes stand alone.
GROUP_SIZES: Mapping[str, tuple[int, int]] = {
    "ship": (1, 6),
    "small-vehicle": (4, 24),
    "large-vehicle": (2, 10),
    "plane": (1, 5),
    "storage-tank": (2, 8),
    "tennis-court": (1, 4),
}
VEHICLES = ("small-vehicle", "large-vehicle")
_MIN_PITCH = 1.15  # ours: distance of neighbors in a row as a share of their size
_ROUND_PITCH = 1.5  # upright boxes of round objects in a turned row need more than the square root of 2
_JITTER = 0.03  # ours: share of the size by which an object leaves its row


@dataclass(frozen=True)
class Group:
    """Objects of one class on one ground; ``coverage`` limits the headings their boxes may take."""

    class_name: str
    ground: Material
    bodies: tuple[Body, ...]
    coverage: float


@dataclass(frozen=True)
class Arrangement:
    """A group in rows: ``centers`` and ``extent`` in meters, along and across the sides of its boxes."""

    centers: Float[np.ndarray, "n 2"]
    extent: tuple[float, float]


def draw_groups(class_name: str, n_objects: int, *, coverage: float, rng: np.random.Generator) -> list[Group]:
    """Split ``n_objects`` into groups and draw ground, sizes and paints from the covered ranges of the class."""
    low, high = GROUP_SIZES.get(class_name, (1, 1))
    groups = []
    while n_objects:
        n = min(n_objects, int(rng.integers(low, high + 1)))
        groups.append(_draw_group(class_name, n, coverage=coverage, rng=rng))
        n_objects -= n
    return groups


def _draw_group(class_name: str, n: int, *, coverage: float, rng: np.random.Generator) -> Group:
    spec = CLASSES[class_name]
    grounds, paints = covered(spec.grounds, coverage), covered(spec.paints, coverage)
    share, bodies = rng.random(), []
    for _ in range(n):
        # Neighbors are of similar, not equal, size.
        grade = coverage * float(np.clip(share + rng.uniform(-0.1, 0.1), 0, 1))
        length = spec.length[0] + grade * (spec.length[1] - spec.length[0])
        aspect = spec.aspect[0] + coverage * rng.random() * (spec.aspect[1] - spec.aspect[0])
        paint = paints[int(rng.integers(len(paints)))]
        bodies.append(Body(length, length * aspect, spec.height, paint, float(rng.random())))
    return Group(class_name, grounds[int(rng.integers(len(grounds)))], tuple(bodies), coverage)


def draw_heading(frame: float, *, coverage: float, aligned_share: float, rng: np.random.Generator) -> float:
    """Draw a heading in radians, either along an axis of ``frame`` or free.

    Modulo a half turn it lies in [0, ``coverage`` x pi), so that a box shows only this share of all orientations.

    Args:
        frame: Heading of roads and shores.
        coverage: In (0, 1].
        aligned_share: Probability of an axis of ``frame`` where one is covered.
        rng: Source of randomness.
    """
    axes = frame + np.arange(4) * (np.pi / 2)
    axes = axes[np.mod(axes, np.pi) < coverage * np.pi]
    if len(axes) and rng.random() < aligned_share:
        return float(axes[int(rng.integers(len(axes)))])
    return float(rng.uniform(0, coverage * np.pi) + np.pi * rng.integers(2))


def arrange(group: Group, rng: np.random.Generator) -> Arrangement:
    """Stand the objects of ``group`` in rows; cells of the last row stay empty."""
    turn = BOX_TURN.get(group.class_name, 0.0)
    quads = [tight_quad(SceneObject(group.class_name, (0.0, 0.0), -turn, body)) for body in group.bodies]
    low, high = np.min(quads, axis=1), np.max(quads, axis=1)
    along, across = (high - low).max(axis=0)
    # Boxes, not the origins of the shapes, stand in the cells.
    offset = (low + high) / 2
    n, spacing = len(group.bodies), CLASSES[group.class_name].spacing
    if spacing is None or n == 1:
        return Arrangement(-offset, (float(along), float(across)))
    least = _ROUND_PITCH if group.class_name in ROUND else _MIN_PITCH
    pitch = np.maximum(spacing, least) * (along, across)
    n_columns = min(n, max(1, round(math.sqrt(2 * n * pitch[0] / pitch[1]))))
    n_rows = math.ceil(n / n_columns)
    cells = np.arange(n)
    # Rows differ in the side at which they are incomplete.
    if rng.random() < 0.5:
        cells = n_rows * n_columns - 1 - cells
    grid = np.stack([cells // n_columns - (n_rows - 1) / 2, cells % n_columns - (n_columns - 1) / 2], axis=1)
    jitter = rng.uniform(-_JITTER, _JITTER, size=(n, 2)) * (along, across)
    extent = ((n_rows - 1) * pitch[0] + along, (n_columns - 1) * pitch[1] + across)
    return Arrangement(grid * pitch + jitter - offset, (float(extent[0]), float(extent[1])))


def halves(group: Group) -> Sequence[Group]:
    """Return two groups with the objects of ``group``, for scenes too full for all of them."""
    middle = len(group.bodies) // 2
    return [
        Group(group.class_name, group.ground, bodies, group.coverage)
        for bodies in (group.bodies[:middle], group.bodies[middle:])
    ]
