"""The chip set: ids, labels, splits and lazily read pixels, whatever the source is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from jaxtyping import Int, Shaped

from deblora.errors import DataError

SPLITS = ("train", "val", "test", "")


class Pixels(Protocol):
    """Random access to chips; nothing is decoded before it is read."""

    def __len__(self) -> int:
        """Return the number of chips."""
        ...

    def read(self, index: int) -> Shaped[np.ndarray, "h w b"]:
        """Return chip ``index`` as uint8, uint16 or float32.

        Raises:
            DataError: If the chip cannot be read; the message names it.
        """
        ...


class ArrayPixels:
    """Chips that already are in memory.

    Args:
        arrays: One array per chip, ``h w`` or ``h w b``; uint8, uint16 or float32.
        ids: One name per chip, for messages.
    """

    def __init__(self, arrays: Sequence[np.ndarray], ids: Sequence[str]) -> None:
        if len(arrays) != len(ids):
            raise ValueError(f"arrays and ids differ in length: {len(arrays)} and {len(ids)}")
        self._arrays = arrays
        self._ids = tuple(ids)

    def __len__(self) -> int:
        """Return the number of chips."""
        return len(self._ids)

    def read(self, index: int) -> Shaped[np.ndarray, "h w b"]:
        """Return chip ``index`` with a band axis."""
        return as_chip(self._arrays[index], self._ids[index])


@dataclass(frozen=True)
class SubsetPixels:
    """A selection of the chips of ``base``, in the order of ``indices``."""

    base: Pixels
    indices: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of selected chips."""
        return len(self.indices)

    def read(self, index: int) -> Shaped[np.ndarray, "h w b"]:
        """Return the selected chip ``index``."""
        return self.base.read(self.indices[index])


@dataclass(frozen=True)
class RescaledPixels:
    """Chips whose values from ``black`` to ``white`` are brought to 0 to 255, the range that backbones expect."""

    base: Pixels
    black: float
    white: float

    def __len__(self) -> int:
        """Return the number of chips."""
        return len(self.base)

    def read(self, index: int) -> Shaped[np.ndarray, "h w b"]:
        """Return chip ``index`` as float32; values beyond black and white stay beyond 0 and 255."""
        chip = self.base.read(index).astype(np.float32)
        return np.asarray((chip - np.float32(self.black)) * np.float32(255.0 / (self.white - self.black)))


@dataclass(frozen=True, eq=False)
class ChipSet:
    """Labeled chips of a fixed list of classes.

    Attributes:
        ids: One id per chip.
        labels: Class index per chip, 0 to ``n_classes - 1``.
        splits: "train", "val", "test" or "" (not assigned) per chip.
        class_names: Names in label order; a class may have no chip.
        pixels: Reads chip ``i`` of this set.
        units: The image, scene or flight that each chip was cut from; empty where the source does not say.
            Chips of one unit belong to one split, or what is next to them in training leaks into the test.
        captions: One text per chip; empty where the source has none. No stage reads them as a label.
        notes: What the reader left out or decided, one line each.

    Raises:
        ValueError: If lengths disagree, a label has no class or a split is unknown.
    """

    ids: tuple[str, ...]
    labels: Int[np.ndarray, " n"]
    splits: tuple[str, ...]
    class_names: tuple[str, ...]
    pixels: Pixels
    units: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that the parts describe the same chips."""
        for name in ("labels", "splits", "pixels", "units", "captions"):
            n, is_optional = len(getattr(self, name)), name in ("units", "captions")
            if n != len(self.ids) and not (is_optional and n == 0):
                raise ValueError(f"{name} {n} and ids {len(self.ids)} differ in length")
        unknown = set(self.splits) - set(SPLITS)
        if unknown:
            raise ValueError(f"splits must be among {SPLITS}, got {sorted(unknown)}")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.n_classes:
            low, high = int(self.labels.min()), int(self.labels.max())
            raise ValueError(f"labels span {low} to {high}, but there are {self.n_classes} classes")

    def __len__(self) -> int:
        """Return the number of chips."""
        return len(self.ids)

    @property
    def n_classes(self) -> int:
        """Number of classes, those without chips included."""
        return len(self.class_names)

    def subset(self, indices: Int[np.ndarray, " m"]) -> "ChipSet":
        """Return the chips at ``indices`` (0 to n - 1), in that order; pixels stay unread.

        Raises:
            ValueError: If an index is out of range.
        """
        chosen = tuple(int(i) for i in indices)
        outside = [i for i in chosen if not 0 <= i < len(self)]
        if outside:
            raise ValueError(f"index {outside[0]} is outside a set of {len(self)} chips")
        pixels = SubsetPixels(self.pixels, chosen)
        if isinstance(self.pixels, SubsetPixels):
            pixels = SubsetPixels(self.pixels.base, tuple(self.pixels.indices[i] for i in chosen))
        taken = {
            name: tuple(values[i] for i in chosen) if (values := getattr(self, name)) else ()
            for name in ("ids", "splits", "units", "captions")
        }
        return replace(self, labels=self.labels[np.array(chosen, dtype=np.int64)], pixels=pixels, **taken)

    def split(self, name: str) -> "ChipSet":
        """Return the chips of one split; may be empty. Raises a ValueError if ``name`` is no split."""
        if name not in SPLITS:
            raise ValueError(f"split must be among {SPLITS}, got {name!r}")
        return self.subset(np.flatnonzero(np.array([split == name for split in self.splits], dtype=bool)))


def as_chip(array: np.ndarray, name: str) -> Shaped[np.ndarray, "h w b"]:
    """Return ``array`` with a band axis after checking its shape, type and values.

    Args:
        array: ``h w`` or ``h w b``; bool and float64 are converted to uint8 and float32.
        name: What the messages call the chip.

    Raises:
        DataError: If the shape is wrong or empty, the type has no meaning as pixels or a value is not finite.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or 0 in array.shape:
        raise DataError(f"{name}: an array of shape {array.shape} is no chip; store height x width x bands")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    elif array.dtype in (np.float16, np.float64):
        array = array.astype(np.float32)
    if array.dtype not in (np.uint8, np.uint16, np.float32):
        raise DataError(f"{name}: pixels are {array.dtype}; store uint8, uint16 or float32")
    if array.dtype == np.float32 and not np.isfinite(array).all():
        raise DataError(f"{name}: pixels are not finite (NaN or infinite); fill them or leave the chip out")
    return array


def choose_classes(chips: ChipSet, *, keep: Sequence[str] = (), ignore: Sequence[str] = ()) -> ChipSet:
    """Leave out the chips of some classes and count them in the notes.

    Args:
        chips: The chips.
        keep: Classes to keep; empty keeps all.
        ignore: Classes to leave out.

    Raises:
        DataError: If a name is unknown, or no class is left.
    """
    if not keep and not ignore:
        return chips
    unknown = [name for name in (*keep, *ignore) if name not in chips.class_names]
    if unknown:
        raise DataError(
            f"data.classes or data.ignore names {unknown[0]!r}, which the data do not have; they have "
            f"{', '.join(chips.class_names)}"
        )
    names = tuple(name for name in chips.class_names if (not keep or name in keep) and name not in ignore)
    if not names:
        raise DataError("data.classes and data.ignore leave no class; keep at least two")
    is_kept = np.array([name in names for name in chips.class_names], dtype=bool)[chips.labels]
    chosen = relabel(chips.subset(np.flatnonzero(is_kept)), chips.class_names, names)
    dropped = [name for name in chips.class_names if name not in names]
    note = f"{len(chips) - len(chosen)} chips left out as asked, of the classes {', '.join(dropped)}"
    return replace(chosen, notes=(*chosen.notes, note)) if dropped else chosen


def relabel(chips: ChipSet, meanings: Sequence[str], class_names: tuple[str, ...]) -> ChipSet:
    """Return chips whose class ``c`` is called ``meanings[c]``, in the order of ``class_names``.

    Raises:
        ValueError: If a chip's class is not in ``class_names``.
    """
    index = {name: i for i, name in enumerate(class_names)}
    new = np.array([index.get(name, -1) for name in meanings], dtype=np.int64)
    labels = new[chips.labels]
    if len(labels) and labels.min() < 0:
        raise ValueError("a chip's class is not among class_names")
    return replace(chips, labels=labels, class_names=class_names)
