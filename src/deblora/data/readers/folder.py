"""Chips in one folder per class, with or without a folder per split above."""

from pathlib import Path

import numpy as np

from deblora.data.chips import ChipSet
from deblora.data.decode import IMAGE_SUFFIXES, SPLIT_NAMES, FilePixels
from deblora.errors import DataError


def read_folder(root: Path) -> ChipSet:
    """Read ``root/<class>/<chip>`` or ``root/<split>/<class>/<chip>``.

    Splits are train, val (also valid, validation) and test; without them the split is "". Classes are sorted
    by name; an empty class folder is a class without chips. Files without the suffix of an image and hidden
    entries are passed over. Ids are paths below ``root``.

    Raises:
        DataError: If there is no class folder or no chip, or the layout is ambiguous.
    """
    folders = _folders(root)
    if not folders:
        raise DataError(
            f"{root}: no class folders; store chips as <class>/<chip> or name a list or Parquet file"
        )
    as_splits = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
    if as_splits and len(as_splits) < len(folders):
        other = next(folder.name for folder in folders if folder not in as_splits)
        raise DataError(
            f"{root}: {as_splits[0].name} is a split and {other} is not; keep splits or classes at the top"
        )
    parts = [(SPLIT_NAMES[folder.name.lower()], folder) for folder in as_splits] or [("", root)]
    names = [name for name, _ in parts]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{root}: several folders mean the split {twice[0]}; merge them")
    chips = [
        (split, class_folder.name, path)
        for split, folder in parts
        for class_folder in _folders(folder)
        for path in _images(class_folder)
    ]
    if not chips:
        raise DataError(
            f"{root}: no images in its class folders; expected {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    _refuse_escapes(root, [path for _, _, path in chips])
    classes = tuple(sorted({class_folder.name for _, folder in parts for class_folder in _folders(folder)}))
    position = {name: i for i, name in enumerate(classes)}
    return ChipSet(
        ids=tuple(path.relative_to(root).as_posix() for _, _, path in chips),
        labels=np.array([position[name] for _, name, _ in chips], dtype=np.int64),
        splits=tuple(split for split, _, _ in chips),
        class_names=classes,
        pixels=FilePixels(tuple(path for _, _, path in chips)),
    )


def _refuse_escapes(root: Path, paths: list[Path]) -> None:
    """Refuse links that lead out of the data folder: an unpacked archive could point anywhere."""
    home = root.resolve()
    for path in paths:
        try:
            path.as_posix().encode()
            target = path.resolve()
        except UnicodeEncodeError as error:
            shown = path.as_posix().encode(errors="replace").decode()
            raise DataError(f"{shown}: the name is not UTF-8; rename the file or its folder") from error
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{path}: a link that leads nowhere ({error}); restore the chip or delete it"
            ) from error
        if not target.is_relative_to(home):
            raise DataError(
                f"{path}: a link that leads out of {root}; copy the chip into the folder or name it in a list"
            )


def _folders(root: Path) -> list[Path]:
    """Return the visible folders in ``root``, sorted by name."""
    return sorted(
        path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX"))
    )


def _images(folder: Path) -> list[Path]:
    """Return the images in one class folder, sorted by name.

    Raises:
        DataError: If the folder has folders inside, whose chips would otherwise be lost in silence.
    """
    nested = _folders(folder)
    if nested:
        raise DataError(f"{nested[0]}: a folder inside a class folder; move its chips up or use a list file")
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
