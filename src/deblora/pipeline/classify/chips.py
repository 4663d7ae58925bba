"""The chips of a run: the source as the audit froze it (same ids, labels, splits and subset for every stage)."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from deblora.data.chips import ChipSet
from deblora.data.readers.lists import has_split_lists
from deblora.data.readers.registry import read_chips
from deblora.data.sources import Reading
from deblora.errors import DataError
from deblora.pipeline.audited import as_audited, class_names, sample_rows
from deblora.recipe.classify import DataRecipe, Recipe
from deblora.run.run_dir import RunDir

LISTS = (".csv", ".tsv", ".txt")


@lru_cache(maxsize=2)
def read_source(source: str, kind: str, reading: Reading) -> ChipSet:
    """Read a source once per process; chips of a list by their paths: no result depends on the order of its lines."""
    path = Path(source)
    chips = read_chips(path, format=kind, reading=reading)
    if path.suffix.lower() in LISTS or (path.is_dir() and has_split_lists(path)):
        return chips.subset(np.array(sorted(range(len(chips)), key=chips.ids.__getitem__), dtype=np.int64))
    return chips


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
    names, rows = class_names(run), sample_rows(run)
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
