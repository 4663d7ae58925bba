"""Detections drawn onto images with Pillow: overlays and thumbnails."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from deblora.data.scenes.dota import Labels
from deblora.data.scenes.rasters import Scene, crop
from deblora.detect.task1 import QuadDetections

LARGEST_SIDE = 1600  # pixels of an overlay
SMALL_SIDE = 600  # smaller images are enlarged toward this, so that names can be read
SHOWN = {"head": "#4FC3FF", "middle": "#F4F4F4", "tail": "#FF9A3D", "": "#F4F4F4"}  # light, for dark scenes
TRUTH = "#7CFC00"
LINE, TRUTH_LINE = 3, 1  # pixels
TEXT_SIZE = 14  # pixels; read when a page shows the picture at two thirds of its size


def overlay(
    scene: Scene,
    detections: QuadDetections,
    group_of: Mapping[str, str],
    *,
    least_score: Mapping[str, float],
    truth: Labels | None = None,
    largest_side: int = LARGEST_SIDE,
    names: bool = True,
) -> Any:
    """Return a picture of a scene with its detections, in the color of their group.

    Args:
        scene: Shrunk if it is larger than ``largest_side``; read in strips.
        detections: Of this scene.
        group_of: Class to group.
        least_score: By class; detections below are not drawn.
        truth: Labels to draw in green beneath.
        largest_side: Of the picture, pixels.
        names: Write class and score beside each box.
    """
    from PIL import ImageDraw, ImageFont

    picture, factor = _picture(scene, largest_side)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=TEXT_SIZE)
    if truth is not None:
        for quad in truth.quads:
            _outline(draw, quad * factor, TRUTH, TRUTH_LINE)
    floor = np.array([least_score[name] for name in detections.class_names], dtype=np.float64)
    shown = np.flatnonzero(detections.scores >= floor)
    for row in shown[np.argsort(detections.scores[shown], kind="stable")].tolist():
        name = detections.class_names[row]
        color = SHOWN[group_of.get(name, "")]
        quad = detections.quads[row] * factor
        _outline(draw, quad, color, LINE)
        if names:
            text = f"{name} {detections.scores[row]:.2f}"
            left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
            room = max(0.0, picture.width - right), max(0.0, picture.height - bottom)
            x, y = np.clip(quad[quad[:, 1].argmin()] - (0, bottom + LINE), (0, 0), room).tolist()
            draw.rectangle((x + left - 2, y + top - 1, x + right + 2, y + bottom + 1), fill="#000000")
            draw.text((x, y), text, fill=color, font=font)
    return picture


def thumbnail(scene: Scene, quad: Float[np.ndarray, "4 2"], *, group: str, side: int = 72) -> Any:
    """Return a small square picture of one detection with its outline."""
    from PIL import Image, ImageDraw

    low, high = quad.min(axis=0), quad.max(axis=0)
    pixels = crop(scene, quad, context=1.6)
    n = pixels.shape[0]
    picture = Image.fromarray(to_rgb(pixels)).resize((side, side), Image.Resampling.BILINEAR)
    origin = np.array([round(float(v)) for v in (low + high) / 2 - n / 2])
    _outline(ImageDraw.Draw(picture), (quad - origin) * side / n, SHOWN.get(group, SHOWN[""]), 1)
    return picture


def data_uri(picture: Any, *, quality: int = 82) -> str:
    """Return a picture as a ``data:`` address of a JPEG."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def to_rgb(pixels: Shaped[np.ndarray, "h w b"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return 8-bit RGB: the first three bands (or one, repeated); other types are stretched to their range."""
    bands = pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
    if bands.dtype == np.uint8:
        return np.ascontiguousarray(bands)
    values = bands.astype(np.float64)
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, (1, 99)) if known.size else (0.0, 1.0)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    return np.asarray((np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 255).round().astype(np.uint8))


def _picture(scene: Scene, largest_side: int) -> tuple[Any, float]:
    from PIL import Image

    step = max(1, -(-max(scene.height, scene.width) // largest_side))
    if step == 1:
        picture = Image.fromarray(to_rgb(scene.read(0, 0, scene.width, scene.height)))
        larger = max(1, min(SMALL_SIDE, largest_side) // max(scene.height, scene.width))
        size = (picture.width * larger, picture.height * larger)
        return picture.resize(size, Image.Resampling.BICUBIC) if larger > 1 else picture, float(larger)
    strips = []
    for y in range(0, scene.height - step + 1, step * 64):
        n_rows = min(step * 64, (scene.height - y) // step * step)
        strips.append(scene.read(0, y, scene.width, n_rows)[step // 2 :: step, step // 2 :: step])
    return Image.fromarray(to_rgb(np.concatenate(strips))), 1 / step


def _outline(draw: Any, quad: Float[np.ndarray, "4 2"], color: str, width: int) -> None:
    points = [tuple(point) for point in quad.tolist()]
    draw.line([*points, points[0]], fill=color, width=width)
