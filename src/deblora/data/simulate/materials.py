"""Surface materials as every sensor sees them, and the polygons that carry them.

The tables are ours: plausible values for bright and dark surfaces, not measurements.
"""

import enum
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
_LINE = (
    0.014  # ours: painted lines are this share of the length, thicker than real ones, to survive 64 pixels
)


def rectangle(
    x: float, y: float, length: float, width: float, material: Material, height: float = 0.0
) -> Part:
    """Return an axis-aligned rectangle centered on (``x``, ``y``)."""
    a, b = length / 2, width / 2
    return Part(np.array([(x - a, y - b), (x + a, y - b), (x + a, y + b), (x - a, y + b)]), material, height)


def ellipse(x: float, y: float, a: float, b: float, material: Material, height: float = 0.0) -> Part:
    """Return an ellipse with half axes ``a`` and ``b`` centered on (``x``, ``y``)."""
    return Part(_CIRCLE * (a, b) + (x, y), material, height)
