"""Where groups of objects find room in a whole scene, between shore, canal and roads.

Along the axes of the scene, room is a matter of rectangles that do not overlap.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from deblora.data.simulate.groups import VEHICLES, Group, arrange, draw_heading
from deblora.data.simulate.materials import Material, Part, ellipse, rectangle
from deblora.data.simulate.objects import BOX_TURN, own_parts, rotation, tight_quad, visible_share
from deblora.data.simulate.render import SceneObject, place
from deblora.data.simulate.roads import (
    QUAY,
    ROAD_WIDTH,
    Axes,
    Bands,
    draw_bands,
    draw_fields,
    draw_roads,
    pave,
    traffic_slots,
)

M = Material
Border = Literal["inside", "across", "any"]

ALIGNED_SHARE = 0.7  # ours: groups that follow roads and shore
TRAFFIC_SHARE = 0.35  # ours: groups of vehicles that drive instead of park
LEAST_VISIBLE = 0.2  # ours: no object shows less of itself, nor has its middle outside
_N_TRIES = 96  # ours: random places tried per group
_SIGNS = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) / 2


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
        bridges: Groups of one bridge over a common canal or valley.
        roundabouts: Groups of one roundabout on the main road.
        rng: Source of randomness.

    Attributes:
        ground: Material between everything.
        coast: As given.
        placed: The objects so far.
        used: Square meters of their plots.

    Raises:
        DataError: If there is no room for the bridges and roundabouts.
    """

    def __init__(
        self,
        extent: float,
        *,
        coast: bool,
        bridges: Sequence[Group],
        roundabouts: Sequence[Group],
        rng: np.random.Generator,
    ) -> None:
        # They cross the same canal, which is of one material.
        bridges = [replace(group, ground=bridges[0].ground) for group in bridges]
        # Bridges follow the cross roads: the scene turns until their heading is covered.
        coverage = min((group.coverage for group in bridges), default=1.0)
        heading = float(rng.uniform(0, coverage) * np.pi + np.pi * rng.integers(2) - np.pi / 2)
        span = max((group.bodies[0].length for group in bridges), default=0.0)
        disc = max((group.bodies[0].length for group in roundabouts), default=0.0)
        n_crossings = len(bridges) + len(roundabouts)
        self.ground = M.GRASS if rng.random() < 0.7 else M.SOIL
        self.coast, self.used, self.placed = coast, 0.0, list[Placed]()
        self._rng, self._axes = rng, Axes(heading, extent)
        self._bands = draw_bands(extent, coast=coast, span=span, disc=disc, n_crossings=n_crossings, rng=rng)
        self._taken: list[tuple[float, float, float, float]] = []
        self._plots = draw_fields(self._axes, rng)
        self._slots: list[tuple[float, float, float]] = []
        crossings = self._bands.crossings
        islands = list(zip(roundabouts, crossings[len(bridges) :], strict=True))
        for group, u in islands:
            center, side = (u, self._bands.road or 0.0), 1.5 * group.bodies[0].length
            self._take(center, (side, side))
            self._plots.append(self._axes.rectangle(center, (side, side), group.ground))
        self._lay_roads(self._bands, n_bridges=len(bridges), disc=disc, span=span)
        self._lay_water(bridges)
        for group, u in zip(bridges, crossings, strict=False):
            self._put(group, (u, self._bands.canal or 0.0), heading + np.pi / 2)
        for group, u in islands:
            self._put(group, (u, self._bands.road or 0.0), heading)

    def parts(self) -> list[Part]:
        """Return all outlines in drawing order."""
        parts = list(self._plots)
        for one in self.placed:
            item = one.item
            parts += place(own_parts(item.class_name, item.body), item.center, item.heading)
        return parts

    def add(self, group: Group, *, border: Border) -> bool:
        """Place all objects of ``group``, or none when no room is found."""
        drives = group.class_name in VEHICLES and group.ground == M.ASPHALT and group.coverage == 1
        if drives and len(group.bodies) <= len(self._slots) and self._rng.random() < TRAFFIC_SHARE:
            for body in group.bodies:
                u, v, turn = self._slots.pop(int(self._rng.integers(len(self._slots))))
                single = Group(group.class_name, group.ground, (body,), group.coverage)
                self._put(single, (u, v), self._axes.heading + turn)
            return True
        return self._add_plot(group, border=border)

    def _add_plot(self, group: Group, *, border: Border) -> bool:
        rng, axes = self._rng, self._axes
        harbor = group.class_name == "harbor"
        aligned_share = 1.0 if harbor else ALIGNED_SHARE
        heading = draw_heading(axes.heading, coverage=group.coverage, aligned_share=aligned_share, rng=rng)
        rows = arrange(group, rng)
        length, width = (side + 2.0 + 0.04 * max(rows.extent) for side in rows.extent)
        cosine, sine = abs(math.cos(heading - axes.heading)), abs(math.sin(heading - axes.heading))
        sides = (length * cosine + width * sine, length * sine + width * cosine)
        # A harbor without room at the shore lies off it.
        for at_shore in (True, False) if harbor else (False,):
            sea = group.ground == M.WATER
            for u, v in self._free(sides, sea=sea, at_shore=at_shore, border=border):
                placed = self._stand(group, (u, v), heading, rows.centers)
                if border == "across" and not self._crosses([one.quad for one in placed]):
                    continue
                self._take((u, v), sides)
                self.used += sides[0] * sides[1]
                if group.ground != M.WATER:
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

    def _lay_roads(self, bands: Bands, *, n_bridges: int, disc: float, span: float) -> None:
        far = 2 * self._axes.extent
        for road in draw_roads(bands, self._axes, n_bridges=n_bridges):
            self._plots += pave(road, self._axes)
            middle, length = (road.start + road.stop) / 2, road.stop - road.start
            self._take(road.center(middle), road.sides(length, ROAD_WIDTH + 3))
            gap = max(disc / 2, ROAD_WIDTH) if bands.road is not None else 0.0
            across = bands.crossings if road.along_u else (bands.road,)
            blocked = [(at - gap, at + gap) for at in across if at is not None]
            if bands.canal is not None and not road.along_u:
                blocked.append((bands.canal - 0.6 * span, bands.canal + 0.6 * span))
            if bands.shore is not None and not road.along_u:
                blocked.append((bands.shore - QUAY, far))
            self._slots += traffic_slots(road, self._axes, blocked)

    def _lay_water(self, bridges: Sequence[Group]) -> None:
        axes, (shore, canal, _, _) = self._axes, self._bands
        far = 4 * axes.extent
        if canal is not None:
            # The shortest bridge still reaches both banks.
            width, material = 0.8 * min(group.bodies[0].length for group in bridges), bridges[0].ground
            self._plots.append(axes.rectangle((0, canal), (far, width), material))
            if material != M.WATER:
                self._plots.append(axes.rectangle((0, canal), (far, 1.5 * ROAD_WIDTH), M.ASPHALT))
            self._take((0, canal), (far, width + 4))
        if shore is not None:
            self._plots.append(axes.rectangle((0, shore + far / 2), (far, far), M.WATER))
            self._plots.append(axes.rectangle((0, shore - QUAY / 2), (far, QUAY), M.CONCRETE, 1.5))

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
        half, shore = self._axes.extent / 2, self._bands.shore
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

    def _put(self, group: Group, uv: tuple[float, float], heading: float) -> None:
        self.placed += self._stand(group, uv, heading, np.zeros((len(group.bodies), 2)))
