"""What all sources of chips share: switches of readers, names of splits and classes, texts, paths that stay inside."""

import os
import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int

from deblora.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".npy"})
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

CropShape = Literal["hull", "square"]
DotaVersion = Literal["any", "v1.0", "v1.5", "v2.0"]


@dataclass(frozen=True)
class Reading:
    """What a reader may need to know beside the path; each reader uses the part that concerns it.

    Attributes:
        crop: What is cut around an object: the upright hull of its box, clipped to the image (authors' rule), or a
            square with the object in its middle, the border of the image repeated beyond it (ours).
        context: Side of the crop over that of the hull, >= 1; 1 cuts the hull itself (authors' rule).
        min_side: Objects whose hull has a shorter side, in pixels, are left out and counted; 0 keeps all (authors).
        difficult: Keep or drop objects marked difficult (the authors' counts hold all objects: keep).
        version: Class list of DOTA that labels must obey; "any" takes the classes that occur.
        unit: Column of a list or Parquet file that names what a split must not part, such as a scene.
        class_names: File with one class name per line, for labels that are numbers.
        images: Folder that the paths of a text list start from; None means the folder of the list.
        bands: Bands of a GeoTIFF to keep, counted from 1 as GDAL does; empty keeps all.
        max_missing: Share of pixels, 0 to 1, that may be missing (nodata) in a GeoTIFF chip; beyond it the chip is
            refused (ours).
    """

    crop: CropShape = "hull"
    context: float = 1.0
    min_side: float = 0.0
    difficult: Literal["keep", "drop"] = "keep"
    version: DotaVersion = "any"
    unit: str | None = None
    class_names: str | None = None
    images: str | None = None
    bands: tuple[int, ...] = ()
    max_missing: float = 0.5


def refuse_unused(reading: Reading, used: Collection[str], source: Path, what: str) -> None:
    """Refuse switches that a reader would pass over: whoever sets one counts on its effect.

    Raises:
        DataError: Names all of them.
    """
    idle = [item.name for item in fields(Reading) if getattr(reading, item.name) != item.default]
    idle = [f"data.{name}" for name in idle if name not in used]
    if idle:
        raise DataError(
            f"{source}: {', '.join(idle)} would have no effect, {what} has no such thing; remove it, or set "
            "data.format to a kind of source that has"
        )


class Home:
    """A folder that paths must not leave, links included; each folder below is resolved once: lists are long."""

    def __init__(self, root: Path, *, advice: str = "") -> None:
        self.root, self._advice = root, advice
        self.real = os.path.realpath(root)
        self._folders: dict[str, str] = {}

    def resolve(self, path: str) -> str:
        """Return where a path leads, which is outside this folder unless :meth:`holds` says otherwise.

        Raises:
            RuntimeError: If links lead in a circle.
        """
        folder, name = os.path.split(path)
        if name in ("", ".", ".."):
            return os.path.realpath(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        found = os.path.join(self._folders[folder], name)  # noqa: PTH118  (a Path per line would cost seconds)
        return str(Path(found).resolve()) if os.path.islink(found) else found  # noqa: PTH114

    def holds(self, real: str) -> bool:
        """Tell whether a resolved path lies in this folder."""
        return real == self.real or real.startswith(self.real.rstrip(os.sep) + os.sep)

    def file(self, text: str, where: str) -> Path:
        """Return the file that the entry of a list means, links resolved.

        Raises:
            DataError: If it is empty, leaves the folder or is no file; begins with ``where``.
        """
        if not text:
            raise DataError(f"{where}: the path is empty")
        try:
            real = self.resolve(os.path.join(self.root, text))  # noqa: PTH118
            if not self.holds(real):
                raise DataError(
                    f"{where}: {text} leaves the folder {self.root}; list chips below it{self._advice}"
                )
            if not stat.S_ISREG(os.stat(real).st_mode):  # noqa: PTH116
                raise FileNotFoundError
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(
                f"{where}: {text} does not exist below {self.root}; restore it, or delete the line{self._advice}"
            ) from error
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"{where}: {text!r} is not a usable path ({error})") from error
        return Path(real)


def read_text(path: Path) -> str:
    """Return a UTF-8 text, with or without a mark at its beginning.

    Raises:
        DataError: If it cannot be read or is none.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); it must be a UTF-8 text file") from error


def class_indices(
    values: list[str], source: str, *, places: Sequence[str] = ()
) -> tuple[tuple[str, ...], Int[np.ndarray, " n"]]:
    """Name the classes of free labels: sorted by name, or by value when all of them are integers.

    Args:
        values: One label per chip, none empty.
        source: What the messages call the list.
        places: File and line of each label, where labels have one; messages then name it instead.

    Returns:
        Class names and the class index of each chip.

    Raises:
        DataError: If an integer label is negative, the usual sign of a chip without a label, written in two ways, or
            longer than any number of a class.
    """

    def where(label: str) -> str:
        return places[values.index(label)] if places else source

    ordered: tuple[str, ...] = tuple(sorted(set(values)))
    long = next((name for name in ordered if len(name) > LONGEST_NAME), None)
    if long is not None:
        raise DataError(f"{where(long)}: a label of {len(long)} letters ({long[:20]}...); shorten it")
    if all(name.lstrip("-").isascii() and name.lstrip("-").isdigit() for name in ordered):
        spelled: dict[int, str] = {}
        for name in dict.fromkeys(values):
            if name.startswith("-"):
                raise DataError(f"{where(name)}: negative labels ({name}); leave chips without a label out")
            if spelled.setdefault(int(name), name) != name:
                raise DataError(
                    f"{where(name)}: the label {name} is also written {spelled[int(name)]}; write it in one way"
                )
        ordered = tuple(sorted(ordered, key=int))
    position = {name: i for i, name in enumerate(ordered)}
    return ordered, np.array([position[value] for value in values], dtype=np.int64)


LONGEST_NAME = 1000  # letters of a class name, ours: longer ones are a fault of the list
