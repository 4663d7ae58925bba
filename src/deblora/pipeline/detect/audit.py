"""Stage ``audit``: reads all labels and images once, says what is wrong with them, fixes classes and groups."""

import csv
import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped
from tqdm import tqdm

from deblora.data.longtail import (
    Groups,
    groups_by_counts,
    groups_by_names,
    groups_by_thirds,
    imbalance_ratios,
)
from deblora.data.near_copies import near_copies, thumbnail
from deblora.data.scenes.dota import Labels, reference_groups
from deblora.data.scenes.labeled_images import (
    DetectionSet,
    SceneFiles,
    class_names_of,
    object_counts,
    read_detection_set,
    restrict,
    without,
)
from deblora.data.scenes.rasters import Scene
from deblora.detect.task1 import check_image_names
from deblora.detect.tiling import drop_flat, each_once, scene_of
from deblora.errors import DataError
from deblora.files import write_atomic
from deblora.pipeline.audited import class_names
from deblora.pipeline.tables import table
from deblora.progress import no_bar
from deblora.recipe.detect import DetectionDataRecipe, DetectionRecipe
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage

log = logging.getLogger("deblora")


@dataclass(frozen=True)
class Split:
    """Images of one split with the labels of the trained classes."""

    files: SceneFiles
    labels: dict[str, Labels]


def open_split(run: RunDir, recipe: DetectionDataRecipe, split: str) -> Split:
    """Return a split as the recipe names it, restricted to the classes of the run.

    Raises:
        DataError: If it is not set, or anything in it is wrong.
    """
    source = getattr(recipe, split)
    if not source:
        raise DataError(f"data.{split} is not set in the recipe of {run.root}")
    found = read_detection_set(Path(source))
    labels, _ = drop_flat(without(found.labels, recipe.ignore))
    return Split(found.files, restrict(labels, class_names(run), where=source))


def choose_groups(recipe: DetectionDataRecipe, names: tuple[str, ...], counts: np.ndarray) -> Groups:
    """Return head, middle and tail of the trained classes."""
    if recipe.groups == "reference":
        return reference_groups(names)
    if recipe.groups == "names":
        return groups_by_names(names, recipe.head, recipe.tail)
    if recipe.groups == "counts":
        return groups_by_counts(counts, head_above=recipe.head_above, tail_below=recipe.tail_below)
    return groups_by_thirds(counts)


def image_sizes(run: RunDir, split: str) -> dict[str, tuple[int, int]]:
    """Return height and width of every training or validation image, as the audit found them."""
    with run.samples.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    return {row["id"]: (int(row["height"]), int(row["width"])) for row in rows}


def value_type(run: RunDir) -> str:
    """Return the type of the values of the training images; empty where the audit did not record it."""
    with run.samples.open(newline="", encoding="utf-8") as file:
        return str(next(csv.DictReader(file)).get("values", ""))


def _work(run: RunDir, recipe: DetectionRecipe) -> None:
    data: DetectionDataRecipe = recipe.data
    sets = {name: read_detection_set(Path(getattr(data, name))) for name in ("train", "val")}
    _refuse_shared_images(sets)
    check_image_names(sets["val"].names)
    if one_scene := _tiles_of_one_scene(sets):
        log.warning("audit: %s", one_scene)
    labels: dict[str, dict[str, Labels]] = {}
    for name, found in sets.items():
        labels[name], flat = drop_flat(without(found.labels, data.ignore))
        if flat:
            log.warning("%s: %d objects without area are left out, first: %s", name, len(flat), flat[0])
    names = tuple(data.classes) or class_names_of(labels["train"].values())
    labels = {name: restrict(entry, names, where=getattr(data, name)) for name, entry in labels.items()}
    counts = {}
    for name, found in sets.items():
        once, _ = drop_flat(without(each_once(Path(getattr(data, name)), found.labels), data.ignore))
        counts[name] = object_counts(once.values(), names)
    absent = [names[i] for i in np.flatnonzero(counts["train"] == 0)]
    if absent:
        raise DataError(f"no training object of the class {absent[0]!r}; remove it from data.classes")
    groups = choose_groups(data, names, counts["train"])
    group_of = {index: group for group, members in groups.named().items() for index in members}
    ratios = imbalance_ratios(counts["train"])
    rows = [
        {
            "class": names[i],
            "group": group_of.get(i, ""),
            "train": int(counts["train"][i]),
            "val": int(counts["val"][i]),
            "imbalance_ratio": round(float(ratios[i]), 2),
        }
        for i in np.argsort(-counts["train"], kind="stable").tolist()
    ]
    samples: list[dict[str, object]] = []
    seen: dict[str, list[Float[np.ndarray, "16 16"] | None]] = {}
    for name, found in sets.items():
        rows_of_split, seen[name] = _describe(found, labels[name], name)
        samples += rows_of_split
    _check_types({str(row["values"]): str(row["id"]) for row in reversed(samples)}, data)
    _warn_copies(seen, {name: found.names for name, found in sets.items()})
    frozen = {
        "class_names": list(names),
        "groups": {name: list(members) for name, members in groups.named().items()},
        "rule": data.groups,
        "counts": {name: values.tolist() for name, values in counts.items()},
    }
    write_atomic(run.samples, table(samples))
    write_atomic(run.class_counts, table([dict(row) for row in rows]))
    write_atomic(run.groups, json.dumps(frozen, indent=1))


_PART = re.compile(r"(?:[_-]+(?:r|c|x|y|part|tile)?\d+)+$", re.IGNORECASE)


def _tiles_of_one_scene(sets: dict[str, DetectionSet]) -> str:
    """Say which images of training and validation are named like parts of one scene; empty if none are."""
    scenes: dict[str, dict[str, str]] = {}
    for split, found in sets.items():
        for name in found.names:
            scenes.setdefault(_PART.sub("", name), {}).setdefault(split, name)
    both = [names for scene, names in scenes.items() if len(names) == 2 and scene and not scene.isdigit()]
    n_images = sum(len(found.names) for found in sets.values())
    # Numbered images of one series are no tiles: then nearly all names have one and the same beginning.
    if not both or len(scenes) < 0.05 * n_images or len(scenes) == 1:
        return ""
    one = both[0]
    return (
        f"{len(both)} scenes seem to have tiles in data.train and in data.val by their names, first: "
        f"{one['train']} and {one['val']}; tiles of one scene belong to one side"
    )


def _check_types(types: dict[str, str], data: DetectionDataRecipe) -> None:
    """Refuse images of several types of values, and values whose white nobody named.

    Raises:
        DataError: Names an image of each type.
    """
    named = ", ".join(f"{image} is {kind}" for kind, image in types.items())
    if len(types) > 1:
        raise DataError(f"images differ in the type of their values: {named}; convert them to one type")
    if data.scale is None and set(types) != {"uint8"}:
        raise DataError(
            f"{named}: set data.scale to the value that counts as white (only 8-bit images need none)"
        )


def _warn_copies(
    seen: dict[str, list[Float[np.ndarray, "16 16"] | None]], names: dict[str, Sequence[str]]
) -> None:
    every = [(split, name) for split, own in names.items() for name in own]
    found = near_copies(
        [one for own in seen.values() for one in own],
        [0] * len(every),
        [split for split, _ in every],
        rng=np.random.default_rng(0),
    ).across_splits
    if found:
        i, j = found[0]
        log.warning(
            "audit: %d images of data.val show what an image of data.train shows, first: %s and %s; scores on them "
            "mean nothing",
            len(found),
            every[i][1],
            every[j][1],
        )


def _refuse_shared_images(sets: dict[str, DetectionSet]) -> None:
    train, val = ({scene_of(name) for name in sets[split].names} for split in ("train", "val"))
    shared = sorted(train & val)
    if shared:
        raise DataError(
            f"{len(shared)} images (or tiles of them) are in data.train and in data.val, first: {shared[0]}; scores on "
            "images that were trained on mean nothing: split them (tiles of one scene belong to one side)"
        )


def _describe(
    found: DetectionSet, labels: dict[str, Labels], split: str
) -> tuple[list[dict[str, object]], list[Float[np.ndarray, "16 16"] | None]]:
    """Return one row per image, with a hash of its pixels and labels (what a training depends on), and thumbnails."""
    rows: list[dict[str, object]] = []
    seen: list[Float[np.ndarray, "16 16"] | None] = []
    n_outside = 0
    for name in tqdm(
        found.names, desc=f"audit {split}", unit="image", disable=no_bar(short=len(found.names) < 200)
    ):
        scene, entry = found.files.open(name), labels[name]
        text = json.dumps([entry.quads.tolist(), entry.class_names, entry.difficult.tolist()])
        digest = hashlib.sha256((scene.digest + text).encode()).hexdigest()
        middle = _middle(scene)
        seen.append(thumbnail(middle, span=float(np.ptp(middle)) or 1.0))
        center = entry.quads.mean(axis=1)
        n_outside += int(((center < 0) | (center > (scene.width, scene.height))).any(axis=1).sum())
        rows.append(
            {
                "id": name,
                "split": split,
                "height": scene.height,
                "width": scene.width,
                "n_objects": len(entry.quads),
                "values": middle.dtype.name,
                "sha256": digest,
            }
        )
    if n_outside:
        log.warning("%s: the centers of %d objects lie outside their images", split, n_outside)
    return rows, seen


def _middle(scene: Scene) -> Shaped[np.ndarray, "h w b"]:
    """Return the middle of a scene, at most 1,024 px long and wide."""
    width, height = min(scene.width, 1024), min(scene.height, 1024)
    return scene.read((scene.width - width) // 2, (scene.height - height) // 2, width, height)


STAGE = Stage[DetectionRecipe](
    name="audit",
    settings=lambda recipe: recipe.data,
    inputs=lambda _: [],
    outputs=lambda run: [run.samples, run.groups, run.class_counts],
    work=_work,
    always_runs=True,
)
