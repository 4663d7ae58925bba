"""``deblora detect tile``: scenes in DOTA format cut into tiles in DOTA format; finished scenes are skipped."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from deblora.data.scenes.dota import Labels, write_labels
from deblora.data.scenes.labeled_images import class_names_of, read_detection_set, without
from deblora.data.scenes.rasters import Scene, crop
from deblora.data.sources import CropShape
from deblora.detect.tiling import (
    MANIFEST,
    OBJECTS,
    TileSpec,
    Window,
    drop_flat,
    tile_labels,
    tile_name,
    write_objects,
)
from deblora.errors import ArtifactError, DataError
from deblora.files import write_atomic
from deblora.progress import no_bar
from deblora.report.overlays import to_rgb

log = logging.getLogger("deblora")
MEAN_COLOR = (124, 116, 104)  # RGB of ImageNet, with which DOTA tiles are padded (mmrotate)


def tile_set(
    source: Path,
    out: Path,
    *,
    size: int = 1024,
    overlap: int = 200,
    rates: Sequence[float] = (1.0,),
    min_inside: float = 0.7,
) -> dict[str, int]:
    """Cut every scene into tiles named ``image__rate__x___y`` (x, y in pixels of the zoomed scene).

    ``tiles.json`` records settings, the hash of every finished scene with its labels, and ``objects.csv`` which
    object of which scene lies in which tile. Run it again after a kill or a change: finished scenes are skipped.

    Args:
        source: DOTA folder or zip.
        out: Folder for ``images/`` and ``labelTxt/``.
        size: Side of a tile (mmrotate: 1024).
        overlap: Pixels that neighbors share (mmrotate: 200).
        rates: Zooms before tiling (mmrotate's multi-scale: .5, 1, 1.5 with overlap 500).
        min_inside: Least share of an object inside a tile (mmrotate: 0.7).

    Returns:
        Counts: scenes, scenes cut now, tiles, objects in tiles.

    Raises:
        ArtifactError: If ``out`` holds tiles of other settings.
        DataError: If an option is out of range or the data are wrong.
    """
    if size < 1 or not 0 <= overlap < size or not rates or min(rates) <= 0 or not 0 < min_inside <= 1:
        raise DataError(
            f"cannot tile with size {size}, overlap {overlap}, rates {list(rates)} and least share {min_inside}; "
            "overlap must be smaller than size, rates positive, the share in (0, 1]"
        )
    found = read_detection_set(source)
    settings = {"size": size, "overlap": overlap, "rates": list(rates), "min_inside": min_inside}
    done = _read_manifest(out, settings)
    (out / OBJECTS).unlink(missing_ok=True)
    for folder in ("images", "labelTxt"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    n_new = 0
    for name in tqdm(found.names, desc="tile", unit="scene", disable=no_bar()):
        scene, labels = found.files.open(name), found.labels[name]
        key = hashlib.sha256(
            f"{scene.digest}{labels.quads.tolist()}{labels.class_names}{labels.difficult.tolist()}".encode()
        ).hexdigest()
        if done.get(name, {}).get("key") == key:
            continue
        entries = [
            entry
            for rate in rates
            for entry in _cut(
                out, name, scene, labels, rate, size=size, overlap=overlap, min_inside=min_inside
            )
        ]
        done[name] = {"key": key, "tiles": entries}
        n_new += 1
        write_atomic(out / MANIFEST, json.dumps({"settings": settings, "scenes": done}))
    write_objects(
        out,
        (
            (name, row, tile["tile"])
            for name, entry in done.items()
            for tile in entry["tiles"]
            for row in tile["rows"]
        ),
    )
    tiles = [entry for scene_entry in done.values() for entry in scene_entry["tiles"]]
    return {
        "n_scenes": len(done),
        "n_new": n_new,
        "n_tiles": len(tiles),
        "n_objects": sum(len(entry["rows"]) for entry in tiles),
    }


def _cut(
    out: Path,
    name: str,
    scene: Scene,
    labels: Labels,
    rate: float,
    *,
    size: int,
    overlap: int,
    min_inside: float,
) -> list[dict[str, Any]]:
    spec = TileSpec(size, overlap, rate, (0.0,), (1.0,), 1.0)
    entries: list[dict[str, Any]] = []
    for window in spec.windows(scene.height, scene.width):
        seen, rows = tile_labels(labels, window, min_inside=min_inside)
        tile = tile_name(
            name, round(window.x / spec.factor), round(window.y / spec.factor), rate=1 / spec.factor
        )
        _picture(scene, window, size).save(out / "images" / f"{tile}.png")
        gsd = None if labels.gsd is None else labels.gsd * spec.factor
        write_labels(out / "labelTxt" / f"{tile}.txt", replace(seen, quads=seen.quads / spec.factor, gsd=gsd))
        place = {"x": window.x, "y": window.y, "factor": spec.factor}  # exact, where the name is rounded
        entries.append({"tile": tile, **place, "rows": rows.tolist()})
    return entries


def _picture(scene: Scene, window: Window, size: int) -> Image.Image:
    width, height = min(window.width, scene.width - window.x), min(window.height, scene.height - window.y)
    pixels = to_rgb(scene.read(window.x, window.y, width, height))
    full = np.empty((window.height, window.width, 3), dtype=np.uint8)
    full[:] = MEAN_COLOR
    full[:height, :width] = pixels
    picture = Image.fromarray(full)
    return (
        picture if picture.size == (size, size) else picture.resize((size, size), Image.Resampling.BILINEAR)
    )


def _read_manifest(out: Path, settings: dict[str, object]) -> dict[str, dict[str, Any]]:
    path = out / MANIFEST
    if not path.is_file():
        if (out / "images").is_dir() and any((out / "images").iterdir()):
            raise ArtifactError(f"{out} holds images that are not tiles of deblora; name a new folder")
        return {}
    try:
        content = json.loads(path.read_text())
        there, scenes = content["settings"], content["scenes"]
    except (ValueError, KeyError, OSError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); delete the folder and tile again") from error
    if there != settings:
        raise ArtifactError(f"{out} holds tiles of other settings ({there}); name a new folder")
    return dict(scenes)


LARGEST = 4.0  # ours: objects that are so many times longer than the image are wrong labels
CONTEXT = 1.5  # ours: side of a chip over the longer upright side of its object


def cut_chips(
    source: Path,
    out: Path,
    *,
    context: float | None = None,
    shape: CropShape = "square",
    difficult: bool = False,
    ignored: tuple[str, ...] = (),
) -> dict[str, int]:
    """Write ``out/<class>/<image>_<object>.png``, the folder that ``deblora run`` reads.

    Only what is in ``source`` is cut: give it the training split, so that no validation or test object can reach an
    adapter. Objects whose center lies outside the image are left out. ``deblora run`` draws its
    own validation and test chips from these; they share images with its training chips, so its scores are a sanity
    check of the adapters and no result.

    Args:
        source: DOTA folder or zip.
        out: Folder for the chips.
        context: Side of a chip over that of its object, >= 1; None means 1.5 for squares and 1 for hulls.
        shape: A square around the object (ours), or the upright hull of its box (the authors' rule).
        difficult: Cut objects marked difficult too (the authors' counts hold them).
        ignored: Classes left out.

    Returns:
        Chips per class.

    Raises:
        ArtifactError: If ``out`` is not empty.
        DataError: If the data or the context are wrong, or an object is many times longer than its image.
    """
    context = (CONTEXT if shape == "square" else 1.0) if context is None else context
    if context < 1:
        raise DataError(f"context is {context}, but below 1 the object would be cut; give 1 or more")
    if out.is_dir() and any(out.iterdir()):
        raise ArtifactError(f"{out} is not empty; name a new folder")
    found = read_detection_set(source)
    labels, _ = drop_flat(without(found.labels, ignored))
    names = class_names_of(labels.values())
    for class_name in names:
        (out / class_name).mkdir(parents=True, exist_ok=True)
    counts = dict.fromkeys(names, 0)
    for name in tqdm(found.names, desc="cut chips", unit="scene", disable=no_bar()):
        entry = labels[name]
        if not len(entry.quads):
            continue
        scene = found.files.open(name)
        for row, class_name in enumerate(entry.class_names):
            x, y = entry.quads[row].mean(axis=0)
            inside = 0 <= x < scene.width and 0 <= y < scene.height
            if not inside or (entry.difficult[row] and not difficult) or class_name not in counts:
                continue
            extent = float(np.ptp(entry.quads[row], axis=0).max())
            if extent > LARGEST * max(scene.width, scene.height):
                raise DataError(
                    f"{source}: object {row + 1} of {name} is {extent:.0f} px long in an image of {scene.width} x "
                    f"{scene.height} px; correct its label"
                )
            chip = Image.fromarray(to_rgb(crop(scene, entry.quads[row], context=context, shape=shape)))
            chip.save(out / class_name / f"{name}_{row:05d}.png")
            counts[class_name] += 1
    return {name: counts[name] for name in sorted(counts, key=lambda key: -counts[key])}
