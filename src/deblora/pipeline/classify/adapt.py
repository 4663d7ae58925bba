"""``deblora update --adapt``: a run of its own whose adapters learn from the added chips too.

Its data are the chips of the run and the added ones, written as files beside a list that fixes every split, so that
validation and test are those of the run and nothing depends on where pools lie.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from deblora.data.decode import content_hash
from deblora.errors import DataError
from deblora.files import write_atomic
from deblora.pipeline.audited import read_audited
from deblora.pipeline.classify.additions import Additions, grouped, read_additions
from deblora.pipeline.classify.admit import pixels_of
from deblora.pipeline.classify.chips import chips_of
from deblora.pipeline.classify.road import check_inputs, run_all
from deblora.recipe.classify import DataRecipe, Recipe
from deblora.run.run_dir import RunDir

LIST = "chips.csv"
Row = tuple[np.ndarray, str, str, str]


def adapt(run: RunDir, recipe: Recipe, out: Path) -> RunDir:
    """Train and evaluate everything again with the added chips, as another run; given again, it goes on.

    Args:
        run: With labels that were added to it.
        recipe: Its settings.
        out: Folder of the new run, which holds its chips too.

    Returns:
        The new run.

    Raises:
        ArtifactError: If ``out`` holds something else, or what was added is stale or damaged.
        DataError: If nothing was added, or chips are not where they were.
    """
    added = read_additions(run)
    if added is None:
        raise DataError(f"no labels were added to {run.root} yet; name the queue that holds some")
    if out.resolve() == run.root.resolve():
        raise DataError(f"{out} is the run itself, which stays as it is; name another folder")
    new = RunDir.create(out, resume=True, overwrite=False)
    write_chips(out / "chips", run, recipe, added)
    again = replace(recipe, data=data_recipe(run, recipe.data, added, out / "chips" / LIST))
    again = replace(
        again, look=replace(recipe.look, enabled=False)
    )  # the first look has settled its settings
    check_inputs(again)
    run_all(new, again, note=f"{len(added.chips)} labels were added to the training chips of {run.root}")
    return new


def write_chips(folder: Path, run: RunDir, recipe: Recipe, added: Additions) -> None:
    """Write all chips as files named by their pixels, and the list of labels and splits last."""
    buffer, seen = io.StringIO(), Counter[str]()
    lines = csv.writer(buffer, lineterminator="\n")
    lines.writerow(["path", "label", "split", "unit"])
    for pixels, label, split, unit in _rows(run, recipe, added):
        content = content_hash(pixels)
        seen[content] += 1
        is_picture = pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3)
        name = f"{content}-{seen[content]}{'.png' if is_picture else '.npy'}"
        if not (folder / name).is_file():
            write_atomic(folder / name, _as_bytes(pixels, is_picture=is_picture))
        lines.writerow([name, label, split, unit])
    write_atomic(folder / LIST, buffer.getvalue())


def _rows(run: RunDir, recipe: Recipe, added: Additions) -> Iterator[Row]:
    """Yield pixels, label, split and unit of every chip; an added chip is a unit of its own."""
    audited, chips = read_audited(run), chips_of(recipe.data)
    position = {chip_id: i for i, chip_id in enumerate(chips.ids)}
    for i, chip_id in enumerate(audited.ids):
        if chip_id not in position:
            raise DataError(f"{chip_id} is no longer in {recipe.data.source}; restore it")
        unit = audited.units[i] if audited.units else chip_id
        label = audited.class_names[int(audited.labels[i])]
        yield chips.pixels.read(position[chip_id]), label, audited.splits[i], unit
    pixels = pixels_of(recipe, added.chips)
    for row, chip in enumerate(added.chips):
        own = pixels.read(row)
        if content_hash(own) != chip.content:
            raise DataError(f"{chip.id} of {chip.pool} is not the chip that was labeled; restore it")
        yield own, chip.label, "train", f"added {chip.content}"


def _as_bytes(pixels: np.ndarray, *, is_picture: bool) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    if is_picture:
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    else:
        np.save(buffer, pixels, allow_pickle=False)
    return buffer.getvalue()


def data_recipe(run: RunDir, before: DataRecipe, added: Additions, source: Path) -> DataRecipe:
    """Return the settings of the data of the new run: that list, with the groups of the run.

    Classes, subset, cropping and bands are in the chips already; black and white still count.
    """
    groups = grouped(run, added.class_names)
    return DataRecipe(
        source=str(source),
        format="list",
        unit="unit",
        scale=before.scale,
        offset=before.offset,
        band_names=before.band_names,
        groups="names",
        head=[added.class_names[c] for c in groups.head],
        tail=[added.class_names[c] for c in groups.tail],
    )
