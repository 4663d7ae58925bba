"""Surface materials as every sensor sees them, and the outlines of the simulated objects made of them.

The tables are ours: plausible values for bright and dark surfaces, not measurements. A shape lies around the origin
with its long side along x, in meters. Parts are drawn in order, so that a later part covers an earlier one; a ring is
a disc under a smaller disc.
"""

import enum
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Material(enum.IntEnum):
    """Surface materials; the value indexes the rows of the tables below."""

    WATER = 0
    ASPHALT = 1
    CONCRETE = 2
    GRASS = 3
    TREE = 4
    SOIL = 5
    CLAY = 6
    WHITE = 7
    METAL = 8
    DARK = 9
    RED = 10
    BLUE = 11
    GREEN_COURT = 12
    BLUE_COURT = 13
    TRACK = 14
    POOL = 15
    DECK = 16
    ROOF = 17
    GLASS = 18


# Rows follow Material: reflectance in B, G, R, red edge, NIR, SWIR1, SWIR2; backscatter in dB; texture.
_TABLE = np.array(
    [
        [0.050, 0.045, 0.030, 0.020, 0.010, 0.005, 0.003, -22, 0.10],
        [0.080, 0.090, 0.100, 0.110, 0.120, 0.150, 0.160, -17, 0.06],
        [0.200, 0.240, 0.270, 0.290, 0.310, 0.350, 0.330, -14, 0.05],
        [0.030, 0.070, 0.050, 0.150, 0.420, 0.240, 0.120, -11, 0.15],
        [0.025, 0.050, 0.030, 0.100, 0.380, 0.170, 0.080, -7, 0.30],
        [0.100, 0.140, 0.190, 0.220, 0.270, 0.360, 0.330, -12, 0.10],
        [0.120, 0.170, 0.260, 0.300, 0.340, 0.420, 0.380, -15, 0.05],
        [0.550, 0.600, 0.620, 0.620, 0.600, 0.450, 0.380, -3, 0.03],
        [0.250, 0.260, 0.270, 0.270, 0.280, 0.300, 0.300, 0, 0.05],
        [0.040, 0.040, 0.045, 0.050, 0.060, 0.060, 0.060, -4, 0.03],
        [0.050, 0.060, 0.320, 0.380, 0.420, 0.400, 0.350, -4, 0.03],
        [0.220, 0.140, 0.070, 0.080, 0.200, 0.250, 0.250, -4, 0.03],
        [0.060, 0.160, 0.090, 0.100, 0.300, 0.280, 0.200, -18, 0.03],
        [0.200, 0.150, 0.080, 0.090, 0.200, 0.230, 0.200, -18, 0.03],
        [0.060, 0.080, 0.280, 0.330, 0.380, 0.350, 0.300, -17, 0.04],
        [0.300, 0.340, 0.180, 0.080, 0.030, 0.005, 0.003, -22, 0.04],
        [0.090, 0.110, 0.170, 0.190, 0.210, 0.240, 0.220, -1, 0.08],
        [0.180, 0.190, 0.200, 0.200, 0.220, 0.250, 0.240, -9, 0.06],
        [0.030, 0.035, 0.040, 0.040, 0.050, 0.050, 0.050, -8, 0.02],
    ],
    dtype=np.float32,
)
REFLECTANCE: Float[np.ndarray, "m 7"] = _TABLE[:, :7]
BACKSCATTER_DB: Float[np.ndarray, " m"] = _TABLE[:, 7]
TEXTURE: Float[np.ndarray, " m"] = _TABLE[:, 8]


class Part(NamedTuple):
    """One polygon (meters), its material and the height of its top above the ground in meters."""

    polygon: Float[np.ndarray, "p 2"]
    material: Material
    height: float


class Body(NamedTuple):
    """What a shape needs to know: size in meters, main material and a unit random number for its details."""

    length: float
    width: float
    height: float
    paint: Material
    detail: float


_ANGLES = np.arange(20) * (2 * np.pi / 20)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def rectangle(
    x: float, y: float, length: float, width: float, material: Material, height: float = 0.0
) -> Part:
    """Return an axis-aligned rectangle centered on (``x``, ``y``)."""
    a, b = length / 2, width / 2
    return Part(np.array([(x - a, y - b), (x + a, y - b), (x + a, y + b), (x - a, y + b)]), material, height)


def ellipse(x: float, y: float, a: float, b: float, material: Material, height: float = 0.0) -> Part:
    """Return an ellipse with half axes ``a`` and ``b`` centered on (``x``, ``y``)."""
    return Part(_CIRCLE * (a, b) + (x, y), material, height)


M = Material
# Ours: painted lines are this share of the length, thicker than real ones, to survive 64 pixels.
_LINE = 0.014


def _polygon(points: list[tuple[float, float]], body: Body, material: Material, height: float) -> Part:
    """Return a polygon given in units of half the length and half the width."""
    return Part(np.array(points) * (body.length / 2, body.width / 2), material, height)


def _frame(x: float, length: float, width: float, line: float, inner: Material) -> list[Part]:
    """Return a white outline around ``inner``."""
    return [
        rectangle(x, 0, length, width, M.WHITE),
        rectangle(x, 0, length - 2 * line, width - 2 * line, inner),
    ]


def _ring(x: float, radius: float, line: float, inner: Material) -> list[Part]:
    """Return a white circle around ``inner``."""
    return [ellipse(x, 0, radius, radius, M.WHITE), ellipse(x, 0, radius - line, radius - line, inner)]


def _ship(b: Body) -> list[Part]:
    hull = _polygon([(-1, -0.8), (0.55, -1), (1, 0), (0.55, 1), (-1, 0.8)], b, b.paint, b.height * 0.5)
    deck = _polygon(
        [(-0.92, -0.6), (0.5, -0.72), (0.85, 0), (0.5, 0.72), (-0.92, 0.6)], b, M.DECK, b.height * 0.5
    )
    parts = [hull, deck, rectangle(-0.3 * b.length, 0, 0.16 * b.length, 0.6 * b.width, M.WHITE, b.height)]
    if b.detail > 0.4:
        for i in range(3):
            cargo = (M.RED, M.BLUE, M.METAL)[int(b.detail * 10 + i) % 3]
            x = (-0.1 + 0.16 * i) * b.length
            parts.append(rectangle(x, 0, 0.13 * b.length, 0.6 * b.width, cargo, b.height * 0.8))
    return parts


def _small_vehicle(b: Body) -> list[Part]:
    hood = b.height * 0.6
    chassis = _polygon(
        [(-1, -0.9), (-0.9, -1), (0.8, -1), (1, -0.7), (1, 0.7), (0.8, 1), (-0.9, 1), (-1, 0.9)],
        b,
        b.paint,
        hood,
    )
    glass = rectangle(-0.04 * b.length, 0, 0.52 * b.length, 0.84 * b.width, M.GLASS, b.height * 0.9)
    return [chassis, glass, rectangle(-0.07 * b.length, 0, 0.28 * b.length, 0.8 * b.width, b.paint, b.height)]


def _large_vehicle(b: Body) -> list[Part]:
    cab = (M.WHITE, M.RED, M.BLUE)[int(b.detail * 3) % 3]
    return [
        rectangle(0, 0, 0.96 * b.length, 0.5 * b.width, M.DARK, 1.0),
        rectangle(-0.12 * b.length, 0, 0.76 * b.length, b.width, b.paint, b.height),
        rectangle(0.4 * b.length, 0, 0.18 * b.length, 0.94 * b.width, cab, b.height * 0.8),
        rectangle(0.46 * b.length, 0, 0.05 * b.length, 0.84 * b.width, M.GLASS, b.height * 0.6),
    ]


def _plane(b: Body) -> list[Part]:
    wing = [(0.28, 0.1), (-0.2, 1), (-0.32, 1), (-0.12, 0.1)]
    tail = [(-0.72, 0.05), (-0.92, 0.36), (-1, 0.36), (-0.92, 0.05)]
    parts = []
    for side in (1, -1):
        parts.append(_polygon([(x, side * y) for x, y in wing], b, b.paint, b.height * 0.6))
        parts.append(_polygon([(x, side * y) for x, y in tail], b, b.paint, b.height))
        for y in (0.34, 0.6)[: 1 + (b.detail > 0.5)]:
            x = 0.14 - 0.5 * y
            engine = rectangle(
                x * b.length / 2 + 0.04 * b.length,
                side * y * b.width / 2,
                0.1 * b.length,
                0.04 * b.length,
                M.METAL,
                2.0,
            )
            parts.append(engine)
    parts.append(ellipse(0, 0, b.length / 2, 0.055 * b.length, b.paint, b.height * 0.8))
    parts.append(rectangle(-0.42 * b.length, 0, 0.14 * b.length, 0.015 * b.length, M.RED, b.height * 1.6))
    return parts


def _harbor(b: Body) -> list[Part]:
    parts = [rectangle(0, 0, b.length, b.width * 0.5, b.paint, b.height)]
    n_fingers = 3 + int(b.detail * 3)
    for i in range(n_fingers):
        x = (-0.42 + 0.84 * i / (n_fingers - 1)) * b.length
        parts.append(rectangle(x, 0, 0.035 * b.length, b.width * 2.4, b.paint, b.height * 0.7))
        boat = (M.WHITE, M.BLUE, M.DECK)[i % 3]
        for side in (1, -1):
            parts.append(
                ellipse(
                    x + 0.05 * b.length, side * b.width * 0.75, 0.022 * b.length, b.width * 0.38, boat, 2.0
                )
            )
    return parts


def _storage_tank(b: Body) -> list[Part]:
    r = b.length / 2
    inner = (M.METAL, M.ROOF, M.WHITE)[int(b.detail * 3) % 3]
    parts = [
        ellipse(0, 0, r, r, b.paint, b.height),
        ellipse(0, 0, 0.86 * r, 0.86 * r, inner, b.height * 0.93),
    ]
    parts.append(rectangle(0.5 * r, 0, 0.8 * r, 0.07 * r, M.DARK, b.height))
    return parts


def _tennis_court(b: Body) -> list[Part]:
    line, surround = _LINE * b.length, (M.GREEN_COURT, M.CLAY)[int(b.detail * 2)]
    parts = [rectangle(0, 0, b.length, b.width, surround)]
    parts += _frame(0, 0.68 * b.length, 0.64 * b.width, line, b.paint)
    parts += [rectangle(0, s * 0.24 * b.width, 0.68 * b.length, line, M.WHITE) for s in (1, -1)]
    parts += [rectangle(s * 0.18 * b.length, 0, line, 0.48 * b.width, M.WHITE) for s in (1, -1)]
    return [
        *parts,
        rectangle(0, 0, 0.36 * b.length, line, M.WHITE),
        rectangle(0, 0, line, 0.72 * b.width, M.DARK, 1.0),
    ]


def _bridge(b: Body) -> list[Part]:
    parts = [rectangle(s * 0.75 * b.length, 0, 0.5 * b.length, 0.8 * b.width, M.ASPHALT) for s in (1, -1)]
    parts += [
        rectangle(0, 0, b.length, b.width, M.CONCRETE, b.height),
        rectangle(0, 0, b.length, 0.8 * b.width, b.paint, b.height),
    ]
    dashes = np.linspace(-0.45, 0.45, 9) * b.length
    parts += [rectangle(float(x), 0, 0.05 * b.length, 0.07 * b.width, M.WHITE, b.height) for x in dashes]
    return parts


def _swimming_pool(b: Body) -> list[Part]:
    rim = (M.CONCRETE, M.WHITE, M.CLAY)[int(b.detail * 3) % 3]
    parts = []
    for grow, material in ((0.08 * b.length, rim), (0.0, b.paint)):
        if b.detail < 0.5:
            parts.append(
                rectangle(0, 0, b.length - 0.08 * b.length + grow, b.width - 0.08 * b.length + grow, material)
            )
        else:
            parts.append(
                ellipse(-0.18 * b.length, 0, 0.27 * b.length + grow / 2, 0.42 * b.width + grow / 2, material)
            )
            parts.append(
                ellipse(
                    0.2 * b.length,
                    0.1 * b.width,
                    0.24 * b.length + grow / 2,
                    0.32 * b.width + grow / 2,
                    material,
                )
            )
    return parts


def _helicopter(b: Body) -> list[Part]:
    parts = [
        rectangle(-0.25 * b.length, 0, 0.5 * b.length, 0.06 * b.length, b.paint, b.height * 0.6),
        ellipse(0.14 * b.length, 0, 0.24 * b.length, 0.1 * b.length, b.paint, b.height * 0.8),
        ellipse(0.3 * b.length, 0, 0.06 * b.length, 0.07 * b.length, M.GLASS, b.height * 0.7),
        rectangle(-0.46 * b.length, 0, 0.05 * b.length, 0.2 * b.length, b.paint, b.height * 0.7),
    ]
    reach, half = b.width / 2, 0.016 * b.length
    for k in range(2 + int(b.detail * 2)):
        angle = np.pi * (b.detail * 4 + k / (2 + int(b.detail * 2)))
        along = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-along[1], along[0]]) * half
        tip, hub = along * reach, np.array([0.12 * b.length, 0])
        blade = np.stack([hub - tip - across, hub + tip - across, hub + tip + across, hub - tip + across])
        parts.append(Part(blade, M.DARK, b.height))
    return parts


def _basketball_court(b: Body) -> list[Part]:
    line = _LINE * b.length
    key = (M.RED, M.BLUE, b.paint)[int(b.detail * 3) % 3]
    parts = _frame(0, b.length, b.width, line, b.paint)
    for side in (1, -1):
        x = side * 0.5 * b.length
        arc = ellipse(x, 0, 0.26 * b.length, 0.42 * b.width, M.WHITE)
        inner = ellipse(x, 0, 0.26 * b.length - line, 0.42 * b.width - line, b.paint)
        for part in (arc, inner):
            clipped = np.clip(part.polygon, (-b.length / 2, -b.width), (b.length / 2, b.width))
            parts.append(part._replace(polygon=clipped))
        parts += _frame(side * 0.4 * b.length, 0.2 * b.length, 0.34 * b.width, line, key)
        parts.append(rectangle(side * 0.46 * b.length, 0, 0.03 * b.length, 0.1 * b.width, M.METAL, 3.0))
    return [*parts, *_ring(0, 0.13 * b.width, line, key), rectangle(0, 0, line, b.width, M.WHITE)]


def _baseball_diamond(b: Body) -> list[Part]:
    home, reach = np.array([-0.5 * b.length, 0.0]), 0.95 * b.length
    parts = []
    for share, material in ((1.0, M.TRACK), (0.95, M.GRASS), (0.58, b.paint)):
        arc = np.linspace(-np.pi / 4, np.pi / 4, 12)
        fan = home + share * reach * np.stack([np.cos(arc), np.sin(arc)], axis=1)
        parts.append(Part(np.concatenate([home[None], fan]), material, 0.0))
    side = 0.27 * reach
    square = home + np.array([(0.12, 0), (1, -0.88), (1.88, 0), (1, 0.88)]) * side * 0.85
    parts += [
        Part(square, M.GRASS, 0.0),
        ellipse(home[0] + side * 0.9, 0, 0.045 * b.length, 0.045 * b.length, b.paint),
    ]
    parts += [ellipse(float(x), float(y), 0.018 * b.length, 0.018 * b.length, M.WHITE) for x, y in square]
    return [*parts, ellipse(home[0], 0, 0.07 * b.length, 0.07 * b.length, b.paint)]


def _roundabout(b: Body) -> list[Part]:
    r, road = b.length / 2, 0.2 * b.length
    arms = 3 + int(b.detail * 2)
    parts = []
    for k in range(arms):
        angle = 2 * np.pi * k / arms
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        arm = rectangle(1.6 * b.length, 0, 3 * b.length, road, M.ASPHALT)
        line = rectangle(1.6 * b.length, 0, 2.2 * b.length, 0.1 * road, M.WHITE)
        parts += [p._replace(polygon=p.polygon @ turn) for p in (arm, line)]
    parts += [ellipse(0, 0, r, r, M.ASPHALT), *_ring(0, 0.56 * r, 0.05 * r, b.paint)]
    return [*parts, ellipse(0, 0, 0.2 * r, 0.2 * r, M.TREE, b.height)] if b.detail > 0.5 else parts


def _soccer_field(b: Body) -> list[Part]:
    line = _LINE * b.length
    parts = _frame(0, b.length, b.width, line, b.paint)
    for side in (1, -1):
        parts += _frame(side * 0.42 * b.length, 0.16 * b.length, 0.58 * b.width, line, b.paint)
        parts.append(rectangle(side * 0.5 * b.length, 0, line, 0.12 * b.width, M.METAL, 2.5))
    return [*parts, *_ring(0, 0.15 * b.width, line, b.paint), rectangle(0, 0, line, b.width, M.WHITE)]


def _stadium(length: float, width: float, material: Material) -> Part:
    """Return a rectangle closed by two half circles."""
    r, arc = width / 2, np.linspace(-np.pi / 2, np.pi / 2, 10)
    cap = np.stack([np.cos(arc), np.sin(arc)], axis=1) * r + (length / 2 - r, 0)
    return Part(np.concatenate([cap, -cap]), material, 0.0)


def _track_field(b: Body) -> list[Part]:
    lane = 0.05 * b.width
    parts = [_stadium(b.length, b.width, b.paint)]
    parts += [
        _stadium(b.length - i * lane, b.width - i * lane, m) for i, m in ((1.2, M.WHITE), (1.7, b.paint))
    ]
    parts += [
        _stadium(b.length - 2.9 * lane, b.width - 2.9 * lane, M.WHITE),
        _stadium(b.length - 3.4 * lane, b.width - 3.4 * lane, b.paint),
    ]
    parts.append(_stadium(b.length - 5 * lane, b.width - 5 * lane, M.GRASS))
    if b.detail > 0.5:
        parts += _frame(0, 0.5 * b.length, 0.52 * b.width, _LINE * b.length, M.GRASS)
        parts.append(rectangle(0, 0, _LINE * b.length, 0.52 * b.width, M.WHITE))
    return parts


SHAPES: Mapping[str, Callable[[Body], list[Part]]] = {
    "ship": _ship,
    "small-vehicle": _small_vehicle,
    "large-vehicle": _large_vehicle,
    "plane": _plane,
    "harbor": _harbor,
    "storage-tank": _storage_tank,
    "tennis-court": _tennis_court,
    "bridge": _bridge,
    "swimming-pool": _swimming_pool,
    "helicopter": _helicopter,
    "basketball-court": _basketball_court,
    "baseball-diamond": _baseball_diamond,
    "roundabout": _roundabout,
    "soccer-ball-field": _soccer_field,
    "ground-track-field": _track_field,
}
