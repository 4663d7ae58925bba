"""Images with oriented labels: a DOTA folder, or a zip of one read in place."""

import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Int

from deblora.data.decode import picture_size
from deblora.data.scenes.dota import Labels, parse_labels
from deblora.data.scenes.rasters import Scene, open_scene, scene_from_bytes
from deblora.data.sources import IMAGE_SUFFIXES
from deblora.errors import DataError

LABEL_FOLDERS = ("labelTxt", "labelTxt-v1.0", "labelTxt-v1.5", "labelTxt-v2.0", "labels", "")
"""Where labels are looked for beside ``images``, in this order."""

LARGEST_IMAGE, LARGEST_TEXT = 2 * 2**30, 64 * 2**20  # bytes of a file in a zip, unpacked


@dataclass(frozen=True)
class SceneFiles:
    """Image files by name without extension, in a folder or inside a zip; opened when asked for."""

    members: Mapping[str, str]
    root: Path

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.members)

    def open(self, name: str) -> Scene:
        """Open an image for reading windows.

        Raises:
            DataError: If it cannot be read.
        """
        member = self.members[name]
        if self.root.is_dir():
            return open_scene(self.root / member)
        try:
            with zipfile.ZipFile(self.root) as archive:
                content = _read_member(archive, member, LARGEST_IMAGE)
        except (OSError, zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError) as error:
            raise DataError(
                f"{self.root}/{member} cannot be read ({error}); get the archive again"
            ) from error
        return scene_from_bytes(content, f"{self.root}/{member}")

    def sizes(self, names: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Return width and height of images from their headers; those that only decoding could tell are absent."""
        found: dict[str, tuple[int, int] | None] = {}
        if self.root.is_dir():
            for name in names:
                found[name] = _size_of(partial(open, self.root / self.members[name], "rb"))
            return {name: size for name, size in found.items() if size}
        try:
            with zipfile.ZipFile(self.root) as archive:
                for name in names:
                    found[name] = _size_of(partial(archive.open, self.members[name]))
        except (OSError, zipfile.BadZipFile):
            return {}
        return {name: size for name, size in found.items() if size}


@dataclass(frozen=True)
class DetectionSet:
    """Images and the labels of each, by image name."""

    files: SceneFiles
    labels: Mapping[str, Labels]

    @property
    def names(self) -> tuple[str, ...]:
        """Image names without extension, sorted."""
        return tuple(self.labels)


def read_detection_set(source: Path, *, folders: Sequence[str] = LABEL_FOLDERS) -> DetectionSet:
    """Read a folder or zip with ``images/NAME.png`` and ``labelTxt/NAME.txt``; pixels are read later.

    Every image needs a label file (an empty one if nothing is in it) and every label file an image. Labels are looked
    for in ``folders``, in this order.

    Raises:
        DataError: If something is missing or malformed; names the file (and the line).
    """
    files = list_images(source)
    labels = read_label_source(source, folders=folders)
    _check_pairs(files.members, labels, source)
    return DetectionSet(files, {name: labels[name] for name in sorted(labels)})


def list_images(source: Path) -> SceneFiles:
    """List the images of a folder, of its ``images`` folder, of a zip, or the single image ``source``.

    Raises:
        DataError: If there is none, or two have the same name.
    """
    if source.is_file() and not zipfile.is_zipfile(source):
        return SceneFiles({source.stem: source.name}, source.parent)
    found: dict[str, str] = {}
    for path in map(PurePosixPath, _listing(source)):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.parent.name not in ("images", ""):
            continue
        if path.stem in found:
            raise DataError(f"{source} holds {found[path.stem]} and {path}; an image needs a name of its own")
        found[path.stem] = str(path)
    if not found:
        raise DataError(f"no images in {source}; expected images/NAME.png (or .jpg, .tif, .npy)")
    return SceneFiles({name: found[name] for name in sorted(found)}, source)


def has_labels(source: Path) -> bool:
    """Tell whether a folder or zip holds label files; the test images of DOTA come without."""
    return any(PurePosixPath(name).suffix.lower() == ".txt" for name in _listing(source))


def read_label_source(source: Path, *, folders: Sequence[str] = LABEL_FOLDERS) -> dict[str, Labels]:
    """Read the labels of a folder of text files, of a DOTA folder, or of a zip of one.

    Raises:
        DataError: If there are none, or one is malformed.
    """
    listing = [path for path in map(PurePosixPath, _listing(source)) if path.suffix.lower() == ".txt"]
    for folder in folders:
        chosen = sorted(path for path in listing if path.parent.name == folder)
        if chosen:
            texts = _read_texts(source, [str(path) for path in chosen])
            return {
                path.stem: parse_labels(text, origin=f"{source}/{path}")
                for path, text in zip(chosen, texts, strict=True)
            }
    raise DataError(f"no label files in {source}; expected labelTxt/NAME.txt")


def class_names_of(labels: Iterable[Labels]) -> tuple[str, ...]:
    """Return the classes with at least one object that is not difficult, sorted.

    Raises:
        DataError: If there is none.
    """
    found = {
        name
        for entry in labels
        for name, flag in zip(entry.class_names, entry.difficult.tolist(), strict=True)
        if flag == 0
    }
    if not found:
        raise DataError(
            "the labels hold no object that is not difficult; check that they belong to the images"
        )
    return tuple(sorted(found))


def object_counts(labels: Iterable[Labels], class_names: Sequence[str]) -> Int[np.ndarray, " c"]:
    """Count the objects of each class, difficult ones included: all of them train."""
    index = {name: i for i, name in enumerate(class_names)}
    counts = np.zeros(len(class_names), dtype=np.int64)
    for entry in labels:
        for name in entry.class_names:
            if name in index:
                counts[index[name]] += 1
    return counts


def restrict(labels: Mapping[str, Labels], class_names: Sequence[str], *, where: str) -> dict[str, Labels]:
    """Return labels of the given classes only.

    Classes of which every object is difficult (regions nobody cares about) are left out silently.

    Raises:
        DataError: If another class occurs with an object that counts; names file and line where they are known,
            else ``where``, and the image.
    """
    known = set(class_names)
    kept: dict[str, Labels] = {}
    for image, entry in labels.items():
        for i, (name, flag) in enumerate(zip(entry.class_names, entry.difficult.tolist(), strict=True)):
            if name not in known and flag == 0:
                raise DataError(
                    f"{entry.place(i) or where}: the image {image} has an object of the class {name!r}, which "
                    f"is not trained; the classes are {', '.join(class_names)}. Set data.classes, or data.ignore"
                )
        rows = np.array([i for i, name in enumerate(entry.class_names) if name in known], dtype=np.int64)
        kept[image] = entry.select(rows)
    return kept


def without(labels: Mapping[str, Labels], ignored: Sequence[str]) -> dict[str, Labels]:
    """Return labels without the objects of some classes."""
    drop = set(ignored)
    return {
        image: entry.select(
            np.array([i for i, name in enumerate(entry.class_names) if name not in drop], dtype=np.int64)
        )
        for image, entry in labels.items()
    }


def _size_of(opened: Callable[[], Any]) -> tuple[int, int] | None:
    try:
        with opened() as file:
            return picture_size(file)
    except (DataError, OSError, zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError):
        return None


def _read_member(archive: zipfile.ZipFile, member: str, most: int) -> bytes:
    """Read a file of a zip; a few bytes in an archive can mean gigabytes."""
    n_bytes = archive.getinfo(member).file_size
    if n_bytes > most:
        raise DataError(
            f"{archive.filename}/{member}: {n_bytes} bytes once unpacked, allowed are {most}; unpack it"
        )
    return archive.read(member)


def _listing(source: Path) -> list[str]:
    if source.is_dir():
        return [
            path.relative_to(source).as_posix()
            for path in sorted([*source.glob("*"), *source.glob("*/*")])
            if path.is_file() and not path.name.startswith(".")
        ]
    if not source.is_file():
        raise DataError(f"{source} does not exist; name a folder or zip with images/ and labelTxt/")
    try:
        with zipfile.ZipFile(source) as archive:
            return sorted(name for name in archive.namelist() if not name.startswith(("__MACOSX", ".")))
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{source} is neither a folder nor a readable zip ({error})") from error


def _read_texts(source: Path, members: list[str]) -> list[str]:
    try:
        if source.is_dir():
            contents = [(source / member).read_bytes() for member in members]
        else:
            with zipfile.ZipFile(source) as archive:
                contents = [_read_member(archive, member, LARGEST_TEXT) for member in members]
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(f"the labels in {source} cannot be read: {error}") from error
    return [_text(content, f"{source}/{name}") for name, content in zip(members, contents, strict=True)]


def _text(content: bytes, origin: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{origin} is no UTF-8 text ({error}); save it as such") from error


def _check_pairs(images: Mapping[str, str], labels: Mapping[str, Labels], source: Path) -> None:
    unlabeled = sorted(set(images) - set(labels))
    if unlabeled:
        raise DataError(
            f"{source}: {len(unlabeled)} images have no label file, first: {images[unlabeled[0]]}; "
            "write an empty text file for an image without objects"
        )
    orphans = sorted(set(labels) - set(images))
    if orphans:
        raise DataError(
            f"{source}: {len(orphans)} label files have no image, first: {orphans[0]}.txt; "
            "add the image or delete the labels"
        )
