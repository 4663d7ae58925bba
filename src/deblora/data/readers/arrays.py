"""Chips in NumPy files: ``.npz``, or a folder with ``images.npy`` and ``labels.npy``. Nothing is ever unpickled."""

import zipfile
from pathlib import Path

import numpy as np

from deblora.data.chips import ArrayPixels, ChipSet, relabel
from deblora.data.decode import ARRAY_DAMAGE
from deblora.data.readers.lists import read_class_names
from deblora.data.sources import SPLIT_NAMES, Reading, class_indices
from deblora.errors import DataError

STACKS = ("images.npy", *(f"{split}_images.npy" for split in ("train", "val", "test")))

_BOMB_BYTES, _BOMB_RATIO = (
    2**30,
    100,
)  # an array that unpacks to more, and to so many times its bytes, is a trap


def read_arrays(source: Path, reading: Reading) -> ChipSet:
    """Read arrays of chips that have one size.

    Three layouts: an ``.npz`` with ``images``, ``labels`` and perhaps ``splits`` and ``class_names``; an ``.npz`` with
    ``train_images``, ``train_labels``, ``val_images`` ... ; a folder with ``images.npy``, ``labels.npy`` and perhaps
    ``splits.npy`` and ``class_names.npy``, or ``train_images.npy`` ... as in the second layout. Images are ``n h w`` or
    ``n h w b``; labels are integers or texts, ``n`` or ``n 1``. ``.npy`` files stay on disk and are read as needed,
    ``.npz`` files are loaded. Ids are ``<split>/<row>``.

    Raises:
        DataError: If an array is missing, holds objects, or the shapes disagree; names file and array.
    """
    file = _Arrays(source)
    if not {"images", "train_images"} & file.names:
        raise DataError(f"{source}: no array images (or train_images); found: {file.listed}")
    images: list[np.ndarray] = []
    labels: list[str] = []
    splits: list[str] = []
    ids: list[str] = []
    for split, key in file.stacks():
        stack, values = file.load(key), _labels(file, key.replace("images", "labels"))
        if stack.ndim not in (3, 4) or len(stack) != len(values):
            raise DataError(
                f"{source}: {key} has the shape {stack.shape} and {len(values)} labels; store images "
                "as n x h x w (x bands) with one label each"
            )
        images += list(stack)
        labels += values
        splits += [split] * len(values)
        ids += _ids(split, len(values))
    if not labels:
        raise DataError(f"{source}: no chips")
    if {"splits", "images"} <= file.names:
        splits = _splits(file, len(labels))
    class_names, indices = class_indices(labels, str(source))
    chips = ChipSet(tuple(ids), indices, tuple(splits), class_names, ArrayPixels(images, ids))
    return _named(chips, file, reading)


def read_array_images(source: Path) -> tuple[tuple[str, ...], ArrayPixels]:
    """Return ids and chips of the layouts of :func:`read_arrays`, or of one ``.npy`` file; labels are not read.

    Raises:
        DataError: If there are no images, or they are no stack of them.
    """
    file = _Arrays(source)
    images: list[np.ndarray] = []
    ids: list[str] = []
    for split, key in file.stacks():
        stack = file.load(key)
        if stack.ndim not in (3, 4):
            raise DataError(
                f"{source}: {key} has the shape {stack.shape}; store images as n x h x w (x bands)"
            )
        images += list(stack)
        ids += _ids(split, len(stack))
    if not ids:
        raise DataError(f"{source}: no images; expected an array images, or train_images ...")
    return tuple(ids), ArrayPixels(images, ids)


def is_stack(path: Path) -> bool:
    """Tell whether an ``.npy`` file holds a stack of chips, ``n h w b``, and not one chip."""
    return _Arrays(path).load(path.stem).ndim == 4


def _ids(split: str, n: int) -> list[str]:
    return [f"{split}/{row:06d}".lstrip("/") for row in range(n)]


class _Arrays:
    """The arrays of a folder, of an ``.npz`` file, or one ``.npy`` file, by name."""

    def __init__(self, source: Path) -> None:
        self.source, self._is_archive = source, False
        if source.is_dir():
            self._files = {path.stem: path for path in source.glob("*.npy")}
        elif source.suffix.lower() == ".npy":
            self._files = {source.stem: source}
        elif source.suffix.lower() == ".npz":
            self._is_archive = True
            try:
                with zipfile.ZipFile(source) as archive:
                    entries = archive.infolist()
            except (OSError, zipfile.BadZipFile) as error:
                raise DataError(f"{source}: damaged or no .npz file ({error}); save it again") from error
            for entry in entries:
                if entry.file_size > max(_BOMB_BYTES, _BOMB_RATIO * entry.compress_size):
                    raise DataError(
                        f"{source}: {entry.filename} unpacks from {entry.compress_size} to {entry.file_size} bytes; "
                        "save it as .npy, which stays on disk"
                    )
            self._files = {Path(e.filename).stem: source for e in entries if e.filename.endswith(".npy")}
        else:
            raise DataError(f"{source}: give an .npz file, or a folder with images.npy and labels.npy")
        self.names = set(self._files)
        self.listed = ", ".join(sorted(self.names)) or "none"

    def stacks(self) -> list[tuple[str, str]]:
        """Return split and name of every array of images."""
        if self.source.suffix.lower() == ".npy" and not self.source.is_dir():
            return [("", self.source.stem)]
        if "images" in self.names:
            return [("", "images")]
        return [
            (split, f"{split}_images")
            for split in ("train", "val", "test")
            if f"{split}_images" in self.names
        ]

    def load(self, name: str) -> np.ndarray:
        """Return an array; those in files of their own stay on disk."""
        path = self._files[name]
        try:
            if not self._is_archive:
                return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            with np.load(path, allow_pickle=False) as archive:
                return np.asarray(archive[name])
        except ARRAY_DAMAGE as error:
            raise DataError(
                f"{path}: the array {name} cannot be read ({error}); save plain numbers or texts again, no objects"
            ) from error


def _labels(file: _Arrays, key: str) -> list[str]:
    if key not in file.names:
        raise DataError(f"{file.source}: no array {key}; found: {file.listed}")
    values = file.load(key)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "iuU":
        raise DataError(
            f"{file.source}: {key} is {values.dtype} of shape {values.shape}; store one integer or text per image"
        )
    return [str(value) for value in values.tolist()]


def _splits(file: _Arrays, n_chips: int) -> list[str]:
    texts = [str(value).lower() for value in file.load("splits").reshape(-1).tolist()]
    wrong = [text for text in texts if text and text not in SPLIT_NAMES]
    if wrong or len(texts) != n_chips:
        raise DataError(
            f"{file.source}: splits must hold train, val, test or an empty text for each of {n_chips} images; "
            + (f"it holds {wrong[0]!r}" if wrong else f"it holds {len(texts)} entries")
        )
    return [SPLIT_NAMES.get(text, "") for text in texts]


def _named(chips: ChipSet, file: _Arrays, reading: Reading) -> ChipSet:
    """Give numbered classes their names, where there are any."""
    if reading.class_names:
        meaning = read_class_names(Path(reading.class_names))
    elif "class_names" in file.names:
        meaning = {str(i): str(name) for i, name in enumerate(file.load("class_names").tolist())}
    else:
        return chips
    unnamed = [name for name in chips.class_names if name not in meaning]
    if unnamed:
        raise DataError(
            f"{file.source}: the label {unnamed[0]} has no class name; there are {len(meaning)} names"
        )
    if len(set(meaning.values())) < len(meaning):
        raise DataError(f"{file.source}: two classes have the same name; make class_names distinct")
    return relabel(chips, [meaning[name] for name in chips.class_names], tuple(meaning.values()))
