"""Which labeled chips may train: none that validation or test holds, by name, image, pixels or features.

A chip of the run's training is no new one; where its new label is another, the one that trains is kept and said.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

import numpy as np
from jaxtyping import Float

from deblora.data.chips import Pixels
from deblora.data.decode import FilePixels, content_hash
from deblora.data.readers.registry import read_unlabeled
from deblora.errors import DataError
from deblora.files import write_atomic
from deblora.pipeline.audited import frozen, read_audited
from deblora.pipeline.classify.additions import AddedChip, Additions
from deblora.pipeline.classify.chips import chips_of, reading_of
from deblora.pipeline.classify.evaluate.fit import side_by_side
from deblora.pipeline.classify.queue import Queue
from deblora.recipe.classify import Recipe
from deblora.run.run_dir import RunDir

SAME = 1e-3
"""Distance of features, relative to their length, below which chips are copies; batches differ by about 1e-6 (ours)."""
MARKS = "_-. #@"
"""What separates the name of an image from the rest of the name of a chip that was cut from it."""


@dataclass
class Refusals:
    """Chips that were labeled and do not train.

    Attributes:
        refused: Chips that belong to validation or test, and by what they were known.
        conflicts: Chips that have another label already, which was kept.
        notes: What could not be checked.
    """

    refused: dict[str, str] = field(default_factory=dict)
    conflicts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def admitted(
    run: RunDir, recipe: Recipe, queue: Queue, labels: Mapping[str, str], said: Refusals
) -> list[AddedChip]:
    """Return the labeled chips of a queue that are neither validation nor test, nor have another label in training."""
    chips = [
        AddedChip("", chip.id, chip.path, queue.pool, labels[chip.id], "")
        for chip in queue.chips
        if chip.id in labels
    ]
    audited = read_audited(run)
    split_of = dict(zip(audited.ids, audited.splits, strict=True))
    label_of = {i: audited.class_names[c] for i, c in zip(audited.ids, audited.labels.tolist(), strict=True)}
    contents = _contents(run, recipe, said)
    units = {
        unit
        for unit, split in zip(audited.units, audited.splits, strict=bool(audited.units))
        if split != "train"
    }
    pixels = pixels_of(recipe, chips)
    found = []
    for row, chip in enumerate(chips):
        content = content_hash(pixels.read(row))
        same = contents.get(content, "")
        unit = next((unit for unit in units if _is_of(chip, unit)), "")
        if split_of.get(chip.id, "train") != "train":
            said.refused[chip.id] = f"the {split_of[chip.id]} chip of this name"
        elif split_of.get(same, "train") != "train":
            said.refused[chip.id] = f"the pixels of the {split_of[same]} chip {same}"
        elif unit:
            said.refused[chip.id] = f"of the image {unit}, whose other chips are in validation or test"
        elif same in label_of:
            if label_of[same] != chip.label:
                said.conflicts[chip.id] = (
                    f"{label_of[same]} is kept from training, this queue says {chip.label}"
                )
        else:
            found.append(replace(chip, content=content))
    return found


def _is_of(chip: AddedChip, unit: str) -> bool:
    """Tell whether a chip is an image, or was cut from it, by the parts of its name."""
    stem = PurePath(unit).with_suffix("").as_posix()
    for part in (unit, stem):
        for name in (chip.id, PurePath(chip.id).name, *PurePath(chip.id).parts[:-1]):
            if name == part or (name.startswith(part) and name[len(part)] in MARKS):
                return True
    return False


def _contents(run: RunDir, recipe: Recipe, said: Refusals) -> dict[str, str]:
    """Return the hash of the pixels of every chip of the run to its id; they are decoded once."""
    path, data = run.root / "updates" / "contents.json", str(frozen(run).get("data_sha256", ""))
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["data_sha256"] == data:
            return dict(kept["contents"])
    except (OSError, ValueError, LookupError, TypeError):
        pass  # not there yet, or not readable: made again
    audited = read_audited(run)
    try:
        chips = chips_of(recipe.data)
        position = {chip_id: i for i, chip_id in enumerate(chips.ids)}
        # Where two chips are copies, the one that validation or test holds is named.
        order = sorted(zip(audited.ids, audited.splits, strict=True), key=lambda own: own[1] != "train")
        contents = {content_hash(chips.pixels.read(position[chip_id])): chip_id for chip_id, _ in order}
    except (DataError, KeyError) as error:
        said.notes.append(
            f"The chips of the run could not be read ({error}), so copies of validation and test chips were looked for "
            "by name and by features only."
        )
        return {}
    write_atomic(path, json.dumps({"data_sha256": data, "contents": contents}))
    return contents


def pixels_of(recipe: Recipe, chips: Sequence[AddedChip]) -> Pixels:
    """Return the pixels of chips from their pools, or from their own files where a pool is no more.

    Raises:
        DataError: If a chip is in neither.
    """
    parts: list[tuple[Pixels, int]] = []
    geotiff = reading_of(recipe.data) if recipe.data.format == "geotiff" else None
    opened: dict[str, tuple[dict[str, int], Pixels]] = {}
    for chip in chips:
        if chip.pool not in opened:
            try:
                ids, pixels = read_unlabeled(Path(chip.pool), geotiff=geotiff)
            except DataError:
                ids, pixels = (), FilePixels(())
            opened[chip.pool] = {chip_id: i for i, chip_id in enumerate(ids)}, pixels
        position, pixels = opened[chip.pool]
        if chip.id in position:
            parts.append((pixels, position[chip.id]))
        elif Path(chip.path).is_file():
            parts.append((read_unlabeled(Path(chip.path), geotiff=geotiff)[1], 0))
        else:
            raise DataError(f"{chip.id} is neither in {chip.pool} nor at {chip.path}; bring the pool back")
    return _Joined(tuple(parts))


@dataclass(frozen=True)
class _Joined:
    """Chips of several sources."""

    parts: tuple[tuple[Pixels, int], ...]

    def __len__(self) -> int:
        return len(self.parts)

    def read(self, index: int) -> np.ndarray:
        """Return a chip."""
        pixels, own = self.parts[index]
        return pixels.read(own)


def features_of(added: Additions, tables: Sequence[str]) -> Float[np.ndarray, "n d"]:
    """Return the features of added chips from all tables, one beside the other."""
    contents = tuple(chip.content for chip in added.chips)
    return np.hstack([added.tables[table].rows(contents) for table in tables])


def without_twins(run: RunDir, added: Additions, said: Refusals) -> Additions:
    """Leave out chips with the features of a validation or test chip: copies in another format, mirrored ones."""
    if not added.chips:
        return added
    audited, tables = read_audited(run), list(added.tables)
    held = [i for i, split in enumerate(audited.splits) if split != "train"]
    theirs = side_by_side(run, tuple(tables), tuple(audited.ids[i] for i in held)).astype(np.float64)
    own = features_of(added, tables).astype(np.float64)
    squares = (own**2).sum(axis=1)[:, None] + (theirs**2).sum(axis=1) - 2 * own @ theirs.T
    nearest = squares.argmin(axis=1)
    is_twin = squares.min(axis=1) < SAME**2 * (own**2).sum(axis=1)
    for row in np.flatnonzero(is_twin):
        twin = held[nearest[row]]
        said.refused[added.chips[row].id] = (
            f"the features of the {audited.splits[twin]} chip {audited.ids[twin]}"
        )
    chips = tuple(chip for chip, twin in zip(added.chips, is_twin, strict=True) if not twin)
    left = {chip.label for chip in chips}
    names = tuple(name for name in added.class_names if name in audited.class_names or name in left)
    return replace(added, chips=chips, class_names=names)
