"""Simulated overhead scenes: one geometry (material map and height map), seen by an optical or a SAR sensor.

The object sizes and the frequencies of the classes are ours, chosen to resemble DOTA.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from deblora.data.simulate.shapes import (
    BACKSCATTER_DB,
    REFLECTANCE,
    SHAPES,
    TEXTURE,
    Body,
    Material,
    Part,
    ellipse,
    rectangle,
)

M = Material

RGB_BANDS = (2, 1, 0)

SHADOW_FACTOR = 0.28  # ours: share of the light that reaches a cast shadow
INCIDENCE_DEGREES = 38.0  # ours: a common spaceborne geometry
N_LOOKS = 2  # ours
NOISE_FLOOR_DB = -26.0  # ours
DB_RANGE = (-28.0, 8.0)  # ours: mapped linearly to 0..255


@dataclass(frozen=True)
class ClassSpec:
    """Ranges that one class draws from; tuples are ordered from typical to rare.

    Attributes:
        length: Shortest and longest object in meters.
        aspect: Smallest and largest width / length.
        height: Meters above the ground.
        zone: Decides the surroundings: sea, apron, road, sport or industry.
        frequency: Relative frequency, DOTA-like.
        grounds: Materials the object may stand on.
        paints: Main materials of the object.
        spacing: Distance of the next row and the next object as shares of (length, width); None stands alone.
    """

    length: tuple[float, float]
    aspect: tuple[float, float]
    height: float
    zone: str
    frequency: int
    grounds: tuple[Material, ...]
    paints: tuple[Material, ...]
    spacing: tuple[float, float] | None = None


_HARD = (M.CONCRETE, M.ASPHALT, M.GRASS)
_ROAD = (M.ASPHALT, M.CONCRETE, M.SOIL, M.GRASS)
_PLOT = (M.GRASS, M.CONCRETE, M.SOIL, M.ASPHALT)
_COATS = (M.WHITE, M.DARK, M.RED, M.BLUE, M.METAL)
_COURTS = (M.GREEN_COURT, M.BLUE_COURT, M.CLAY, M.ASPHALT)

CLASSES: dict[str, ClassSpec] = {
    "ship": ClassSpec(
        (12, 60), (0.18, 0.30), 5, "sea", 2800, (M.WATER,), (M.DARK, M.RED, M.WHITE, M.BLUE), (1.25, 2.2)
    ),
    "small-vehicle": ClassSpec((3.8, 5.2), (0.40, 0.46), 1.5, "road", 2600, _ROAD, _COATS, (1.35, 1.5)),
    "large-vehicle": ClassSpec((8, 16), (0.17, 0.28), 3.5, "road", 1700, _ROAD, _COATS, (1.25, 1.6)),
    "plane": ClassSpec(
        (16, 40), (0.85, 1.0), 5, "apron", 800, _HARD, (M.WHITE, M.METAL, M.BLUE), (1.3, 1.25)
    ),
    "harbor": ClassSpec((30, 80), (0.10, 0.20), 2, "sea", 600, (M.WATER,), (M.CONCRETE, M.DECK, M.ASPHALT)),
    "storage-tank": ClassSpec(
        (8, 24), (1, 1), 9, "industry", 500, _PLOT, (M.WHITE, M.METAL, M.ROOF, M.RED), (1.4, 1.4)
    ),
    "tennis-court": ClassSpec((30, 36), (0.47, 0.52), 0, "sport", 240, _PLOT, _COURTS[:3], (1.1, 1.1)),
    "bridge": ClassSpec(
        (40, 90), (0.12, 0.20), 6, "sea", 200, (M.WATER, M.GRASS, M.SOIL), (M.ASPHALT, M.CONCRETE)
    ),
    "swimming-pool": ClassSpec(
        (8, 20), (0.40, 0.70), 0, "sport", 170, _PLOT, (M.POOL, M.BLUE_COURT, M.WATER)
    ),
    "helicopter": ClassSpec((11, 17), (0.70, 0.90), 3.5, "apron", 63, _HARD, _COATS[:4]),
    "basketball-court": ClassSpec((24, 28), (0.50, 0.56), 0, "sport", 51, _PLOT, _COURTS),
    "baseball-diamond": ClassSpec((40, 60), (1, 1), 0, "sport", 41, _PLOT[:3], (M.CLAY, M.SOIL, M.TRACK)),
    "roundabout": ClassSpec(
        (24, 44), (1, 1), 4, "road", 40, _PLOT[:3], (M.GRASS, M.CONCRETE, M.SOIL, M.CLAY)
    ),
    "soccer-ball-field": ClassSpec(
        (60, 90), (0.60, 0.70), 0, "sport", 32, _PLOT, (M.GRASS, M.GREEN_COURT, M.SOIL)
    ),
    "ground-track-field": ClassSpec(
        (90, 120), (0.50, 0.56), 0, "sport", 32, _PLOT, (M.TRACK, M.BLUE_COURT, M.CLAY)
    ),
}


@dataclass(frozen=True)
class SceneObject:
    """One placed object: center in meters from the middle of the scene, heading in radians."""

    class_name: str
    center: tuple[float, float]
    heading: float
    body: Body

    def parts(self) -> list[Part]:
        """Return its outlines in scene coordinates."""
        return place(SHAPES[self.class_name](self.body), self.center, self.heading)


@dataclass(frozen=True)
class Scene:
    """What lies where and how high it stands (meters), before any sensor; ``gsd`` is meters per pixel."""

    material: UInt8[np.ndarray, "h w"]
    height: Float[np.ndarray, "h w"]
    gsd: float


def place(parts: Sequence[Part], center: tuple[float, float], heading: float) -> list[Part]:
    """Return ``parts`` turned by ``heading`` (radians) and moved to ``center`` (meters)."""
    cosine, sine = np.cos(heading), np.sin(heading)
    turn = np.array([[cosine, sine], [-sine, cosine]])
    return [Part(part.polygon @ turn + center, part.material, part.height) for part in parts]


def surroundings(zone: str, ground: Material, extent: float, rng: np.random.Generator) -> list[Part]:
    """Return what lies around the objects of a zone, in a frame whose x axis is the heading of the objects.

    Args:
        zone: One of sea, apron, road, sport, industry.
        ground: Material of the ground.
        extent: Side of the scene in meters.
        rng: Source of randomness.
    """
    side, far = float(rng.choice([-1, 1])), 3 * extent
    parts: list[Part] = []
    if zone == "sea" and ground == M.WATER and rng.random() < 0.4:
        parts.append(rectangle(0, side * (0.44 * extent + far / 2), far, far, M.CONCRETE, 1.5))
    if zone == "apron":
        parts.append(rectangle(0, side * 0.42 * extent, far, 0.012 * extent, M.CLAY))
    if zone == "road":
        parts.append(rectangle(0, side * 0.45 * extent, far, 0.02 * extent, M.WHITE))
    if zone == "industry" and rng.random() < 0.5:
        parts.append(rectangle(0, side * 0.55 * extent, 0.7 * extent, 0.25 * extent, M.ROOF, 6.0))
    if ground != M.WATER and zone in ("sport", "road", "industry"):
        for angle in rng.uniform(0, 2 * np.pi, size=int(rng.integers(0, 5))):
            x, y = 0.52 * extent * np.cos(angle), 0.52 * extent * np.sin(angle)
            radius = float(rng.uniform(0.03, 0.07)) * extent
            parts.append(ellipse(float(x), float(y), radius, radius, M.TREE, min(6.0, 2 * radius)))
    return parts


def draw_scene(parts: Sequence[Part], *, ground: Material, size: int, gsd: float) -> Scene:
    """Rasterize ``parts`` in order over a flat ``ground``; the origin is the middle of the square."""
    material, height = Image.new("L", (size, size), int(ground)), Image.new("F", (size, size), 0.0)
    pens = ImageDraw.Draw(material), ImageDraw.Draw(height)
    for part in parts:
        pixels = part.polygon / gsd + (size - 1) / 2
        lower, upper = pixels.min(axis=0), pixels.max(axis=0)
        if upper.min() < 0 or lower.max() > size:
            continue
        points = pixels.ravel().tolist()
        pens[0].polygon(points, fill=int(part.material))
        pens[1].polygon(points, fill=part.height)
    return Scene(np.asarray(material), np.asarray(height), gsd)


def cast_shadow(
    height: Float[np.ndarray, "h w"], *, gsd: float, elevation: float, tolerance: float = 0.15
) -> Bool[np.ndarray, "h w"]:
    r"""Mark what a source at the left cannot see.

    A pixel is dark where $z + r < \max_{left}(z + r) - t$ with the ramp $r = x\,g\tan e$ ($g$: gsd,
    $e$: elevation, $t$: tolerance).

    Args:
        height: Meters above the ground.
        gsd: Meters per pixel.
        elevation: Of the source above the horizon in radians.
        tolerance: Meters of shadow depth to ignore; .15 is ours.
    """
    ramp = (np.arange(height.shape[1]) * (gsd * np.tan(elevation))).astype(np.float32)
    line = height + ramp
    hidden: Bool[np.ndarray, "h w"] = line < np.maximum.accumulate(line, axis=1) - tolerance
    return hidden


def _texture(scene: Scene, rng: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """Return 1 + smooth and fine noise, as strong as each material is rough."""
    h, w = scene.material.shape
    coarse = Image.fromarray(rng.standard_normal((h // 8, w // 8), dtype=np.float32))
    fine = Image.fromarray(rng.standard_normal((h // 2, w // 2), dtype=np.float32))
    noise = np.asarray(coarse.resize((w, h), Image.Resampling.BILINEAR)) + np.asarray(
        fine.resize((w, h), Image.Resampling.NEAREST)
    )
    out: Float[np.ndarray, "h w"] = np.clip(1 + TEXTURE[scene.material] * noise, 0.2, None)
    return out


def _halve(image: Float[np.ndarray, "h w *b"]) -> Float[np.ndarray, "g v *b"]:
    """Return means of 2 x 2 pixels: edges drawn at twice the resolution become smooth."""
    mean: Float[np.ndarray, "g v *b"] = (
        image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]
    ) / 4
    return mean


def _blur(image: Float[np.ndarray, "h w *b"], side: float) -> Float[np.ndarray, "h w *b"]:
    """Blur along both axes with the three taps (side, 1 - 2 side, side)."""
    padded = np.concatenate([image[:1], image, image[-1:]])
    image = (1 - 2 * side) * image + side * (padded[:-2] + padded[2:])
    padded = np.concatenate([image[:, :1], image, image[:, -1:]], axis=1)
    blurred: Float[np.ndarray, "h w *b"] = (1 - 2 * side) * image + side * (padded[:, :-2] + padded[:, 2:])
    return blurred


def render_optical(
    scene: Scene, rng: np.random.Generator, *, bands: tuple[int, ...] = RGB_BANDS
) -> UInt8[np.ndarray, "g v b"]:
    """Render at half the size of ``scene``.

    Reflectance x texture x sunlight, haze, blur, noise (sigma .004), gain 2.6, gamma 1 / 1.6, all ours.

    Args:
        scene: Geometry; sides divisible by 16.
        rng: Sun (elevation 30-65 degrees, from one of four sides), haze, texture and noise.
        bands: Columns of ``REFLECTANCE``; red, green and blue by default.
    """
    side = int(rng.integers(4))
    lit_from_left = np.rot90(scene.height, side)
    hidden = cast_shadow(lit_from_left, gsd=scene.gsd, elevation=np.deg2rad(rng.uniform(30, 65)))
    shade = np.where(np.rot90(hidden, -side), np.float32(SHADOW_FACTOR), np.float32(1)) * _texture(scene, rng)
    light = np.float32(rng.uniform(0.8, 1.2))
    haze = np.float32(rng.uniform(0, 0.02)) * np.linspace(1.5, 0.5, REFLECTANCE.shape[1], dtype=np.float32)
    palette = REFLECTANCE[:, list(bands)]
    image = _halve(palette[scene.material] * (light * shade)[..., None]) + haze[list(bands)]
    image = _blur(image, 0.15)
    image += 0.004 * rng.standard_normal(image.shape, dtype=np.float32)
    encoded = np.clip(2.6 * image, 0, 1) ** np.float32(1 / 1.6)
    return (255 * encoded + 0.5).astype(np.uint8)


def render_sar(scene: Scene, rng: np.random.Generator) -> UInt8[np.ndarray, "g v 1"]:
    """Render intensity in dB at half the size of ``scene``, sensor at the left.

    Backscatter x texture, radar shadow, double bounce (2.5 x rising step), layover (each pixel moves
    z / (tan(incidence) gsd) pixels toward the sensor and adds up), blur, noise floor, gamma speckle.

    Args:
        scene: Geometry; sides divisible by 16.
        rng: Texture and speckle.
    """
    h, w = scene.material.shape
    tangent = np.tan(np.deg2rad(INCIDENCE_DEGREES))
    power = (10 ** (BACKSCATTER_DB / 10))[scene.material] * _texture(scene, rng)
    hidden = cast_shadow(scene.height, gsd=scene.gsd, elevation=np.pi / 2 - np.deg2rad(INCIDENCE_DEGREES))
    power[hidden] = 0
    step = np.diff(scene.height, axis=1, append=scene.height[:, -1:])
    power += 2.5 * np.clip(step, 0, None)
    columns = np.arange(w) - (scene.height / (tangent * scene.gsd)).astype(np.int64)
    inside = columns >= 0
    target = (np.arange(h)[:, None] * w + columns)[inside]
    laid = np.bincount(target, weights=power[inside], minlength=h * w).reshape(h, w)
    clean = _blur(_halve(laid), 0.18) + 10 ** (NOISE_FLOOR_DB / 10)
    speckled = clean * rng.gamma(N_LOOKS, 1 / N_LOOKS, size=clean.shape)
    low, high = DB_RANGE
    scaled = (10 * np.log10(np.maximum(speckled, 1e-9)) - low) / (high - low)
    return (255 * np.clip(scaled, 0, 1) + 0.5).astype(np.uint8)[..., None]
