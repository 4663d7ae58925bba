"""Simulated whole scenes with oriented boxes: as many objects per class as asked for, seen by any sensor.

Tail classes see only a part of their grounds, paints, sizes and headings in train and all of them in val and
test, as the chips of :mod:`deblora.data.simulate.chips` do.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8

from deblora.data.simulate.chips import SPLITS, TAIL_CLASS_NAMES
from deblora.data.simulate.layout import Border, Group, Placed, Site, draw_groups, halves, visible_share
from deblora.data.simulate.render import CLASSES, RGB_BANDS, draw_scene, render_optical, render_sar
from deblora.data.simulate.shapes import Material, Part
from deblora.errors import DataError

SceneSensor = Literal["optical", "multispectral", "sar"]
SENSORS: tuple[SceneSensor, ...] = ("optical", "multispectral", "sar")
MULTISPECTRAL_BANDS = tuple(range(7))  # B, G, R, red edge, NIR, SWIR1, SWIR2
MIN_VISIBLE = 0.7  # usual share below which DOTA tiles mark an object as truncated
_COAST_FILL = 0.12  # ours: share of a scene that ships and harbors may claim before more scenes have a coast
TRUNCATED_SHARE = 0.12  # ours: groups across the border of the image, where they find room there


@dataclass(frozen=True)
class SceneRecipe:
    """All that decides the scenes of one split except the sensor.

    Attributes:
        split: "train", "val" or "test".
        n_scenes: Scenes of the split, >= 1.
        quotas: Class name to the number of its objects over all scenes; classes left out do not appear.
        size: Side of a scene in pixels, a multiple of 8.
        gsd: Meters per pixel, > 0.
        tail_coverage: In (0, 1]; share of grounds, paints, sizes and headings that tail classes show in train.
        tail_class_names: The classes so limited.
        seed: Not negative.

    Raises:
        ValueError: If a value is outside its range.
    """

    split: str
    n_scenes: int
    quotas: Mapping[str, int]
    size: int
    gsd: float
    tail_coverage: float
    tail_class_names: tuple[str, ...]
    seed: int

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, not {self.split!r}")
        unknown = [name for name in (*self.quotas, *self.tail_class_names) if name not in CLASSES]
        if unknown:
            raise ValueError(f"there is no class {unknown[0]!r}; the classes are {', '.join(CLASSES)}")
        if any(not isinstance(n, int | np.integer) or n < 0 for n in self.quotas.values()):
            raise ValueError(f"quotas must be whole numbers of at least 0, not {dict(self.quotas)}")
        if self.n_scenes < 1 or self.seed < 0:
            raise ValueError(
                f"n_scenes must be at least 1 and seed at least 0, not {self.n_scenes} and {self.seed}"
            )
        if self.size < 16 or self.size % 8:
            raise ValueError(f"size must be a multiple of 8, at least 16, not {self.size}")
        if not (math.isfinite(self.gsd) and self.gsd > 0):
            raise ValueError(f"gsd must be positive, not {self.gsd}")
        if not 0 < self.tail_coverage <= 1:
            raise ValueError(f"tail_coverage must lie in (0, 1], not {self.tail_coverage}")

    def coverage(self, class_name: str) -> float:
        """Return the share of its attributes that a class shows in this split."""
        limited = self.split == "train" and class_name in self.tail_class_names
        return self.tail_coverage if limited else 1.0

    def rng(self, index: int, stream: int) -> np.random.Generator:
        """Return the generator of scene ``index``: stream 0 for its geometry, 1 for the sensor, 2 for the plan."""
        return np.random.default_rng([self.seed, SPLITS.index(self.split), index, stream])


@dataclass(frozen=True)
class SceneLayout:
    """The geometry of one scene in meters from its middle, before any sensor."""

    name: str
    index: int
    ground: Material
    parts: tuple[Part, ...]
    placed: tuple[Placed, ...]


@dataclass(frozen=True)
class SimulatedScene:
    """An image and its boxes.

    Attributes:
        name: Unique within all splits, without file extension.
        image: RGB, seven bands (blue, green, red, red edge, NIR, SWIR 1, SWIR 2) or one band of backscatter.
        quads: Corners clockwise on screen in pixels; pixel i covers [i, i + 1). Boxes of truncated objects go on
            beyond the image.
        class_names: Class of each box.
        difficult: Whether less than ``MIN_VISIBLE`` of a box lies inside the image.
    """

    name: str
    image: UInt8[np.ndarray, "h w b"]
    quads: Float[np.ndarray, "n 4 2"]
    class_names: tuple[str, ...]
    difficult: Bool[np.ndarray, " n"]


def simulate_scenes(
    n_scenes: int,
    *,
    split: str,
    quotas: Mapping[str, int],
    size: int = 512,
    gsd: float = 0.5,
    sensor: SceneSensor = "optical",
    tail_coverage: float = 1.0,
    tail_class_names: tuple[str, ...] = TAIL_CLASS_NAMES,
    seed: int = 0,
) -> Iterator[SimulatedScene]:
    """Yield the scenes of one split with exactly the number of objects asked for.

    Equal arguments give equal scenes; another quota or number of scenes rearranges all of them. Sensors share
    geometry and boxes, optical and multispectral also the sun.
    Boxes outline the ground position of an object; SAR images show its top shifted toward the sensor (the left).

    Args:
        n_scenes: Number of scenes.
        split: "train", "val" or "test".
        quotas: Objects per class over all scenes, for instance by
            :func:`deblora.data.longtail.exponential_counts`.
        size: Side in pixels, a multiple of 8; 512 is ours.
        gsd: Meters per pixel; 0.5 is ours.
        sensor: "optical" (h w 3), "multispectral" (h w 7) or "sar" (h w 1).
        tail_coverage: In (0, 1]; share of grounds, paints, sizes and headings that ``tail_class_names`` show in
            train. Round objects have no heading.
        tail_class_names: The last third of the classes by frequency; ours.
        seed: Not negative.

    Raises:
        DataError: If the objects do not fit into the scenes; before the first scene is yielded.
        ValueError: If an argument is outside its range.
    """
    if sensor not in SENSORS:
        raise ValueError(f"sensor must be one of {SENSORS}, not {sensor!r}")
    recipe = SceneRecipe(split, n_scenes, quotas, size, gsd, tail_coverage, tail_class_names, seed)
    layouts = plan_scenes(recipe)
    return (render_layout(layout, recipe, sensor=sensor) for layout in layouts)


def render_layout(layout: SceneLayout, recipe: SceneRecipe, *, sensor: SceneSensor) -> SimulatedScene:
    """Return a planned scene as ``sensor`` sees it."""
    scene = draw_scene(layout.parts, ground=layout.ground, size=2 * recipe.size, gsd=recipe.gsd / 2)
    rng = recipe.rng(layout.index, 1)
    if sensor == "sar":
        image = render_sar(scene, rng)
    else:
        bands = RGB_BANDS if sensor == "optical" else MULTISPECTRAL_BANDS
        image = render_optical(scene, rng, bands=bands)
    quads = np.array([one.quad for one in layout.placed], dtype=np.float64).reshape(-1, 4, 2)
    extent = recipe.size * recipe.gsd
    return SimulatedScene(
        layout.name,
        image,
        quads / recipe.gsd + recipe.size / 2,
        tuple(one.item.class_name for one in layout.placed),
        np.array([visible_share(quad, extent) < MIN_VISIBLE for quad in quads], dtype=bool),
    )


def plan_scenes(recipe: SceneRecipe) -> tuple[SceneLayout, ...]:
    """Return the geometry of all scenes of a split.

    Groups are drawn class by class and go, those of large objects first, to the emptiest scene that has room.

    Raises:
        DataError: If the objects do not fit into the scenes.
    """
    rng = recipe.rng(0, 2)
    groups = {
        name: draw_groups(name, n, coverage=recipe.coverage(name), rng=rng)
        for name, n in recipe.quotas.items()
    }
    sites = _open_sites(recipe, groups, rng)
    waiting = sorted((group for listed in groups.values() for group in listed), key=_largest)
    while waiting:
        group = waiting.pop()
        order = np.argsort([site.used + 1 for site in sites] * rng.uniform(0.5, 1.0, size=len(sites)))
        fit = [sites[i] for i in order if sites[i].coast or not _at_sea(group)]
        # Each round draws new headings; a single object without room elsewhere may cross the border.
        borders: list[Border] = ["across", "inside"] if rng.random() < TRUNCATED_SHARE else ["inside"]
        if len(group.bodies) == 1:
            borders += ["inside", "across"]
        if any(site.add(group, border=border) for border in borders for site in fit):
            continue
        if len(group.bodies) == 1:
            raise DataError(
                f"no room for the class {group.class_name} in {recipe.n_scenes} {recipe.split} scenes of "
                f"{recipe.size * recipe.gsd:.0f} m; use more or larger scenes, or lower its quota of "
                f"{recipe.quotas[group.class_name]}"
            )
        waiting += halves(group)
    area = (recipe.size * recipe.gsd) ** 2
    layouts = []
    for i, site in enumerate(sites):
        site.scatter(min(40, round(area / 4000)), min(120, round(area / 700)))
        name = f"{recipe.split}{i:05d}"
        layouts.append(SceneLayout(name, i, site.ground, tuple(site.parts()), tuple(site.placed)))
    return tuple(layouts)


def _open_sites(
    recipe: SceneRecipe, groups: Mapping[str, list[Group]], rng: np.random.Generator
) -> list[Site]:
    """Return the empty scenes; as many have a coast as ships and harbors need."""
    n, extent = recipe.n_scenes, recipe.size * recipe.gsd
    at_sea = [group for name in ("ship", "harbor") for group in groups.get(name, [])]
    demand = sum(map(_area, at_sea)) / (_COAST_FILL * extent**2)
    n_coasts = min(n, max(math.ceil(0.3 * n), math.ceil(demand))) if at_sea else 0
    coasts = set(rng.permutation(n)[:n_coasts].tolist())
    return [Site(extent, coast=i in coasts, rng=recipe.rng(i, 0)) for i in range(n)]


def _at_sea(group: Group) -> bool:
    return group.class_name in ("ship", "harbor")


def _largest(group: Group) -> float:
    # Harbors come before ships would take their place at the shore.
    return max(body.length * max(body.width, 0.7 * body.length) for body in group.bodies)


def _area(group: Group) -> float:
    # Ships keep their distance and harbors have jetties: most of a square of their length is taken.
    return sum(0.8 * body.length**2 for body in group.bodies)
