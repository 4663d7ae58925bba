"""Stage ``audit``: reads all labels and images once, says what is wrong with them, fixes classes and groups."""

import csv
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deblora.data.longtail import (
    Groups,
    groups_by_counts,
    groups_by_names,
    groups_by_thirds,
    imbalance_ratios,
)
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


def _work(run: RunDir, recipe: DetectionRecipe) -> None:
    data: DetectionDataRecipe = recipe.data
    sets = {name: read_detection_set(Path(getattr(data, name))) for name in ("train", "val")}
    _refuse_shared_images(sets)
    check_image_names(sets["val"].names)
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
    for name, found in sets.items():
        samples += _describe(found, labels[name], name)
    frozen = {
        "class_names": list(names),
        "groups": {name: list(members) for name, members in groups.named().items()},
        "rule": data.groups,
        "counts": {name: values.tolist() for name, values in counts.items()},
    }
    write_atomic(run.samples, table(samples))
    write_atomic(run.class_counts, table([dict(row) for row in rows]))
    write_atomic(run.groups, json.dumps(frozen, indent=1))


def _refuse_shared_images(sets: dict[str, DetectionSet]) -> None:
    train, val = ({scene_of(name) for name in sets[split].names} for split in ("train", "val"))
    shared = sorted(train & val)
    if shared:
        raise DataError(
            f"{len(shared)} images (or tiles of them) are in data.train and in data.val, first: {shared[0]}; scores on "
            "images that were trained on mean nothing: split them (tiles of one scene belong to one side)"
        )


def _describe(found: DetectionSet, labels: dict[str, Labels], split: str) -> list[dict[str, object]]:
    """Return one row per image, with a hash of its pixels and labels: what a training depends on."""
    rows: list[dict[str, object]] = []
    n_outside = 0
    for name in tqdm(
        found.names, desc=f"audit {split}", unit="image", disable=no_bar(short=len(found.names) < 200)
    ):
        scene, entry = found.files.open(name), labels[name]
        text = json.dumps([entry.quads.tolist(), entry.class_names, entry.difficult.tolist()])
        digest = hashlib.sha256((scene.digest + text).encode()).hexdigest()
        center = entry.quads.mean(axis=1)
        n_outside += int(((center < 0) | (center > (scene.width, scene.height))).any(axis=1).sum())
        rows.append(
            {
                "id": name,
                "split": split,
                "height": scene.height,
                "width": scene.width,
                "n_objects": len(entry.quads),
                "sha256": digest,
            }
        )
    if n_outside:
        log.warning("%s: the centers of %d objects lie outside their images", split, n_outside)
    return rows


STAGE = Stage[DetectionRecipe](
    name="audit",
    settings=lambda recipe: recipe.data,
    inputs=lambda _: [],
    outputs=lambda run: [run.samples, run.groups, run.class_counts],
    work=_work,
    always_runs=True,
)
