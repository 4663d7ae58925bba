"""The chips of a run: the source as the audit froze it (same ids, labels, splits and subset for every stage)."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from deblora.artifacts import Groups
from deblora.config import DataRecipe, Recipe
from deblora.data.chips import SPLITS, ChipSet, Pixels, RescaledPixels
from deblora.data.readers import read_chips
from deblora.data.reading import Reading
from deblora.errors import ArtifactError, DataError
from deblora.run_dir import RunDir


@lru_cache(maxsize=2)
def read_source(source: str, kind: str, reading: Reading) -> ChipSet:
    """Read a source once per process."""
    return read_chips(Path(source), format=kind, reading=reading)


def chips_of(recipe: DataRecipe) -> ChipSet:
    """Return all chips of the source, before classes are chosen and splits drawn."""
    return read_source(recipe.source, recipe.format, reading_of(recipe))


def reading_of(recipe: DataRecipe) -> Reading:
    """Return the switches of the reader."""
    return Reading(
        crop=recipe.crop,
        context=recipe.context,
        min_side=recipe.min_side,
        difficult=recipe.difficult,
        version=recipe.version,
        unit=recipe.unit,
        class_names=recipe.class_names,
        images=recipe.images,
        bands=tuple(recipe.bands),
        max_missing=recipe.max_missing,
    )


def open_chips(run: RunDir, recipe: Recipe) -> ChipSet:
    """Return the chips of the run with the labels and splits that the audit froze.

    Raises:
        ArtifactError: If what the audit froze is damaged.
        DataError: If the source no longer holds a chip of the run.
    """
    chips = chips_of(recipe.data)
    names, rows = class_names(run), _samples(run)
    position = {chip_id: i for i, chip_id in enumerate(chips.ids)}
    gone = [row["id"] for row in rows if row["id"] not in position]
    if gone:
        raise DataError(
            f"{len(gone)} chips of the run are no longer in {recipe.data.source}, first: {gone[0]}; restore them, "
            "or audit again with deblora run and --resume"
        )
    index = {name: i for i, name in enumerate(names)}
    chosen = chips.subset(np.array([position[row["id"]] for row in rows], dtype=np.int64))
    chosen = replace(chosen, pixels=as_audited(run, chosen.pixels))
    labels = np.array([index[row["label"]] for row in rows], dtype=np.int64)
    return replace(chosen, labels=labels, class_names=names, splits=tuple(row["split"] for row in rows))


def as_audited(run: RunDir, pixels: Pixels) -> Pixels:
    """Return pixels in the range that the audit froze: black and white of the recipe, or as they are."""
    black_and_white = _frozen(run).get("black_and_white")
    return RescaledPixels(pixels, *black_and_white) if black_and_white else pixels


def check_bands(run: RunDir, n_bands: int, backbone: str, *, named: Sequence[str] = ()) -> None:
    """Check that the backbone takes the chips as the audit saw them; a single gray band is repeated.

    Raises:
        DataError: If chips have another number of bands than the backbone or than are named; names one.
    """
    for count, chip_id in _frozen(run).get("bands", {}).items():
        if int(count) not in (1, n_bands):
            raise DataError(
                f"{chip_id} has {count} bands, but the backbone {backbone} takes {n_bands} (or one gray band, "
                f"repeated); set backbone.n_bands to {count}, convert the chips, or choose another backbone.name or "
                "backbone.sensor"
            )
        if named and int(count) != len(named):
            raise DataError(
                f"{chip_id} has {count} bands, but data.band_names names {len(named)}; name every band once"
            )


def band_counts(run: RunDir) -> frozenset[int]:
    """Return the numbers of bands that the chips of the run have; empty where the audit did not record them."""
    return frozenset(int(count) for count in _frozen(run).get("bands", {}))


def class_names(run: RunDir) -> tuple[str, ...]:
    """Return the class names in label order."""
    return tuple(_frozen(run)["class_names"])


def groups_of(run: RunDir) -> Groups:
    """Return the frozen head, middle and tail classes."""
    groups = _frozen(run)["groups"]
    return Groups(*(tuple(groups[name]) for name in ("head", "middle", "tail")))


def _samples(run: RunDir) -> list[dict[str, str]]:
    """Return id, label and split of each chip of the run.

    Raises:
        ArtifactError: If the table is damaged or was changed by hand into something that is none.
    """
    names, seen = set(class_names(run)), set()
    try:
        with run.samples.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = []
            for row in reader:
                if (
                    None in row
                    or not row["id"]
                    or row["label"] not in names
                    or row["split"] not in SPLITS[:3]
                ):
                    raise ValueError(f"line {reader.line_num} is not an id, a known class and a split")
                if row["id"] in seen:
                    raise ValueError(f"line {reader.line_num} repeats {row['id']}")
                seen.add(row["id"])
                rows.append(row)
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise ArtifactError(
            f"{run.samples} is damaged ({error}); make it again with deblora audit {run.root}"
        ) from error
    missing = {"train", "val", "test"} - {row["split"] for row in rows}
    if missing:
        raise ArtifactError(
            f"{run.samples} has no chip in {sorted(missing)}; make it again with deblora audit {run.root}"
        )
    return rows


def _frozen(run: RunDir) -> dict[str, Any]:
    """Return what the audit froze beside the samples.

    Raises:
        ArtifactError: If the file is damaged.
    """
    try:
        frozen = json.loads(run.groups.read_text(encoding="utf-8"))
        classes = range(len(frozen["class_names"]))
        members = [index for name in ("head", "middle", "tail") for index in frozen["groups"][name]]
        if sorted(members) != list(classes):
            raise ValueError("groups and classes disagree")
        if not all(isinstance(name, str) for name in frozen["class_names"]):
            raise ValueError("class names are not texts")
        if any(
            len(counts) != len(classes) for counts in (frozen["counts"]["train"], *frozen["counts"].values())
        ):
            raise ValueError("counts and classes disagree")
        dict(frozen.get("bands", {})), str(frozen["rule"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{run.groups} is damaged ({error}); make it again with deblora audit {run.root}"
        ) from error
    return dict(frozen)
