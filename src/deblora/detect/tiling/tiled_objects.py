"""Which object of which scene lies in which tile, so that objects of overlapping tiles are counted once."""

import csv
import io
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from deblora.data.scenes.dota import Labels
from deblora.errors import DataError
from deblora.files import write_atomic

OBJECTS = "objects.csv"  # beside images/ and labelTxt/ of tiles, written when all scenes are cut
MANIFEST = "tiles.json"  # written after every scene
log = logging.getLogger("deblora")


def write_objects(folder: Path, rows: Iterable[tuple[str, int, str]]) -> None:
    """Write ``scene, object, tile`` for every line of every label file, in the order of the lines."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("scene", "object", "tile"))
    writer.writerows(rows)
    write_atomic(folder / OBJECTS, buffer.getvalue())


def each_once(source: Path, labels: Mapping[str, Labels]) -> dict[str, Labels]:
    """Return the labels of tiles with every object of a scene in the first tile that holds it, and in no other.

    Sets that ``deblora detect tile`` did not write are returned as they are. So are tiles whose label files were
    changed afterwards, with a warning: their lines cannot be told apart any more.

    Args:
        source: The set; only folders are looked into.
        labels: Of every tile, as they were read.

    Raises:
        DataError: If the table of objects is damaged, or tiling was not finished.
    """
    path = source / OBJECTS
    if (source / MANIFEST).is_file() and not path.is_file():
        raise DataError(f"tiling was not finished in {source}; run the same deblora detect tile again")
    if not path.is_file():
        return dict(labels)
    seen: set[tuple[str, str]] = set()
    keep: dict[str, list[bool]] = {name: [] for name in labels}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                known = row["scene"], row["object"]
                keep.setdefault(row["tile"], []).append(known not in seen)
                seen.add(known)
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise DataError(f"{path} is damaged ({error!r}); tile again, or delete it") from error
    changed = [name for name in labels if len(keep[name]) != len(labels[name].quads)]
    if changed:
        log.warning(
            "%s does not fit the label file of %s, so objects in several tiles are counted several times",
            path,
            changed[0],
        )
        return dict(labels)
    return {name: entry.select(np.flatnonzero(keep[name])) for name, entry in labels.items()}
