"""FUSRS: fine-grained ships in SAR chips, built by the authors from FUSAR-Ship and SRSDD."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from deblora.data.chips import ChipSet, Pixels, relabel
from deblora.data.readers.folder import read_folder
from deblora.data.readers.reading import Reading
from deblora.data.readers.text_list import has_split_lists, read_text_lists
from deblora.errors import DataError

CLASSES = ("cargo", "other", "fishing", "tanker", "dredger")
"""Label order 0 to 4 of the authors' lists."""

MEAN, STD = 11.21, 20.24
"""Of v2.0 on the scale 0 to 255 (authors). ``data.offset = MEAN - STD`` and ``data.scale = MEAN + STD`` give a
backbone that expects (x / 255 - 0.5) / 0.5 exactly ``(x - MEAN) / STD``."""


@dataclass(frozen=True)
class SingleBand:
    """Chips of one band; gray stored as three equal bands becomes one."""

    base: Pixels
    ids: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of chips."""
        return len(self.base)

    def read(self, index: int) -> Shaped[np.ndarray, "h w 1"]:
        """Return chip ``index``; raises a DataError if its bands differ."""
        chip = self.base.read(index)
        if (chip != chip[:, :, :1]).any():
            raise DataError(
                f"{self.ids[index]}: a color image, but FUSRS has one channel; restore the chip or leave it out"
            )
        return chip[:, :, :1]


def read_fusrs(source: Path, reading: Reading) -> ChipSet:
    """Read ``<split>/<class>/<chip>``, or lists ``train.txt``, ``val.txt``, ``test.txt`` of ``path label``.

    Labels of lists are 0 to 4 or names, in the order cargo, other, fishing, tanker, dredger; case does not matter. Of
    a class without chips ("other" in v2.5) nothing is said.

    Raises:
        DataError: If a class is none of the five, or as the readers of folders and text lists.
    """
    is_list = source.is_file() or has_split_lists(source)
    chips = read_text_lists(source, reading) if is_list else read_folder(source)
    wanted = []
    for name in chips.class_names:
        is_number = name.isascii() and name.isdigit() and int(name) < len(CLASSES)
        wanted.append(CLASSES[int(name)] if is_number else name.strip().lower())
        if wanted[-1] not in CLASSES:
            raise DataError(
                f"{source}: {name!r} is no class of FUSRS ({', '.join(CLASSES)}); correct the folder or list, or "
                "read it with data.format folder or textlist"
            )
    order = tuple(name for name in CLASSES if name in wanted)
    chips = relabel(chips, wanted, order)
    return replace(chips, pixels=SingleBand(chips.pixels, chips.ids))
