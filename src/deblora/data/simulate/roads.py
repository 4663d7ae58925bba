"""The ground of one whole scene: shore, canal and roads along two perpendicular axes, fields between them.

The axes u and v are turned by the heading of the scene; positions are in meters from its middle.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from deblora.data.simulate.materials import Material, Part, rectangle
from deblora.data.simulate.objects import rotation
from deblora.errors import DataError

M = Material

ROAD_WIDTH = 9.0  # ours, meters, two lanes
SLOT = 22.0  # ours: meters of road per vehicle
QUAY = 5.0  # ours: meters of concrete along the shore
_N_TRIES = 200  # ours: draws of bands before a scene counts as full
_DASH = 7.0  # ours: meters; the marks of the middle line and the gaps between them


@dataclass(frozen=True)
class Axes:
    """The axes (u, v) of a square scene with sides of ``extent`` meters, turned by ``heading`` radians."""

    heading: float
    extent: float

    def to_scene(self, uv: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Return positions (x, y): x to the right, y down."""
        xy: Float[np.ndarray, "n 2"] = uv @ rotation(self.heading)
        return xy

    def to_axes(self, xy: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Return positions (u, v)."""
        uv: Float[np.ndarray, "n 2"] = xy @ rotation(-self.heading)
        return uv

    def rectangle(
        self, center: tuple[float, float], sides: tuple[float, float], material: Material, height: float = 0.0
    ) -> Part:
        """Return the outline of a rectangle with ``center`` (u, v) and ``sides`` along u and v."""
        part = rectangle(*center, *sides, material, height)
        return part._replace(polygon=self.to_scene(part.polygon))


class Bands(NamedTuple):
    """Where shore, canal and main road run (their v) and where roads cross them (u), in meters; None is absent."""

    shore: float | None
    canal: float | None
    road: float | None
    crossings: tuple[float, ...]


class Road(NamedTuple):
    """A straight road: the coordinate it keeps, whether it runs along u, and the stretch it covers."""

    at: float
    along_u: bool
    start: float
    stop: float

    def center(self, position: float, offset: float = 0.0) -> tuple[float, float]:
        """Return (u, v) at ``position`` of the stretch, ``offset`` meters to the side."""
        return (position, self.at + offset) if self.along_u else (self.at - offset, position)

    def sides(self, length: float, width: float) -> tuple[float, float]:
        """Return the sides along u and v of something ``length`` along the road."""
        return (length, width) if self.along_u else (width, length)


def draw_fields(axes: Axes, rng: np.random.Generator) -> list[Part]:
    """Return large patches of grass and soil."""
    parts = []
    for _ in range(int(rng.integers(2, 6))):
        u, v = rng.uniform(-0.6, 0.6, size=2) * axes.extent
        sides = rng.uniform(0.2, 0.6, size=2) * axes.extent
        material = (M.GRASS, M.SOIL)[int(rng.integers(2))]
        parts.append(axes.rectangle((float(u), float(v)), (float(sides[0]), float(sides[1])), material))
    return parts


def draw_roads(bands: Bands, axes: Axes, *, n_bridges: int) -> list[Road]:
    """Return the main road and the roads along v, which end at the shore.

    Those of bridges, the first of the crossings, begin at the main road; those of roundabouts cross it.
    """
    far = 2 * axes.extent
    stop = far if bands.shore is None else bands.shore
    roads = [Road(u, False, -far, stop) for u in bands.crossings]
    if bands.road is not None and bands.canal is not None:
        stretch = (-far, bands.road) if bands.canal < bands.road else (bands.road, stop)
        roads[:n_bridges] = [Road(u, False, *stretch) for u in bands.crossings[:n_bridges]]
    return roads if bands.road is None else [*roads, Road(bands.road, True, -far, far)]


def pave(road: Road, axes: Axes) -> list[Part]:
    """Return the outlines of a road and of its dashed middle line."""
    middle, length = (road.start + road.stop) / 2, road.stop - road.start
    parts = [axes.rectangle(road.center(middle), road.sides(length, ROAD_WIDTH), M.ASPHALT)]
    start, stop = max(road.start, -axes.extent), min(road.stop, axes.extent)
    dashes = np.arange(start, stop, 2 * _DASH)
    return parts + [axes.rectangle(road.center(float(x)), road.sides(_DASH, 0.35), M.WHITE) for x in dashes]


def traffic_slots(
    road: Road, axes: Axes, blocked: Sequence[tuple[float, float]]
) -> list[tuple[float, float, float]]:
    """Return free places (u, v, turn against u) on the right-hand lanes, away from ``blocked`` stretches."""
    slots = []
    reach = min(road.stop, axes.extent) - SLOT / 2
    for position in np.arange(max(road.start, -axes.extent) + SLOT, reach, SLOT):
        if any(low - SLOT / 2 < position < high + SLOT / 2 for low, high in blocked):
            continue
        for side in (1.0, -1.0):
            spot = road.center(float(position), side * ROAD_WIDTH / 4)
            if np.abs(axes.to_scene(np.array([spot]))).max() < axes.extent / 2 - 0.5 * SLOT:
                turn = (0.0 if road.along_u else np.pi / 2) + (0.0 if side > 0 else np.pi)
                slots.append((*spot, turn))
    return slots


def draw_bands(
    extent: float, *, coast: bool, span: float, disc: float, n_crossings: int, rng: np.random.Generator
) -> Bands:
    """Draw parallel bands that keep clear of each other.

    Args:
        extent: Side of the scene in meters.
        coast: Whether the sea covers the side of large v.
        span: Length of the longest bridge over a canal, 0 without bridges.
        disc: Diameter of the largest roundabout, 0 without roundabouts.
        n_crossings: Bridges and roundabouts; each takes one road along v.
        rng: Source of randomness.

    Raises:
        DataError: If the scene has no room for them.
    """
    top = 0.15 if coast else 0.7
    for k in range(_N_TRIES):
        # Scenes that are hard to fill let their bridges and roundabouts come closer to the border.
        inner = extent / 2 - (0.6 - 0.3 * k / _N_TRIES) * max(span, disc)
        if inner < 0:
            continue
        canal = float(rng.uniform(-0.7, top)) * inner if span else None
        road = float(rng.uniform(-0.7, top)) * (inner if disc else 0.4 * extent)
        clear = canal is None or abs(road - canal) > (span + 1.3 * disc) / 2 + 8
        widest = max(abs(canal or 0.0), abs(road) if disc else 0.0)
        reach = math.sqrt(max(0.0, inner**2 - widest**2))
        crossings = _spread(n_crossings, max(1.5 * disc, 0.25 * span), reach, rng)
        if crossings is None or (disc and not clear):
            continue
        lowest = max(road + 0.65 * disc if clear else -extent, (canal or 0.0) + span / 2 if span else -extent)
        shore = max(float(rng.uniform(0.0, 0.25)) * extent, lowest + 14) if coast else None
        return Bands(shore, canal, road if clear else None, crossings)
    raise DataError(
        f"a scene of {extent:.0f} m has no room for {n_crossings} bridges and roundabouts; use more or larger "
        "scenes, or lower their quotas"
    )


def _spread(n: int, gap: float, reach: float, rng: np.random.Generator) -> tuple[float, ...] | None:
    """Return ``n`` positions in +-``reach``, at least ``gap`` apart, or None."""
    room = 2 * reach - (n - 1) * gap
    if room < 0:
        return None
    gaps = np.sort(rng.uniform(0, room, size=n)) + np.arange(n) * gap - reach
    return tuple(float(u) for u in rng.permutation(gaps))
