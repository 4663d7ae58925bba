"""Which classes of a source are used, and in which order."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from deblora.data.chips import ChipSet
from deblora.errors import DataError


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
