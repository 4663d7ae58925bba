"""The chips of a run: the source as the audit froze it (same ids, labels, splits and subset for every stage)."""

import csv
import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from deblora.artifacts import Groups
from deblora.config import Recipe
from deblora.data.chips import ChipSet
from deblora.data.readers import read_chips
from deblora.errors import DataError
from deblora.run_dir import RunDir


@lru_cache(maxsize=2)
def read_source(source: str, kind: str) -> ChipSet:
    """Read a source once per process."""
    return read_chips(Path(source), format=kind)  # type: ignore[arg-type]


def open_chips(run: RunDir, recipe: Recipe) -> ChipSet:
    """Return the chips of the run with the labels and splits that the audit froze.

    Raises:
        DataError: If the source no longer holds a chip of the run.
    """
    chips = read_source(recipe.data.source, recipe.data.format)
    with run.samples.open(newline="") as file:
        rows = list(csv.DictReader(file))
    position = {chip_id: i for i, chip_id in enumerate(chips.ids)}
    gone = [row["id"] for row in rows if row["id"] not in position]
    if gone:
        raise DataError(
            f"{len(gone)} chips of the run are no longer in {recipe.data.source}, first: {gone[0]}"
        )
    names = class_names(run)
    chosen = chips.subset(np.array([position[row["id"]] for row in rows], dtype=np.int64))
    labels = np.array([names.index(row["label"]) for row in rows], dtype=np.int64)
    return replace(chosen, labels=labels, class_names=names, splits=tuple(row["split"] for row in rows))


def class_names(run: RunDir) -> tuple[str, ...]:
    """Return the class names in label order."""
    return tuple(json.loads(run.groups.read_text())["class_names"])


def groups_of(run: RunDir) -> Groups:
    """Return the frozen head, middle and tail classes."""
    groups = json.loads(run.groups.read_text())["groups"]
    return Groups(*(tuple(groups[name]) for name in ("head", "middle", "tail")))
