"""Task-1 files of DOTA: detections as one text file per class, in a folder or a zip."""

import io
import sys
import zipfile
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from deblora.data.scenes.dota import format_numbers, parse_numbers
from deblora.errors import DataError
from deblora.files import write_atomic

MOST_UNPACKED = 2**29
"""Bytes of a zip of detections once unpacked, some six million detections (ours)."""


@dataclass(frozen=True)
class QuadDetections:
    """Detections in any number of images: image name, class name, score and quad of each."""

    image_names: tuple[str, ...]
    class_names: tuple[str, ...]
    scores: Float[np.ndarray, " n"]
    quads: Float[np.ndarray, "n 4 2"]

    def __post_init__(self) -> None:
        lengths = {len(self.image_names), len(self.class_names), len(self.scores), len(self.quads)}
        if len(lengths) != 1 or self.quads.shape[1:] != (4, 2):
            raise ValueError(
                f"{len(self.image_names)} image names, {len(self.class_names)} class names, "
                f"scores {self.scores.shape} and quads {self.quads.shape} do not fit"
            )


def write_task1(path: Path, detections: QuadDetections, *, class_names: Sequence[str]) -> None:
    """Write ``Task1_<class>.txt`` for every class: ``image score x1 y1 ... x4 y4`` per line, exact decimals.

    Args:
        path: A folder, or a file that ends in ``.zip``.
        detections: Of all images, image names without extension.
        class_names: All classes; each gets a file.

    Raises:
        DataError: If a class is not in ``class_names`` or an image name holds a space.
    """
    check_image_names(detections.image_names)
    lines: dict[str, list[str]] = {name: [] for name in class_names}
    rows = zip(
        detections.image_names,
        detections.class_names,
        detections.scores.tolist(),
        detections.quads.reshape(-1, 8).tolist(),
        strict=True,
    )
    for image, name, score, quad in rows:
        if name not in lines:
            raise DataError(f"a detection has the class {name!r}, not one of {', '.join(class_names)}")
        lines[name].append(f"{image} {score!r} {format_numbers(quad)}")
    files = {f"Task1_{name}.txt": "".join(f"{line}\n" for line in entries) for name, entries in lines.items()}
    if path.suffix.lower() == ".zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for file_name, text in files.items():
                # A fixed date: the same detections give the same bytes.
                archive.writestr(zipfile.ZipInfo(file_name), text, zipfile.ZIP_DEFLATED)
        write_atomic(path, buffer.getvalue())
    else:
        for file_name, text in files.items():
            write_atomic(path / file_name, text)


def check_image_names(names: Iterable[str]) -> None:
    """Refuse names that the lines of a Task-1 file cannot hold.

    Raises:
        DataError: If a name holds a space.
    """
    for name in dict.fromkeys(names):
        if len(name.split()) != 1:
            raise DataError(
                f"the image name {name!r} holds a space, which Task-1 files cannot; rename the image"
            )


def read_task1(path: Path) -> QuadDetections:
    """Read the Task-1 files of a folder or zip, anybody's; classes in the order of file names.

    Raises:
        DataError: If there is no Task-1 file, one cannot be read or a line is malformed; names file and line.
    """
    images: list[str] = []
    names: list[str] = []
    numbers = array("d")  # nine to a line; lists would take four times the memory
    n_files = 0
    try:
        for name, lines, origin in _task1_files(path):
            n_files += 1
            for number, line in enumerate(lines, start=1):
                tokens = line.split()
                if not tokens:
                    continue
                if len(tokens) != 10:
                    raise DataError(
                        f"{origin}:{number}: {len(tokens)} values, expected 10: image score x1 y1 ... x4 y4"
                    )
                numbers.extend(parse_numbers(tokens[1:], f"{origin}:{number}"))
                images.append(sys.intern(tokens[0]))
                names.append(name)
    except (OSError, UnicodeDecodeError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
        raise DataError(f"cannot read the detections in {path}: {error}") from error
    if not n_files:
        raise DataError(f"no Task1_<class>.txt in {path}; give the folder or zip that holds them")
    table = np.array(numbers, dtype=np.float64).reshape(-1, 9)
    return QuadDetections(tuple(images), tuple(names), table[:, 0], table[:, 1:].reshape(-1, 4, 2))


def _task1_files(path: Path) -> Iterator[tuple[str, Iterable[str], str]]:
    """Yield class name, lines and origin of each Task-1 file.

    Raises:
        DataError: If a file cannot be read, or an archive unpacks to more than any detector writes.
    """
    if not path.is_file():
        for file in sorted(path.glob("Task1_*.txt")):
            if (name := _task1_class(file.name)) is not None:
                with file.open(encoding="utf-8-sig") as lines:
                    yield name, lines, str(file)
        return
    with zipfile.ZipFile(path) as archive:
        members = {m.filename: m.file_size for m in archive.infolist()}
        names = {member: _task1_class(Path(member).name) for member in sorted(members)}
        n_bytes = sum(members[member] for member, name in names.items() if name is not None)
        if n_bytes > MOST_UNPACKED:
            raise DataError(
                f"{path}: {n_bytes} bytes of detections once unpacked, allowed are {MOST_UNPACKED}; write fewer "
                "detections (a higher score threshold), or unpack the archive into a folder"
            )
        for member, name in names.items():
            if name is not None:
                with io.TextIOWrapper(archive.open(member), encoding="utf-8-sig") as lines:
                    yield name, lines, f"{path}/{member}"


def _task1_class(file_name: str) -> str | None:
    if not (file_name.startswith("Task1_") and file_name.endswith(".txt")):
        return None
    return file_name.removeprefix("Task1_").removesuffix(".txt")
