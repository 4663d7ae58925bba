"""Objects in whole scenes: their boxes, groups of like objects in rows, and where groups find room.

Along the axes of the scene, which follow its shore, room is a matter of rectangles that do not overlap.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from deblora.data.simulate.chips import covered
from deblora.data.simulate.render import CLASSES, SceneObject, place
from deblora.data.simulate.shapes import SHAPES, Body, Material, Part, ellipse, rectangle

M = Material
Border = Literal["inside", "across", "any"]

QUAY = 5.0  # ours: meters of concrete along the shore
ALIGNED_SHARE = 0.7  # ours: groups that follow the shore
LEAST_VISIBLE = 0.2  # ours: no object shows less of itself, nor has its middle outside
_N_TRIES = 96  # ours: random places tried per group
_SIGNS = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) / 2

ROUND = ("storage-tank", "roundabout")
# A quarter of a disc is tightest in a box along its two straight edges.
BOX_TURN = {"baseball-diamond": np.pi / 4}
# Ours: parts that reach farther than this share of the length are roads toward the object, not the object.
_REACH = 0.75

# Ours: fewest and most objects of one group; the other classes stand alone.
GROUP_SIZES: Mapping[str, tuple[int, int]] = {
    "ship": (1, 6),
    "small-vehicle": (4, 24),
    "large-vehicle": (2, 10),
    "plane": (1, 5),
    "storage-tank": (2, 8),
    "tennis-court": (1, 4),
}
_MIN_PITCH = 1.15  # ours: distance of neighbors in a row as a share of their size
_ROUND_PITCH = 1.5  # upright boxes of round objects in a turned row need more than the square root of 2
_JITTER = 0.03  # ours: share of the size by which an object leaves its row


def own_parts(class_name: str, body: Body) -> list[Part]:
    """Return the outlines that belong to the object, without the roads that lead to a bridge or a roundabout."""
    limit = _REACH * body.length
    return [part for part in SHAPES[class_name](body) if np.abs(part.polygon).max() <= limit]


def tight_quad(item: SceneObject) -> Float[np.ndarray, "4 2"]:
    """Return the box that encloses the object, in meters of the scene.

    Its sides follow the heading; round objects have an upright box, a baseball diamond one along its foul lines.

    Returns:
        Corners clockwise on screen (y down) from the front left one.
    """
    turn = -item.heading if item.class_name in ROUND else BOX_TURN.get(item.class_name, 0.0)
    points = np.concatenate([part.polygon for part in own_parts(item.class_name, item.body)])
    points = points @ rotation(-turn)
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    corners = np.array([(x1, y0), (x1, y1), (x0, y1), (x0, y0)])
    quad: Float[np.ndarray, "4 2"] = corners @ rotation(turn + item.heading) + item.center
    return quad


def visible_share(quad: Float[np.ndarray, "4 2"], extent: float) -> float:
    """Return the share of a convex quad's area inside the square of side ``extent`` around the origin."""
    if np.abs(quad).max() <= extent / 2:
        return 1.0
    polygon = quad
    for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
        inside = extent / 2 - sign * polygon[:, axis]
        kept = []
        for i in range(len(polygon)):
            j = (i + 1) % len(polygon)
            if inside[i] >= 0:
                kept.append(polygon[i])
            if inside[i] * inside[j] < 0:
                kept.append(polygon[i] + inside[i] / (inside[i] - inside[j]) * (polygon[j] - polygon[i]))
        if len(kept) < 3:
            return 0.0
        polygon = np.array(kept)
    return _area(polygon) / _area(quad)


def _area(polygon: Float[np.ndarray, "p 2"]) -> float:
    x, y = polygon.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def rotation(angle: float) -> Float[np.ndarray, "2 2"]:
    """Return the matrix that turns row vectors by ``angle`` radians, clockwise on screen (y down)."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, sine], [-sine, cosine]])


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


@dataclass(frozen=True)
class Placed:
    """An object in its scene, its box in meters, and the material it stands on."""

    item: SceneObject
    quad: Float[np.ndarray, "4 2"]
    ground: Material


class Site:
    """A scene under construction; positions are in meters from its middle, x to the right and y down.

    Args:
        extent: Side of the scene in meters.
        coast: Whether the sea covers one side; ships and harbors need it.
        rng: Source of randomness.

    Attributes:
        ground: Material between everything.
        coast: As given.
        placed: The objects so far.
        used: Square meters of their plots.
    """

    def __init__(self, extent: float, *, coast: bool, rng: np.random.Generator) -> None:
        self.ground = M.GRASS if rng.random() < 0.7 else M.SOIL
        self.coast, self.used, self.placed = coast, 0.0, list[Placed]()
        self._rng, self._axes = rng, Axes(float(rng.uniform(0, 2 * np.pi)), extent)
        self._shore = float(rng.uniform(0.0, 0.25)) * extent if coast else None
        self._taken: list[tuple[float, float, float, float]] = []
        self._plots = self._fields()
        if self._shore is not None:
            far = 4 * extent
            self._plots.append(self._axes.rectangle((0, self._shore + far / 2), (far, far), M.WATER))
            self._plots.append(
                self._axes.rectangle((0, self._shore - QUAY / 2), (far, QUAY), M.CONCRETE, 1.5)
            )

    def parts(self) -> list[Part]:
        """Return all outlines in drawing order."""
        parts = list(self._plots)
        for one in self.placed:
            item = one.item
            parts += place(own_parts(item.class_name, item.body), item.center, item.heading)
        return parts

    def add(self, group: Group, *, border: Border) -> bool:
        """Place all objects of ``group``, or none when no room is found."""
        rng, axes = self._rng, self._axes
        harbor = group.class_name == "harbor"
        sea = group.class_name in ("ship", "harbor")
        aligned_share = 1.0 if harbor else ALIGNED_SHARE
        heading = draw_heading(axes.heading, coverage=group.coverage, aligned_share=aligned_share, rng=rng)
        rows = arrange(group, rng)
        length, width = (side + 2.0 + 0.04 * max(rows.extent) for side in rows.extent)
        cosine, sine = abs(math.cos(heading - axes.heading)), abs(math.sin(heading - axes.heading))
        sides = (length * cosine + width * sine, length * sine + width * cosine)
        # A harbor without room at the shore lies off it.
        for at_shore in (True, False) if harbor else (False,):
            for u, v in self._free(sides, sea=sea, at_shore=at_shore, border=border):
                placed = self._stand(group, (u, v), heading, rows.centers)
                if border == "across" and not self._crosses([one.quad for one in placed]):
                    continue
                self._take((u, v), sides)
                self.used += sides[0] * sides[1]
                if not sea:
                    plot = rectangle(0, 0, length, width, group.ground)
                    x, y = axes.to_scene(np.array([(u, v)]))[0]
                    self._plots += place([plot], (float(x), float(y)), heading)
                self.placed += placed
                return True
        return False

    def scatter(self, n_buildings: int, n_trees: int) -> None:
        """Fill free land with buildings and trees, fewer where room is short."""
        rng = self._rng
        for _ in range(n_buildings):
            length, width = float(rng.uniform(9, 26)), float(rng.uniform(7, 13))
            for u, v in self._free((length + 4, width + 4), sea=False, border="any")[:1]:
                self._take((u, v), (length + 4, width + 4))
                roof = (M.ROOF, M.CLAY, M.CONCRETE)[int(rng.integers(3))]
                height = float(rng.uniform(3, 8))
                self._plots.append(self._axes.rectangle((u, v), (length, width), roof, height))
        for _ in range(n_trees):
            radius = float(rng.uniform(1.5, 4.0))
            for u, v in self._free((2 * radius, 2 * radius), sea=False, border="any", n_tries=4)[:1]:
                x, y = self._axes.to_scene(np.array([(u, v)]))[0]
                crown = ellipse(x, y, radius, radius * float(rng.uniform(0.7, 1)), M.TREE, 1.6 * radius)
                self._plots.append(crown)

    def _fields(self) -> list[Part]:
        """Return large patches of grass and soil."""
        parts = []
        for _ in range(int(self._rng.integers(2, 6))):
            u, v = self._rng.uniform(-0.6, 0.6, size=2) * self._axes.extent
            length, width = self._rng.uniform(0.2, 0.6, size=2) * self._axes.extent
            material = (M.GRASS, M.SOIL)[int(self._rng.integers(2))]
            parts.append(self._axes.rectangle((float(u), float(v)), (float(length), float(width)), material))
        return parts

    def _free(
        self,
        sides: tuple[float, float],
        *,
        sea: bool,
        border: Border,
        at_shore: bool = False,
        n_tries: int = _N_TRIES,
    ) -> list[tuple[float, float]]:
        """Return random centers (u, v) of free rectangles on the sea or on land.

        They lie inside the border of the image, across it or at any side of it; ``at_shore`` they touch the shore.
        """
        half, shore = self._axes.extent / 2, self._shore
        if sea and shore is None:
            return []
        centers = self._axes.to_axes(self._rng.uniform(-half, half, size=(n_tries, 2)))
        if at_shore and shore is not None:
            centers[:, 1] = shore + sides[1] / 2
        low, high = centers - np.array(sides) / 2, centers + np.array(sides) / 2
        corners = self._axes.to_scene((centers[:, None] + _SIGNS * sides).reshape(-1, 2))
        inside = (np.abs(corners).reshape(n_tries, -1) <= half).all(axis=1)
        good = {"inside": inside, "across": ~inside, "any": inside | True}[border]
        if shore is not None:
            good &= low[:, 1] >= shore if sea else high[:, 1] <= shore - QUAY
        u0, u1, v0, v1 = np.array(self._taken, dtype=float).reshape(-1, 4).T
        apart = (low[:, :1] >= u1) | (high[:, :1] <= u0) | (low[:, 1:] >= v1) | (high[:, 1:] <= v0)
        return [(float(u), float(v)) for u, v in centers[good & apart.all(axis=1)]]

    def _crosses(self, quads: Sequence[Float[np.ndarray, "4 2"]]) -> bool:
        """Whether the border cuts at least one of the boxes, and none too deep."""
        half = self._axes.extent / 2
        shares = [visible_share(quad, 2 * half) for quad in quads]
        middles = np.abs([quad.mean(axis=0) for quad in quads])
        return bool(middles.max() < half) and LEAST_VISIBLE <= min(shares) < 1

    def _take(self, center: tuple[float, float], sides: tuple[float, float]) -> None:
        (u, v), (du, dv) = center, sides
        self._taken.append((u - du / 2, u + du / 2, v - dv / 2, v + dv / 2))

    def _stand(
        self, group: Group, uv: tuple[float, float], heading: float, centers: Float[np.ndarray, "n 2"]
    ) -> list[Placed]:
        spots = centers @ rotation(heading) + self._axes.to_scene(np.array([uv]))
        heading -= BOX_TURN.get(group.class_name, 0.0)
        items = [
            SceneObject(group.class_name, (float(x), float(y)), heading, body)
            for (x, y), body in zip(spots, group.bodies, strict=True)
        ]
        return [Placed(item, tight_quad(item), group.ground) for item in items]
