"""What decoding every chip once shows: a hash of all pixels, bands, types, and the chips that cannot be read."""

import hashlib
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from deblora.data.chips import ChipSet
from deblora.errors import DataError
from deblora.progress import titled

_BAR_FROM = 2000  # chips


@dataclass(frozen=True)
class Contents:
    """What was seen.

    Attributes:
        sha256: Hash of ids, splits, shapes, types and pixels of the readable chips.
        bands: Number of bands to the first chip that has it.
        types: Type of the values to the first chip that has it.
        lowest: Least value of all.
        highest: Greatest value of all.
        unreadable: Position to reason, for chips that cannot be read.
    """

    sha256: str
    bands: dict[str, str]
    types: dict[str, str]
    lowest: float
    highest: float
    unreadable: dict[int, str]


def read_contents(chips: ChipSet) -> Contents:
    """Decode every chip once, one at a time."""
    digest = hashlib.sha256()
    unreadable: dict[int, str] = {}
    bands: dict[str, str] = {}
    types: dict[str, str] = {}
    lowest, highest = np.inf, -np.inf
    for i, chip_id in enumerate(
        tqdm(chips.ids, desc=titled("audit"), unit="chip", disable=len(chips) < _BAR_FROM)
    ):
        try:
            pixels = np.ascontiguousarray(chips.pixels.read(i))
        except DataError as error:
            unreadable[i] = str(error)
            continue
        digest.update(f"{chip_id}\0{chips.splits[i]}\0{pixels.shape}{pixels.dtype}".encode())
        digest.update(pixels.data)
        bands.setdefault(str(pixels.shape[2]), chip_id)
        types.setdefault(pixels.dtype.name, chip_id)
        lowest, highest = min(lowest, float(pixels.min())), max(highest, float(pixels.max()))
    return Contents(digest.hexdigest(), bands, types, lowest, highest, unreadable)
