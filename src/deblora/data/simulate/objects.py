"""Boxes of simulated objects: what belongs to an object, its tight quad, how much of it an image shows."""

import math

import numpy as np
from jaxtyping import Float

from deblora.data.simulate.materials import Body, Part
from deblora.data.simulate.render import SceneObject
from deblora.data.simulate.shapes import SHAPES

ROUND = ("storage-tank", "roundabout")
# A quarter of a disc is tightest in a box along its two straight edges.
BOX_TURN = {"baseball-diamond": np.pi / 4}
# Ours: parts that reach farther than this share of the length are roads toward the object, not the object.
_REACH = 0.75


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
