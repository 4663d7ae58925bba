"""Large images in overlapping tiles: where they lie, which objects each sees, and who owns a detection."""

import csv
import io
import itertools
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Real, Shaped
from torch.nn import functional

from deblora.data.scenes.dota import Labels
from deblora.data.scenes.rasters import Scene
from deblora.detect.boxes import boxes_from_quads, untangle_quads
from deblora.detect.overlap import quad_areas, quad_intersection
from deblora.errors import DataError
from deblora.files import write_atomic

_TILE_NAME = re.compile(r"(?P<image>.+?)__(?P<first>\d+(?:\.\d+)?)__(?P<x>-?\d+)___(?P<y>-?\d+)")

_SMALLEST_SIZE = 100
"""An integer of at least this in a tile's name is the tile's size, a smaller one the rate (ours)."""


@dataclass(frozen=True)
class Window:
    """A tile of a scene, in scene pixels: its left, top corner and its sides.

    A tile may reach beyond a scene that is smaller than it; what lies outside is padding. ``core`` is
    ``(left, top, right, bottom)``: the half-open cores of the windows of a grid are disjoint and cover the
    plane, so the outer sides of border tiles are infinite.
    """

    x: int
    y: int
    width: int
    height: int
    core: tuple[float, float, float, float]


def tile_grid(height: int, width: int, *, tile: int = 1024, overlap: int = 200) -> tuple[Window, ...]:
    """Plan the tiles of a scene, row by row.

    Along each side tiles start every ``tile - overlap`` pixels; the last is shifted back to end at the
    border. A side not longer than the tile gets a single start at 0. Cores are cut in the middle of what two
    neighbors share.

    Args:
        height: Of the scene, pixels.
        width: Of the scene, pixels.
        tile: Side of a tile (reference implementation: 1024).
        overlap: Least pixels that neighbors share (reference implementation: 200); at least the longest
            object, if every object shall lie whole in some tile.

    Raises:
        ValueError: If a size is not positive or the overlap is not in ``[0, tile)``.
    """
    if height < 1 or width < 1 or tile < 1 or not 0 <= overlap < tile:
        raise ValueError(
            f"a scene of {height} x {width} cannot be cut with tile {tile} and overlap {overlap}; sizes must "
            "be positive and the overlap smaller than the tile"
        )
    columns, rows = _starts(width, tile, overlap), _starts(height, tile, overlap)
    return tuple(
        Window(x, y, tile, tile, (left, top, right, bottom))
        for (y, top, bottom), (x, left, right) in itertools.product(rows, columns)
    )


def tile_labels(
    labels: Labels,
    window: Window,
    *,
    min_inside: float = 0.7,
) -> tuple[Labels, Int[np.ndarray, " k"]]:
    """Return the objects that a tile sees, in tile pixels and unclipped, and their rows in ``labels``.

    An object is kept if at least ``min_inside`` of its area lies in the window. One with a vertex outside is
    truncated: its flag becomes 2, as in the reference implementation. The border of the scene truncates nothing:
    an annotation that reaches past it keeps its flag.

    Args:
        labels: Of the whole scene.
        window: From :func:`tile_grid`.
        min_inside: Least share of the area inside, in (0, 1] (reference implementation: 0.7).

    Raises:
        ValueError: If the share is out of range.
    """
    if not 0 < min_inside <= 1:
        raise ValueError(f"min_inside must be in (0, 1], got {min_inside}")
    bounds = _open_bounds(window)
    whole = _inside(labels.quads, bounds)
    rows = np.flatnonzero(whole | (_share_inside(labels.quads, bounds) >= min_inside))
    kept = labels.select(rows)
    flags = np.where(whole[rows], kept.difficult, 2)
    origin = np.array([window.x, window.y], dtype=np.float64)
    return replace(kept, quads=kept.quads - origin, difficult=flags), rows


def owned(centers: Float[np.ndarray, "n 2"], window: Window) -> Bool[np.ndarray, " n"]:
    """Return which points, in scene pixels, lie in the core of a window.

    Every point lies in the core of exactly one window of a grid.
    """
    left, top, right, bottom = window.core
    x, y = centers[:, 0], centers[:, 1]
    return np.asarray((left <= x) & (x < right) & (top <= y) & (y < bottom))


def to_scene(
    quads: Real[np.ndarray, "n 4 2"], x: float, y: float, *, rate: float = 1.0
) -> Float[np.ndarray, "n 4 2"]:
    """Move quads from tile to scene pixels: ``(quad + (x, y)) / rate``, rate being the zoom before tiling."""
    return (quads + np.array([x, y], dtype=np.float64)) / rate


def tile_name(image: str, x: int, y: int, *, rate: float = 1.0) -> str:
    """Return ``image__rate__x___y``, the name the devkit of DOTA gives a tile."""
    return f"{image}__{rate:g}__{x}___{y}"


def parse_tile_name(name: str) -> tuple[str, float, int, int]:
    """Return image, rate, x and y from a tile's name; the inverse of :func:`tile_name`.

    Also reads ``image__size__x___y`` as the reference implementation writes it: an integer from 100 up is a
    size, and the rate is 1.

    Raises:
        DataError: If the name has another form.
    """
    match = _TILE_NAME.fullmatch(name)
    if match is None:
        raise DataError(f"the tile name {name!r} is not of the form image__rate__x___y")
    first = match["first"]
    is_size = "." not in first and int(first) >= _SMALLEST_SIZE
    rate = 1.0 if is_size else float(first)
    if rate <= 0:
        raise DataError(f"the tile name {name!r} has the rate {first}, which must be positive")
    return match["image"], rate, int(match["x"]), int(match["y"])


def scene_of(name: str) -> str:
    """Return the scene of a tile by its name, and any other name as it is."""
    return name if _TILE_NAME.fullmatch(name) is None else parse_tile_name(name)[0]


def _starts(length: int, tile: int, overlap: int) -> list[tuple[int, float, float]]:
    """Return start, core begin and core end of the tiles along one side."""
    if length <= tile:
        starts = [0]
    else:
        step = tile - overlap
        n_tiles = -(-(length - tile) // step) + 1
        starts = [min(i * step, length - tile) for i in range(n_tiles)]
    cuts = [(earlier + tile + later) / 2 for earlier, later in itertools.pairwise(starts)]
    return list(zip(starts, [-np.inf, *cuts], [*cuts, np.inf], strict=True))


def _open_bounds(window: Window) -> tuple[float, float, float, float]:
    """Return the window, without bound on the sides at the border of the scene."""
    left, top, right, bottom = window.core
    return (
        window.x if np.isfinite(left) else -np.inf,
        window.y if np.isfinite(top) else -np.inf,
        window.x + window.width if np.isfinite(right) else np.inf,
        window.y + window.height if np.isfinite(bottom) else np.inf,
    )


def _inside(
    quads: Float[np.ndarray, "n 4 2"], bounds: tuple[float, float, float, float]
) -> Bool[np.ndarray, " n"]:
    x, y = quads[..., 0], quads[..., 1]
    left, top, right, bottom = bounds
    return np.asarray(((left <= x) & (x <= right) & (top <= y) & (y <= bottom)).all(axis=1))


def _share_inside(
    quads: Float[np.ndarray, "n 4 2"], bounds: tuple[float, float, float, float]
) -> Float[np.ndarray, " n"]:
    """Return the share of each quad's area within the bounds; 0 for a quad without area."""
    if not len(quads):
        return np.zeros(0)
    low, high = quads.min(axis=1), quads.max(axis=1)
    # An infinite bound is moved to just beyond the object.
    left = np.maximum(low[:, 0] - 1, bounds[0])
    top = np.maximum(low[:, 1] - 1, bounds[1])
    right = np.minimum(high[:, 0] + 1, bounds[2])
    bottom = np.minimum(high[:, 1] + 1, bounds[3])
    right, bottom = np.maximum(left, right), np.maximum(top, bottom)
    frames = np.stack([left, top, right, top, right, bottom, left, bottom], axis=1).reshape(-1, 4, 2)
    simple, _ = untangle_quads(torch.from_numpy(np.ascontiguousarray(quads, dtype=np.float64)))
    areas = quad_areas(simple).numpy()
    shared = quad_intersection(simple, torch.from_numpy(frames)).numpy()
    return np.asarray(np.divide(shared, areas, out=np.zeros_like(areas), where=areas > 0))


OBJECTS = "objects.csv"  # beside images/ and labelTxt/ of tiles, written when all scenes are cut
MANIFEST = "tiles.json"  # written after every scene
log = logging.getLogger("deblora")


def write_objects(folder: Path, rows: Iterable[tuple[str, int, str]]) -> None:
    """Write ``scene, object, tile`` for every line of every label file, in the order of the lines."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("scene", "object", "tile"))
    writer.writerows(rows)
    write_atomic(folder / OBJECTS, buffer.getvalue())


def each_once(source: Path, labels: Mapping[str, Labels]) -> dict[str, Labels]:
    """Return the labels of tiles with every object of a scene in the first tile that holds it, and in no other.

    Sets that ``deblora detect tile`` did not write are returned as they are. So are tiles whose label files were
    changed afterwards, with a warning: their lines cannot be told apart any more.

    Args:
        source: The set; only folders are looked into.
        labels: Of every tile, as they were read.

    Raises:
        DataError: If the table of objects is damaged, or tiling was not finished.
    """
    path = source / OBJECTS
    if (source / MANIFEST).is_file() and not path.is_file():
        raise DataError(f"tiling was not finished in {source}; run the same deblora detect tile again")
    if not path.is_file():
        return dict(labels)
    seen: set[tuple[str, str]] = set()
    keep: dict[str, list[bool]] = {name: [] for name in labels}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                known = row["scene"], row["object"]
                keep.setdefault(row["tile"], []).append(known not in seen)
                seen.add(known)
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise DataError(f"{path} is damaged ({error!r}); tile again, or delete it") from error
    changed = [name for name in labels if len(keep[name]) != len(labels[name].quads)]
    if changed:
        log.warning(
            "%s does not fit the label file of %s, so objects in several tiles are counted several times",
            path,
            changed[0],
        )
        return dict(labels)
    return {name: entry.select(np.flatnonzero(keep[name])) for name, entry in labels.items()}


def drop_flat(labels: Mapping[str, Labels], *, shortest: float = 1e-3) -> tuple[dict[str, Labels], list[str]]:
    """Leave out objects whose box has a side of (almost) zero, and say which.

    Args:
        labels: Per image.
        shortest: Least side in pixels (ours).

    Returns:
        The other objects, and one line per object left out.
    """
    kept, lines = {}, []
    for image, entry in labels.items():
        sides = boxes_from_quads(torch.from_numpy(entry.quads))[:, 2:4].amin(dim=1).numpy()
        flat = np.flatnonzero(sides < shortest)
        lines += [f"{image}: object {row + 1} ({entry.class_names[row]}) has no area" for row in flat]
        kept[image] = entry.select(np.flatnonzero(sides >= shortest)) if len(flat) else replace(entry)
    return kept, lines


@dataclass(frozen=True)
class TileSpec:
    """How tiles are cut and normalized: ``(x / scale - mean) / std``.

    Attributes:
        tile: Side as the model sees it, pixels.
        overlap: Pixels of the tile that neighbors share at least.
        zoom: Pixels of the tile per pixel of the scene.
        mean: Per band, in units of ``scale``.
        std: Per band, in units of ``scale``.
        scale: What counts as 1.
    """

    tile: int
    overlap: int
    zoom: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float

    @property
    def side(self) -> int:
        """Side of a tile in pixels of the scene, whole."""
        return max(1, round(self.tile / self.zoom))

    @property
    def factor(self) -> float:
        """Pixels of the scene per pixel of the tile, exactly."""
        return self.side / self.tile

    def extent(self, window: Window, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of a tile that show a scene of this size: less than the tile where it is smaller."""
        shown = min(window.height, height - window.y), min(window.width, width - window.x)
        rows, columns = (min(self.tile, math.ceil(side / self.factor - 1e-9)) for side in shown)
        return rows, columns

    def windows(self, height: int, width: int) -> tuple[Window, ...]:
        """Plan the windows of a scene, in its pixels."""
        overlap = min(self.side - 1, round(self.overlap / self.zoom))
        return tile_grid(height, width, tile=self.side, overlap=overlap)


def read_tile(scene: Scene, window: Window, spec: TileSpec) -> Float[torch.Tensor, "c h w"]:
    """Read a window as a normalized tile that ends where the scene ends.

    A detector that has seen tiles filled up beyond small images takes other statistics from scenes without such
    filling, and fails there (docs/log.md).

    Raises:
        DataError: If the scene has neither one band nor as many as the model.
    """
    width, height = min(window.width, scene.width - window.x), min(window.height, scene.height - window.y)
    pixels = scene.read(window.x, window.y, width, height)
    tile = normalized(pixels, spec)
    tile = functional.pad(tile, (0, window.width - width, 0, window.height - height))
    if tile.shape[1:] != (spec.tile, spec.tile):
        size = (spec.tile, spec.tile)
        tile = functional.interpolate(
            tile[None], size=size, mode="bilinear", antialias=True, align_corners=False
        )[0]
    rows, columns = spec.extent(window, scene.height, scene.width)
    return tile[:, :rows, :columns]


def normalized(pixels: Shaped[np.ndarray, "h w b"], spec: TileSpec) -> Float[torch.Tensor, "c h w"]:
    """Return scaled and standardized pixels; one band is repeated, and a value that is missing (NaN) is the mean.

    Raises:
        DataError: If the number of bands does not fit.
    """
    n_bands = len(spec.mean)
    if pixels.shape[2] not in (1, n_bands):
        raise DataError(
            f"the image has {pixels.shape[2]} bands, the backbone takes {n_bands} (or one, repeated); "
            "choose another backbone or convert the images"
        )
    image = torch.from_numpy(np.array(pixels.transpose(2, 0, 1), dtype=np.float32, order="C"))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    return torch.nan_to_num((image / spec.scale - mean) / std, nan=0.0, posinf=0.0, neginf=0.0)
