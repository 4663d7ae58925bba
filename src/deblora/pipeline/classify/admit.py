"""Which labeled chips may train: none that validation or test holds, by name, image, pixels, looks or features.

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
from deblora.data.near_copies import near_copies, thumbnail
from deblora.data.readers.registry import read_unlabeled
from deblora.errors import ArtifactError, DataError
from deblora.pipeline.audited import frozen, read_audited
from deblora.pipeline.classify.additions import AddedChip, Additions
from deblora.pipeline.classify.chips import chips_of, reading_of
from deblora.pipeline.classify.evaluate.fit import side_by_side
from deblora.pipeline.classify.queue import Queue
from deblora.recipe.classify import Recipe
from deblora.run.artifacts import load_arrays, save_arrays
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
    seen = _seen(run, recipe, said)
    units = {
        unit
        for unit, split in zip(audited.units, audited.splits, strict=bool(audited.units))
        if split != "train" and unit
    }
    pixels = pixels_of(recipe, chips)
    hashes, thumbnails = [], []
    for row in range(len(chips)):
        own = pixels.read(row)
        hashes.append(content_hash(own))
        thumbnails.append(_thumbnail(own, recipe))
    copies = seen.copies(thumbnails)
    found = []
    for row, (chip, content) in enumerate(zip(chips, hashes, strict=True)):
        same = seen.contents.get(content, "")
        unit = next((unit for unit in units if _is_of(chip, unit)), "")
        if split_of.get(chip.id, "train") != "train":
            said.refused[chip.id] = f"the {split_of[chip.id]} chip of this name"
        elif split_of.get(same, "train") != "train":
            said.refused[chip.id] = f"the pixels of the {split_of[same]} chip {same}"
        elif row in copies:
            said.refused[chip.id] = f"it shows what the {split_of[copies[row]]} chip {copies[row]} shows"
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


@dataclass(frozen=True)
class _Seen:
    """What the chips of a run look like: the hash of their pixels to their ids, and thumbnails of those held back."""

    contents: dict[str, str] = field(default_factory=dict)
    held: tuple[str, ...] = ()
    thumbnails: Float[np.ndarray, "n 16 16"] = field(
        default_factory=lambda: np.zeros((0, 16, 16), np.float32)
    )

    def copies(self, thumbnails: Sequence[Float[np.ndarray, "16 16"] | None]) -> dict[int, str]:
        """Return the rows that show what a validation or test chip shows, and which one."""
        known = [own if own.any() else None for own in self.thumbnails]
        splits = ["train"] * len(known) + ["new"] * len(thumbnails)
        found = near_copies(
            [*known, *thumbnails], [0] * len(splits), splits, rng=np.random.default_rng(0)
        ).across_splits
        return {new - len(known): self.held[own] for new, own in found}


def _seen(run: RunDir, recipe: Recipe, said: Refusals) -> _Seen:
    """Decode the chips of the run, once, and keep what :class:`_Seen` holds."""
    path, data = run.root / "updates" / "seen.safetensors", str(frozen(run).get("data_sha256", ""))
    if path.is_file():
        try:
            arrays, notes, ids = load_arrays(path, {"thumbnails": ("f", 3)}, by_chip=("thumbnails",))
            if notes["data_sha256"] == data:
                return _Seen(dict(json.loads(notes["contents"])), tuple(ids), arrays["thumbnails"])
        except (ArtifactError, LookupError, ValueError):
            pass  # made again
    audited, contents, found = read_audited(run), {}, {}
    try:
        chips = chips_of(recipe.data)
        position = {chip_id: i for i, chip_id in enumerate(chips.ids)}
        # Where two chips are copies, the one that validation or test holds is named.
        for chip_id, split in sorted(
            zip(audited.ids, audited.splits, strict=True), key=lambda own: own[1] != "train"
        ):
            pixels = chips.pixels.read(position[chip_id])
            contents[content_hash(pixels)] = chip_id
            if split != "train":
                found[chip_id] = _thumbnail(pixels, recipe)
    except (DataError, KeyError) as error:
        said.notes.append(
            f"The chips of the run could not be read ({error}), so copies of validation and test chips were looked for "
            "by name and by features only."
        )
        return _Seen()
    nothing = np.zeros((16, 16), np.float32)
    thumbnails = np.stack([nothing if own is None else own for own in found.values()])
    notes = {"data_sha256": data, "contents": json.dumps(contents)}
    save_arrays(path, {"thumbnails": thumbnails}, notes, list(found))
    return _Seen(contents, tuple(found), thumbnails)


def _thumbnail(pixels: np.ndarray, recipe: Recipe) -> Float[np.ndarray, "16 16"] | None:
    return thumbnail(pixels, span=(recipe.data.scale or 255.0) - recipe.data.offset)


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
