"""DOTA: class lists, groups and label files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from deblora.data.longtail import Groups, groups_by_names
from deblora.data.sources import read_text
from deblora.errors import DataError

CLASSES_V1_0 = (
    "plane",
    "baseball-diamond",
    "bridge",
    "ground-track-field",
    "small-vehicle",
    "large-vehicle",
    "ship",
    "tennis-court",
    "basketball-court",
    "storage-tank",
    "soccer-ball-field",
    "roundabout",
    "harbor",
    "swimming-pool",
    "helicopter",
)
"""The classes of DOTA-v1.0 in the order of its devkit."""

CLASSES_V1_5 = (*CLASSES_V1_0, "container-crane")
"""DOTA-v1.5: the same images, one more class, and objects below 10 pixels."""

CLASSES_V2_0 = (*CLASSES_V1_5, "airport", "helipad")
"""DOTA-v2.0."""

FARTHEST = 1e6  # pixels; ours: no image is larger, and an object would fill the memory

_TAIL = (
    "helicopter",
    "basketball-court",
    "baseball-diamond",
    "roundabout",
    "soccer-ball-field",
    "ground-track-field",
)

REFERENCE_GROUPS: Mapping[str, tuple[str, ...]] = {
    "head": ("ship", "small-vehicle", "large-vehicle"),
    "tail": _TAIL,
}
"""3 head, 6 middle, 6 tail classes of v1.0 (authors' code); also: head above 10,000 and tail below 1,000
training instances."""

OCTOBER_2024_GROUPS: Mapping[str, tuple[str, ...]] = {
    "head": ("ship", "small-vehicle", "large-vehicle", "plane"),
    "tail": _TAIL,
}
"""4 head, 5 middle, 6 tail classes (the authors' files nearest the paper)."""

GROUP_PRESETS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "reference": REFERENCE_GROUPS,
    "reference-oct2024": OCTOBER_2024_GROUPS,
}
"""The groupings by their name in a recipe."""


@dataclass(frozen=True)
class Labels:
    """The objects of one image, in the order of the file.

    ``quads`` are vertices in pixels, y down, clockwise on the screen; ``difficult`` is 0, 1 or 2 (cut by a
    tile). ``gsd`` is meters per pixel and ``source`` the origin of the image; None where the file is silent.
    ``file`` and ``lines`` are where the objects were read, for messages.
    """

    quads: Float[np.ndarray, "n 4 2"]
    class_names: tuple[str, ...]
    difficult: Int[np.ndarray, " n"]
    gsd: float | None = None
    source: str | None = None
    file: str = ""
    lines: Int[np.ndarray, " n"] | None = None

    def place(self, row: int) -> str:
        """Return file and line of an object, or as much of it as is known."""
        return self.file if self.lines is None else f"{self.file}:{self.lines[row]}"

    def select(self, rows: Int[np.ndarray, " k"]) -> "Labels":
        """Return the objects of the given rows."""
        names = tuple(self.class_names[row] for row in rows)
        lines = None if self.lines is None else self.lines[rows]
        return Labels(self.quads[rows], names, self.difficult[rows], self.gsd, self.source, self.file, lines)

    def of_classes(self, is_kept: Callable[[str], bool]) -> "Labels":
        """Return the objects whose class passes a test."""
        rows = [i for i, name in enumerate(self.class_names) if is_kept(name)]
        return self.select(np.array(rows, dtype=np.int64))


def reference_groups(
    class_names: Sequence[str], groups: Mapping[str, tuple[str, ...]] = REFERENCE_GROUPS
) -> Groups:
    """Return the groups as indices into ``class_names``; the 15 classes of v1.0 in any order.

    Raises:
        DataError: If ``class_names`` are not those of v1.0. The groups come from its counts; later versions
            differ by an order of magnitude and need groups by counts.
    """
    if sorted(class_names) != sorted(CLASSES_V1_0):
        raise DataError(
            f"the reference groups hold for the 15 classes of DOTA-v1.0, got {len(class_names)} classes "
            f"({', '.join(class_names)}); group them by counts instead"
        )
    return groups_by_names(class_names, groups["head"], groups["tail"])


def read_labels(path: Path) -> Labels:
    """Read one label file; see :func:`parse_labels`.

    Raises:
        DataError: If the file is missing, not text or malformed; names file and line.
    """
    return parse_labels(read_text(path), origin=str(path))


def parse_labels(text: str, *, origin: str) -> Labels:
    """Parse ``x1 y1 x2 y2 x3 y3 x4 y4 category difficult`` per line.

    Accepts header lines such as ``imagesource:...`` and ``gsd:...`` before the first object, ``gsd:null``, a
    missing difficult flag (0), class names with spaces, blank lines, CRLF, and points outside the image.

    Args:
        text: Content of the file.
        origin: For messages.

    Raises:
        DataError: If a line is malformed; names origin and line number.
    """
    header: dict[str, str] = {}
    quads: list[list[float]] = []
    names: list[str] = []
    difficult: list[int] = []
    lines: list[int] = []
    for number, line in enumerate(text.splitlines(), start=1):
        tokens = line.split()
        if not tokens:
            continue
        key, colon, value = line.partition(":")
        if colon and not quads and not _is_number(tokens[0]):
            header[key.strip().lower()] = value.strip()
            continue
        quad, name, flag = _parse_object(tokens, f"{origin}:{number}")
        quads.append(quad)
        names.append(name)
        difficult.append(flag)
        lines.append(number)
    return Labels(
        np.asarray(quads, dtype=np.float64).reshape(-1, 4, 2),
        tuple(names),
        np.asarray(difficult, dtype=np.int64),
        _parse_gsd(header.get("gsd", ""), origin),
        header.get("imagesource") or None,
        origin,
        np.asarray(lines, dtype=np.int64),
    )


def write_labels(path: Path, labels: Labels) -> None:
    """Write a label file that :func:`read_labels` reads back unchanged."""
    lines = [] if labels.source is None else [f"imagesource:{labels.source}"]
    lines.append(f"gsd:{'null' if labels.gsd is None else repr(labels.gsd)}")
    for quad, name, flag in zip(
        labels.quads.reshape(-1, 8).tolist(), labels.class_names, labels.difficult.tolist(), strict=True
    ):
        lines.append(f"{format_numbers(quad)} {name} {flag}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _parse_object(tokens: list[str], where: str) -> tuple[list[float], str, int]:
    if len(tokens) < 9:
        raise DataError(
            f"{where}: {len(tokens)} values, expected x1 y1 x2 y2 x3 y3 x4 y4 category [difficult]"
        )
    quad = parse_numbers(tokens[:8], where)
    beyond = [token for token, value in zip(tokens, quad, strict=False) if abs(value) > FARTHEST]
    if beyond:
        raise DataError(f"{where}: {beyond[0]} is the place of no pixel; coordinates are pixels of the image")
    rest = tokens[8:]
    flag = 0
    if len(rest) > 1 and _is_number(rest[-1]):
        if rest[-1] not in ("0", "1", "2"):
            raise DataError(f"{where}: difficult is {rest[-1]!r}, expected 0, 1 or 2")
        flag = int(rest.pop())
    if _is_number(rest[0]):
        raise DataError(f"{where}: the category is the number {rest[0]!r}; a line has eight coordinates")
    name = " ".join(rest)
    if any(mark in name for mark in "/\\\0") or not name.strip("."):
        raise DataError(f"{where}: the category {name!r} cannot be part of a file name; rename it")
    return quad, name, flag


def parse_numbers(tokens: list[str], where: str) -> list[float]:
    """Return finite numbers.

    Raises:
        DataError: If a token is none; names it and ``where``.
    """
    for token in tokens:
        if not _is_number(token):
            raise DataError(f"{where}: {token!r} is not a finite number")
    return [float(token) for token in tokens]


def _parse_gsd(value: str, origin: str) -> float | None:
    if value.lower() in ("", "null", "none", "nan"):
        return None
    if not _is_number(value):
        raise DataError(f"{origin}: the gsd is {value!r}; write meters per pixel or null")
    return float(value)


def _is_number(token: str) -> bool:
    try:
        return bool(np.isfinite(float(token)))
    except ValueError:
        return False


def format_numbers(values: list[float]) -> str:
    """Return the shortest decimals that read back exactly, with spaces between."""
    return " ".join(map(repr, values))
