"""Data sets of the Hugging Face hub, by id or from a local folder, through the optional package ``datasets``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from deblora.data.chips import ChipSet
from deblora.data.decode import SPLIT_NAMES, class_indices, decode_chip
from deblora.data.readers.reading import Reading
from deblora.errors import DataError

IMAGE_COLUMNS = ("image", "img", "pixels")
LABEL_COLUMNS = ("label", "labels", "fine_label")


class HubPixels:
    """Encoded images of the splits of a data set, one after the other; decoded by deblora, not by ``datasets``.

    Args:
        parts: Data set and image column per split.
        ids: One id per chip, for messages.
    """

    def __init__(self, parts: tuple[tuple[Any, str], ...], ids: tuple[str, ...]) -> None:
        self._parts, self._ids = parts, ids
        self._ends = np.cumsum([len(part) for part, _ in parts])

    def __len__(self) -> int:
        """Return the number of chips."""
        return len(self._ids)

    def read(self, index: int) -> Shaped[np.ndarray, "h w b"]:
        """Return chip ``index``."""
        position = int(np.searchsorted(self._ends, index, side="right"))
        part, column = self._parts[position]
        image = part[index - (int(self._ends[position]) - len(part))][column]
        content = image.get("bytes") if isinstance(image, Mapping) else image
        if content is None and isinstance(image, Mapping) and image.get("path"):
            try:
                content = Path(image["path"]).read_bytes()
            except OSError as error:
                raise DataError(
                    f"{self._ids[index]}: cannot be read ({error}); fetch the data again"
                ) from error
        if not isinstance(content, bytes):
            raise DataError(f"{self._ids[index]}: no encoded image; leave the chip out")
        return decode_chip(content, self._ids[index])


def read_hub(source: Path, reading: Reading) -> ChipSet:
    """Load ``owner/name`` from the hub (or its cache), or a local folder that ``datasets`` understands.

    Only this reader may use a network, and only because the recipe names ``data.format: hub``. Code that comes with a
    data set is never run. Ids are ``<split>/<row>``; a column named ``reading.unit`` keeps chips of a scene together.

    Raises:
        DataError: If ``datasets`` is not installed, the set cannot be loaded, or has no images with labels.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{source}: data.format hub needs the package datasets; install deblora[hub], or export the set as Parquet"
        ) from error
    try:
        found = datasets.load_dataset(str(source))
    except Exception as error:  # datasets raises errors of many packages
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{source}: datasets cannot load it ({reason}); check the id and the network, or give a local folder"
        ) from error
    parts, labels, splits, ids, units = [], [], [], [], []
    names: tuple[str, ...] | None = None
    for name, part in found.items():
        image, label = _columns(part, str(source))
        names = tuple(getattr(part.features[label], "names", None) or ()) or names
        part = part.cast_column(image, datasets.Image(decode=False))
        values = part[label]
        split = SPLIT_NAMES.get(str(name).lower(), "")
        parts.append((part, image))
        labels += [str(value) for value in values]
        splits += [split] * len(values)
        ids += [f"{name}/{row:07d}" for row in range(len(values))]
        units += _units(part, reading.unit, str(source))
    if not labels:
        raise DataError(f"{source}: no chips")
    if names:
        indices = np.array([int(value) for value in labels], dtype=np.int64)
        if not 0 <= indices.min() <= indices.max() < len(names):
            raise DataError(
                f"{source}: labels span {indices.min()} to {indices.max()} for {len(names)} names"
            )
    else:
        names, indices = class_indices(labels, str(source))
    pixels = HubPixels(tuple(parts), tuple(ids))
    return ChipSet(tuple(ids), indices, tuple(splits), names, pixels, units=tuple(units))


def _columns(part: Any, source: str) -> tuple[str, str]:
    names = list(part.features)
    image = next((name for name in IMAGE_COLUMNS if name in names), None)
    label = next((name for name in LABEL_COLUMNS if name in names), None)
    if image is None or label is None:
        raise DataError(f"{source}: no columns image and label; found: {', '.join(names)}")
    return image, label


def _units(part: Any, unit: str | None, source: str) -> list[str]:
    if unit is None:
        return []
    if unit not in part.features:
        raise DataError(f"{source}: no column {unit} (data.unit); found: {', '.join(part.features)}")
    return [str(value) for value in part[unit]]
