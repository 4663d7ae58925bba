"""The rule by which a chip is cut around an object: one function for classification, detection and reports."""

from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped

from deblora.data.scenes.rasters import Scene

CropShape = Literal["hull", "square"]


Window = tuple[int, int, int, int]
SMALLEST_SQUARE = 8  # pixels, ours


def crop_window(quad: Float[np.ndarray, "4 2"], *, context: float, shape: CropShape) -> Window:
    """Return the window to cut around an object: x, y, width, height in pixels; it may leave the image.

    "hull": from ``floor(min)`` to ``ceil(max)`` of the vertices, both scaled by ``context`` about the middle.
    "square": ``context`` times the longer upright side, at least 8 pixels, with the object in the middle.

    Args:
        quad: Vertices in pixels, y down; pixel ``i`` covers ``i`` to ``i + 1``.
        context: Side of the window over that of the hull, >= 1.
        shape: What is cut.
    """
    low, high = quad.min(axis=0), quad.max(axis=0)
    if shape == "square":
        side = max(SMALLEST_SQUARE, round(float((high - low).max()) * context))
        x, y = (round(float(value)) for value in (low + high) / 2 - side / 2)
        return x, y, side, side
    margin = (high - low) * (context - 1) / 2
    x, y = (int(value) for value in np.floor(low - margin))
    right, bottom = (int(value) for value in np.ceil(high + margin))
    return x, y, right - x, bottom - y


def visible(window: Window, width: int, height: int) -> Window:
    """Return the part of a window inside an image; width or height are 0 where nothing is."""
    x, y, across, down = window
    left, top = min(max(x, 0), width), min(max(y, 0), height)
    right, bottom = min(max(x + across, left), width), min(max(y + down, top), height)
    return left, top, right - left, bottom - top


def crop(
    scene: Scene, quad: Float[np.ndarray, "4 2"], *, context: float, shape: CropShape = "square"
) -> Shaped[np.ndarray, "h w b"]:
    """Cut an object out of its scene; see :func:`crop_window`.

    A hull is clipped to the image. A square is filled with the border pixels of the image beyond it, so that the
    object stays in the middle.
    """
    x, y, across, down = crop_window(quad, context=context, shape=shape)
    left, top, width, height = visible((x, y, across, down), scene.width, scene.height)
    # An object outside the image still gives a pixel of its border; readers have left such objects out before.
    width, height = max(width, 1), max(height, 1)
    left, top = min(left, scene.width - 1), min(top, scene.height - 1)
    pixels = scene.read(left, top, width, height)
    if shape == "hull":
        return pixels
    before = (max(0, top - y), max(0, left - x))
    after = (max(0, down - before[0] - pixels.shape[0]), max(0, across - before[1] - pixels.shape[1]))
    return np.pad(pixels, ((before[0], after[0]), (before[1], after[1]), (0, 0)), mode="edge")
