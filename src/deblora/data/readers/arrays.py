"""Chips in NumPy files: ``.npz``, or a folder with ``images.npy`` and ``labels.npy``. Nothing is ever unpickled."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deblora.data.chips import ArrayPixels, ChipSet, relabel
from deblora.data.decode import SPLIT_NAMES, class_indices
from deblora.data.readers.reading import Reading
from deblora.data.readers.text_list import read_class_names
from deblora.errors import DataError

_SPLITS = ("train", "val", "test")


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
    names, load = _opened(source)
    splits = [split for split in _SPLITS if f"{split}_images" in names]
    if "images" not in names and "train" not in splits:
        raise DataError(
            f"{source}: no array images (or train_images); found: {', '.join(sorted(names)) or 'none'}"
        )
    keys = (
        [("", "images", "labels")]
        if "images" in names
        else [(split, f"{split}_images", f"{split}_labels") for split in splits]
    )
    images: list[np.ndarray] = []
    labels: list[str] = []
    split_of: list[str] = []
    ids: list[str] = []
    for split, image_key, label_key in keys:
        stack, values = load(image_key), _labels(source, label_key, names, load)
        if stack.ndim not in (3, 4) or len(stack) != len(values):
            raise DataError(
                f"{source}: {image_key} has the shape {stack.shape} and {label_key} {len(values)} labels; store images "
                "as n x h x w (x bands) with one label each"
            )
        images += list(stack)
        labels += values
        split_of += [split] * len(values)
        ids += [f"{split}/{row:06d}".lstrip("/") for row in range(len(values))]
    if not labels:
        raise DataError(f"{source}: no chips")
    if "splits" in names and "images" in names:
        split_of = _splits(source, load("splits"), len(labels))
    class_names, indices = class_indices(labels, str(source))
    chips = ChipSet(tuple(ids), indices, tuple(split_of), class_names, ArrayPixels(images, ids))
    return _named(chips, source, names, load, reading)


def read_array_images(source: Path) -> tuple[tuple[str, ...], ArrayPixels]:
    """Return ids and chips of the layouts of :func:`read_arrays`, or of one ``.npy`` file; labels are not read.

    Raises:
        DataError: If there are no images, or they are no stack of them.
    """
    names, load = _opened(source)
    if source.suffix.lower() == ".npy":
        keys = {"": source.stem}
    else:
        keys = {split: f"{split}_images" for split in _SPLITS if f"{split}_images" in names}
        keys = {"": "images"} if "images" in names else keys
    images: list[np.ndarray] = []
    ids: list[str] = []
    for split, key in keys.items():
        stack = load(key)
        if stack.ndim not in (3, 4):
            raise DataError(
                f"{source}: {key} has the shape {stack.shape}; store images as n x h x w (x bands)"
            )
        images += list(stack)
        ids += [f"{split}/{row:06d}".lstrip("/") for row in range(len(stack))]
    if not ids:
        raise DataError(f"{source}: no images; expected an array images, or train_images ...")
    return tuple(ids), ArrayPixels(images, ids)


def is_stack(path: Path) -> bool:
    """Tell whether an ``.npy`` file holds a stack of chips, ``n h w b``, and not one chip."""
    return _load(path, path.stem).ndim == 4


def _opened(source: Path) -> tuple[set[str], Callable[[str], np.ndarray]]:
    """Return the names of the arrays and a function that loads one."""
    if source.is_dir():
        return {path.stem for path in source.glob("*.npy")}, lambda name: _load(source / f"{name}.npy", name)
    if source.suffix.lower() == ".npy":
        return {source.stem}, lambda name: _load(source, name)
    if source.suffix.lower() != ".npz":
        raise DataError(f"{source}: give an .npz file, or a folder with images.npy and labels.npy")
    try:
        with zipfile.ZipFile(source) as archive:
            names = {Path(name).stem for name in archive.namelist() if name.endswith(".npy")}
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{source}: damaged or no .npz file ({error}); save it again") from error
    return names, lambda name: _load(source, name)


def _load(path: Path, name: str) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive[name])
    except (OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: the array {name} cannot be read ({error}); save plain numbers or texts again, no objects"
        ) from error


def _labels(source: Path, key: str, names: set[str], load: Callable[[str], np.ndarray]) -> list[str]:
    if key not in names:
        raise DataError(f"{source}: no array {key}; found: {', '.join(sorted(names))}")
    values: Any = load(key)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "iuU":
        raise DataError(
            f"{source}: {key} is {values.dtype} of shape {values.shape}; store one integer or text per image"
        )
    return [str(value) for value in values.tolist()]


def _splits(source: Path, values: np.ndarray, n_chips: int) -> list[str]:
    texts = [str(value).lower() for value in values.reshape(-1).tolist()]
    wrong = [text for text in texts if text and text not in SPLIT_NAMES]
    if wrong or len(texts) != n_chips:
        raise DataError(
            f"{source}: splits must hold train, val, test or an empty text for each of {n_chips} images; "
            + (f"it holds {wrong[0]!r}" if wrong else f"it holds {len(texts)} entries")
        )
    return [SPLIT_NAMES.get(text, "") for text in texts]


def _named(
    chips: ChipSet, source: Path, names: set[str], load: Callable[[str], np.ndarray], reading: Reading
) -> ChipSet:
    """Give numbered classes their names, where there are any."""
    if reading.class_names:
        meaning = read_class_names(Path(reading.class_names))
    elif "class_names" in names:
        meaning = {str(i): str(name) for i, name in enumerate(load("class_names").tolist())}
    else:
        return chips
    unnamed = [name for name in chips.class_names if name not in meaning]
    if unnamed:
        raise DataError(f"{source}: the label {unnamed[0]} has no class name; there are {len(meaning)} names")
    if len(set(meaning.values())) < len(meaning):
        raise DataError(f"{source}: two classes have the same name; make class_names distinct")
    return relabel(chips, [meaning[name] for name in chips.class_names], tuple(meaning.values()))
