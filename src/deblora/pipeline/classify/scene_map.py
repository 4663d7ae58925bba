"""``deblora predict --tile``: maps of classes and probabilities of whole scenes, and their rare finds."""

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from deblora.data.chips import ArrayPixels
from deblora.data.scenes.labeled_images import list_images
from deblora.data.scenes.rasters import BandScene, Scene, fill_missing, import_rasterio, open_scene
from deblora.detect.export import write_geopackage
from deblora.detect.task1 import QuadDetections
from deblora.errors import ArtifactError, DataError
from deblora.files import file_sha256, folder_written_at_once, write_atomic
from deblora.pipeline.classify.predict import Predictor, of_kind
from deblora.progress import no_bar
from deblora.recipe.classify import Recipe
from deblora.recipe.methods import SHIPPED
from deblora.report.overlays import overlay
from deblora.run.run_dir import RunDir, fingerprint

CACHE = 64  # MB that GDAL may keep; its own default is a share of the machine's memory
N_TILES = 128  # read and classified at once, at most (ours)
N_VALUES = 1 << 26  # of pixels read at once, at most
N_ROWS = 64  # rows of cells written at once
BLOCK = 256  # side of the blocks of a raster that is written, cells


@dataclass(frozen=True)
class SceneMap:
    """A finished map: its folder, how many tiles it has, how many were left out, and its finds of rare classes."""

    folder: Path
    n_tiles: int
    n_left_out: int
    n_finds: int


def starts(length: int, tile: int, stride: int) -> Int[np.ndarray, " n"]:
    """Return where tiles begin along a side: every ``stride`` pixels, the last one shifted back to end at the border.

    Args:
        length: Of the side, at least ``tile``.
        tile: Side of a tile.
        stride: From tile to tile, 1 to ``tile``.
    """
    return np.unique(np.append(np.arange(0, length - tile + 1, stride), length - tile))


def cells_covered(length: int, tile: int, stride: int) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Return the first tile, and the one after the last, that cover the middle pixel of each cell along a side.

    Cell ``i`` are the pixels from ``i stride`` on; the last cell may reach beyond the scene.
    """
    first = np.arange(0, length, stride)
    middle = (first + np.minimum(first + stride, length) - 1) // 2
    begin = starts(length, tile, stride)
    return np.searchsorted(begin, middle - tile, side="right"), np.searchsorted(begin, middle, side="right")


def map_scenes(
    run: RunDir,
    recipe: Recipe,
    source: Path,
    out: Path,
    *,
    tile: int,
    stride: int,
    overwrite: bool = False,
    weights: str | None = None,
) -> Iterator[SceneMap]:
    """Map a scene, or every scene of a folder, to ``out/NAME``; yield each map when it is written.

    Tiles are classified as chips are. A cell of the map is ``stride`` pixels wide and holds the mean of the
    probabilities of all tiles that cover its middle, and the class at which it is largest. Tiles with more missing
    pixels than ``data.max_missing`` are left out; cells without a tile or a pixel are nodata. A *find* is a tile whose
    class is rare (tail) and more probable than in all tiles of that class that overlap it.

    Files: ``classes.tif`` (numbered as in ``map.json``, 255 or 65535 where there is none), ``probabilities.tif`` (a
    band per class, NaN where there is none), both cloud-optimized GeoTIFFs in the scene's reference system;
    ``finds.csv`` in pixels and, where there is a reference system, ``finds.gpkg``, most probable first;
    ``overview.png``; ``map.json``.

    Memory holds a strip of tiles, whatever the size of the scene, and per tile a few numbers. Rows of tiles that are
    done are kept in ``out/.NAME.work``: a map that was stopped goes on there and gives the same bytes.

    Args:
        run: Finished, with a choice.
        recipe: Its settings.
        source: An image or a folder of images.
        out: Folder outside of ``source``.
        tile: Side of a tile in pixels: that of the training chips.
        stride: Pixels from tile to tile, 1 to ``tile``.
        overwrite: Replace maps that were made with another model or other tiles.
        weights: Where the weights of the backbone are, if neither where the recipe says nor where they were.

    Raises:
        ArtifactError: If the run has no choice, its files are stale, or ``out`` holds another map.
        DataError: If a scene cannot be read, is smaller than a tile, or is of another kind than the chips of the run.
        ModelError: If the weights of the backbone are not found or are others.
    """
    if not source.exists():
        raise DataError(f"{source} does not exist; name a scene or a folder of scenes")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{out} lies inside the scenes, {source}; name a folder outside")
    rasterio = import_rasterio(source)
    files = list_images(source)
    predictor = Predictor.open(run, recipe, weights=weights)
    with rasterio.Env(GDAL_CACHEMAX=CACHE):
        for name, member in files.members.items():
            scene: Scene = open_scene(files.root / member)
            if recipe.data.bands:
                scene = BandScene(scene, recipe.data.bands, name=name)
            _check_scene(run, recipe, scene, str(files.root / member), tile)
            yield _Mapping(predictor, scene, name, out, tile, stride).make(overwrite=overwrite)


def _check_scene(run: RunDir, recipe: Recipe, scene: Scene, path: str, tile: int) -> None:
    if min(scene.height, scene.width) < tile:
        raise DataError(
            f"{path} has {scene.width} x {scene.height} pixels, less than a tile of {tile}; give a smaller --tile, or "
            "leave --tile out if it is a chip"
        )
    values, valid = scene.read_masked(0, 0, 1, 1)
    pixel = np.where(valid, values, 0).astype(values.dtype)
    of_kind(run, recipe, (path,), ArrayPixels([pixel], (path,))).read(0)


@dataclass(frozen=True)
class _Mapping:
    """One scene on its way to a map."""

    predictor: Predictor
    scene: Scene
    name: str
    out: Path
    tile: int
    stride: int

    @property
    def columns(self) -> Int[np.ndarray, " n"]:
        return starts(self.scene.width, self.tile, self.stride)

    @property
    def rows(self) -> Int[np.ndarray, " n"]:
        return starts(self.scene.height, self.tile, self.stride)

    @property
    def key(self) -> str:
        """Hash of all that the probabilities depend on."""
        run, recipe, model = self.predictor.run, self.predictor.recipe, self.predictor.model
        weights = [run.adapter(own) / "adapter_model.safetensors" for own in ("lora", "deblora")]
        heads = sorted(run.classifier(SHIPPED, model.classifier).parent.glob("*"))
        hashes = {
            str(path.relative_to(run.root)): file_sha256(path)
            for path in (*heads, *weights, run.recipe)
            if path.is_file()
        }
        settings = [self.tile, self.stride, model.title, model.temperature, model.class_names]
        return fingerprint([*settings, recipe.data.max_missing], {**hashes, "scene": self.scene.digest})

    def make(self, *, overwrite: bool) -> SceneMap:
        """Classify what is left, write the map; or return the one that is there."""
        folder, work, key = self.out / self.name, self.out / f".{self.name}.work", self.key
        if folder.exists() and not overwrite:
            record = _read_json(folder / "map.json")
            if record.get("key") == key:
                return SceneMap(folder, record["n_tiles"], record["n_left_out"], record["n_finds"])
            raise ArtifactError(
                f"{folder} holds something else than this map; add --overwrite to replace it, or name another folder"
            )
        if _read_json(work / "key.json").get("key") != key:
            shutil.rmtree(work, ignore_errors=True)
            write_atomic(work / "key.json", json.dumps({"key": key}))
        self._classify(work / "probabilities.f32")
        shape = (len(self.rows), len(self.columns), len(self.predictor.model.class_names))
        tiles = np.memmap(work / "probabilities.f32", dtype="<f4", mode="r", shape=shape)
        with folder_written_at_once(folder) as unfinished:
            made = self._write(unfinished, tiles, key)
        shutil.rmtree(work)
        return SceneMap(folder, *made)

    def _classify(self, path: Path) -> None:
        """Append the probabilities of the rows of tiles that are not there yet; NaN for tiles that are left out."""
        row_size = 4 * len(self.columns) * len(self.predictor.model.class_names)
        with path.open("ab") as file:
            n_done = file.tell() // row_size
            file.truncate(n_done * row_size)  # a kill may have left a part of a row
            left = self.rows[n_done:].tolist()
            bar = tqdm(left, desc=self.name, unit="row", disable=no_bar(short=len(left) < 10))
            for y in bar:
                file.write(np.concatenate([self._tiles(part, y) for part in self._parts()]).tobytes())
                file.flush()
            os.fsync(file.fileno())

    def _parts(self) -> list[Int[np.ndarray, " k"]]:
        n_bands = self.scene.read(0, 0, 1, 1).shape[2]
        n = max(1, min(N_TILES, N_VALUES // (self.tile**2 * n_bands)))
        return [self.columns[k : k + n] for k in range(0, len(self.columns), n)]

    def _tiles(self, columns: Int[np.ndarray, " k"], y: int) -> Float[np.ndarray, "k c"]:
        model, most = self.predictor.model, self.predictor.recipe.data.max_missing
        left = int(columns[0])
        values, valid = self.scene.read_masked(left, y, int(columns[-1]) - left + self.tile, self.tile)
        chips, kept = [], []
        for i, x in enumerate((columns - left).tolist()):
            own, there = values[:, x : x + self.tile], valid[:, x : x + self.tile]
            missing = 1.0 - float(there.mean())
            if missing <= most and there.any(axis=(0, 1)).all():
                chips.append(fill_missing(own, there) if missing else own)
                kept.append(i)
        found = np.full((len(columns), len(model.class_names)), np.nan, dtype="<f4")
        if kept:
            ids = tuple(f"{self.name} at {columns[i]}, {y}" for i in kept)
            found[kept] = self.predictor.probabilities(ids, ArrayPixels(chips, ids))
        return found

    def _write(self, folder: Path, tiles: np.ndarray, key: str) -> tuple[int, int, int]:
        model = self.predictor.model
        n_left_out = sum(int(np.isnan(row[:, 0]).sum()) for row in tiles)
        counts = self._write_rasters(folder, tiles)
        finds = self._finds(tiles)
        group_of = {model.class_names[c]: g for g, members in model.groups.named().items() for c in members}
        crs, transform = getattr(self.scene, "crs", None), getattr(self.scene, "transform", None)
        if crs is not None:
            write_geopackage(
                folder / "finds.gpkg",
                finds,
                crs=crs,
                transform=transform,
                group_of=group_of,
                origin=self.name,
            )
        write_atomic(folder / "finds.csv", _table(finds))
        shown = dict.fromkeys(model.class_names, 0.0)
        overlay(self.scene, finds, group_of, least_score=shown).save(folder / "overview.png")
        n_tiles = tiles.shape[0] * tiles.shape[1]
        record = {
            "key": key,
            "model": model.title,
            "class_names": model.class_names,
            "groups": group_of,
            "n_cells": dict(zip(model.class_names, counts.tolist(), strict=True)),
            "tile": self.tile,
            "stride": self.stride,
            "n_tiles": n_tiles,
            "n_left_out": n_left_out,
            "n_finds": len(finds.scores),
        }
        write_atomic(folder / "map.json", json.dumps(record, indent=1))
        return n_tiles, n_left_out, len(finds.scores)

    def _write_rasters(self, folder: Path, tiles: np.ndarray) -> Int[np.ndarray, " c"]:
        """Write both rasters block by block; return the cells of each class."""
        import rasterio.shutil

        names = self.predictor.model.class_names
        heights, widths = (
            cells_covered(n, self.tile, self.stride) for n in (self.scene.height, self.scene.width)
        )
        kind, missing = ("uint8", 255) if len(names) < 255 else ("uint16", 65535)
        common = {
            "driver": "GTiff",
            "width": len(widths[0]),
            "height": len(heights[0]),
            "crs": getattr(self.scene, "crs", None),
            "tiled": True,
            "blockxsize": BLOCK,
            "blockysize": BLOCK,
            "BIGTIFF": "IF_SAFER",
        }
        if (place := getattr(self.scene, "transform", None)) is not None:
            a, b, c, d, e, f = tuple(place)[:6]
            k = self.stride
            common["transform"] = rasterio.Affine(a * k, b * k, c, d * k, e * k, f)
        counts = np.zeros(len(names), dtype=np.int64)
        raw = folder / "classes.raw.tif", folder / "probabilities.raw.tif"
        with (
            rasterio.open(raw[0], "w", count=1, dtype=kind, nodata=missing, **common) as classes,
            rasterio.open(raw[1], "w", count=len(names), dtype="float32", nodata=np.nan, **common) as shares,
        ):
            classes.update_tags(1, **{f"class_{i}": name for i, name in enumerate(names)})
            for i, name in enumerate(names):
                shares.set_band_description(i + 1, name)
            for top in range(0, len(heights[0]), N_ROWS):
                rows = range(top, min(top + N_ROWS, len(heights[0])))
                cells = np.stack([self._row_of_cells(tiles, i, heights, widths) for i in rows])
                there = ~np.isnan(cells[..., 0])
                best = np.where(there, np.nan_to_num(cells).argmax(axis=2), missing)
                counts += np.bincount(best[there], minlength=len(names))
                window = rasterio.windows.Window(0, top, cells.shape[1], len(rows))
                classes.write(best.astype(kind), 1, window=window)
                shares.write(np.moveaxis(cells, 2, 0), window=window)
        for path in raw:
            target = path.with_name(path.name.replace(".raw", ""))
            options = {"compress": "deflate", "overview_resampling": "nearest", "num_threads": "1"}
            rasterio.shutil.copy(path, target, driver="COG", **options)
            path.unlink()
        return counts

    def _row_of_cells(
        self, tiles: np.ndarray, i: int, heights: tuple[np.ndarray, ...], widths: tuple[np.ndarray, ...]
    ) -> Float[np.ndarray, "m c"]:
        """Return the mean probabilities of the tiles that cover each cell of a row; NaN where nothing is."""
        own = np.asarray(tiles[heights[0][i] : heights[1][i]])
        known = ~np.isnan(own[..., 0])
        sums, counts = np.where(known[..., None], own, 0).sum(axis=0), known.sum(axis=0)
        first, end = widths
        total = np.zeros((len(first), tiles.shape[2]), dtype=np.float32)
        n = np.zeros(len(first), dtype=np.int64)
        for step in range(int((end - first).max())):
            at = np.minimum(first + step, len(sums) - 1)
            inside = first + step < end
            total += np.where(inside[:, None], sums[at], 0)
            n += np.where(inside, counts[at], 0)
        n[~self._has_pixels(i)] = 0
        return np.where(n[:, None] > 0, total / np.maximum(n, 1)[:, None], np.nan).astype(np.float32)

    def _has_pixels(self, i: int) -> Bool[np.ndarray, " m"]:
        """Tell which cells of a row have a pixel that is there."""
        scene, top, found = self.scene, i * self.stride, []
        height, width = min(self.stride, scene.height - top), self.stride * max(1, 4096 // self.stride)
        for left in range(0, scene.width, width):
            across = min(width, scene.width - left)
            there = scene.read_masked(left, top, across, height)[1].all(axis=2).any(axis=0)
            found.append(np.logical_or.reduceat(there, np.arange(0, across, self.stride)))
        return np.concatenate(found)

    def _finds(self, tiles: np.ndarray) -> QuadDetections:
        """Return the tiles of rare classes, the most probable first, without those that overlap a better one."""
        names, rare = self.predictor.model.class_names, self.predictor.model.groups.tail
        best = np.stack([np.where(np.isnan(row[:, 0]), -1, np.nan_to_num(row).argmax(1)) for row in tiles])
        found: list[tuple[float, int, int, int]] = []
        for c in rare:
            rows, columns = np.nonzero(best == c)
            scores, taken = np.array(tiles[rows, columns, c], dtype=np.float64), np.zeros(best.shape, bool)
            for k in np.argsort(-scores, kind="stable").tolist():
                if taken[rows[k], columns[k]]:
                    continue
                y, x = int(self.rows[rows[k]]), int(self.columns[columns[k]])
                near = (
                    slice(*np.searchsorted(self.rows, (y - self.tile + 1, y + self.tile)).tolist()),
                    slice(*np.searchsorted(self.columns, (x - self.tile + 1, x + self.tile)).tolist()),
                )
                taken[near] = True
                found.append((-float(scores[k]), y, x, int(c)))
        found.sort()
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float64) * self.tile
        quads = np.array([corners + np.array([x, y]) for _, y, x, _ in found], dtype=np.float64).reshape(
            -1, 4, 2
        )
        return QuadDetections(
            (self.name,) * len(found),
            tuple(names[c] for *_, c in found),
            np.array([-score for score, *_ in found], dtype=np.float64),
            quads,
        )


def _table(finds: QuadDetections) -> str:
    buffer = io.StringIO()
    lines = csv.writer(buffer, lineterminator="\n")
    lines.writerow(("rank", "class", "probability", "x", "y", "side"))
    for i, quad in enumerate(finds.quads):
        x, y = quad[0].astype(int).tolist()
        side = int(quad[2, 0] - quad[0, 0])
        lines.writerow((i + 1, finds.class_names[i], f"{finds.scores[i]:.6f}", x, y, side))
    return buffer.getvalue()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
