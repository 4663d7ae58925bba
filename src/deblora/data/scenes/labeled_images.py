"""Images with oriented labels: a DOTA folder, or a zip of one read in place."""

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from jaxtyping import Int

from deblora.data.decode import picture_size
from deblora.data.scenes.dota import Labels, parse_labels
from deblora.data.scenes.rasters import Scene, open_scene, scene_from_bytes
from deblora.data.sources import IMAGE_SUFFIXES
from deblora.errors import DataError

LABEL_FOLDERS = ("labelTxt", "labelTxt-v1.0", "labelTxt-v1.5", "labelTxt-v2.0", "labels", "")
"""Where labels are looked for beside ``images``, in this order."""

BAD_FILE = (OSError, zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError)
"""What reading a file of a damaged folder or archive may raise."""

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
        return scene_from_bytes(_read(self.root, [member], LARGEST_IMAGE)[0], f"{self.root}/{member}")

    def sizes(self, names: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Return width and height of images from their headers; those that only decoding could tell are absent."""
        found: dict[str, tuple[int, int]] = {}
        with suppress(*BAD_FILE), _opener(self.root, LARGEST_IMAGE) as opened:
            for name in names:
                with suppress(DataError, *BAD_FILE), opened(self.members[name]) as file:
                    size = picture_size(file)
                    found.update({name: size} if size else {})
        return found


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
    """List the images of the ``images`` folder in a folder or zip, or at any depth where it has none; or one image.

    Raises:
        DataError: If there is none, two have the same name, or some lie in folders inside ``images``.
    """
    if source.is_file() and not zipfile.is_zipfile(source):
        return SceneFiles({source.stem: source.name}, source.parent)
    found: dict[str, str] = {}
    listed = [PurePosixPath(name) for name in _listing(source)]
    inside = any(path.parent.name == "images" and path.suffix.lower() in IMAGE_SUFFIXES for path in listed)
    for path in listed:
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if "images" in path.parts[:-2]:
            raise DataError(f"{source}/{path}: in a folder inside images, which is not read; move it up")
        if inside and path.parent.name != "images":
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
            contents = _read(source, [str(path) for path in chosen], LARGEST_TEXT)
            found: dict[str, Labels] = {}
            for path, content in zip(chosen, contents, strict=True):
                try:
                    found[path.stem] = parse_labels(content.decode("utf-8-sig"), origin=f"{source}/{path}")
                except UnicodeDecodeError as error:
                    raise DataError(f"{source}/{path} is no UTF-8 text ({error}); save it as such") from error
            return found
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
    for image, entry in labels.items():
        for i, (name, flag) in enumerate(zip(entry.class_names, entry.difficult.tolist(), strict=True)):
            if name not in known and flag == 0:
                raise DataError(
                    f"{entry.place(i) or where}: the image {image} has an object of the class {name!r}, which "
                    f"is not trained; the classes are {', '.join(class_names)}. Set data.classes, or data.ignore"
                )
    return {image: entry.of_classes(known.__contains__) for image, entry in labels.items()}


def without(labels: Mapping[str, Labels], ignored: Sequence[str]) -> dict[str, Labels]:
    """Return labels without the objects of some classes."""
    return {image: entry.of_classes(lambda name: name not in ignored) for image, entry in labels.items()}


@contextmanager
def _opener(source: Path, most: int) -> Iterator[Callable[[str], IO[bytes]]]:
    """Give a function that opens a file of a folder, or one of a zip that unpacks to ``most`` bytes at most."""
    if source.is_dir():
        yield lambda member: (source / member).open("rb")
        return
    with zipfile.ZipFile(source) as archive:

        def opened(member: str) -> IO[bytes]:
            n_bytes = archive.getinfo(member).file_size
            if n_bytes > most:
                raise DataError(
                    f"{source}/{member}: {n_bytes} bytes once unpacked, allowed are {most}; unpack it"
                )
            return archive.open(member)

        yield opened


def _read(source: Path, members: Sequence[str], most: int) -> list[bytes]:
    """Return the contents of files of a folder or zip."""
    contents, member = [], ""
    try:
        with _opener(source, most) as opened:
            for member in members:
                with opened(member) as file:
                    contents.append(file.read())
    except BAD_FILE as error:
        raise DataError(f"{source}/{member} cannot be read ({error}); get the archive again") from error
    return contents


def _listing(source: Path) -> list[str]:
    if source.is_dir():
        found = source.rglob("*")
        return [
            path.relative_to(source).as_posix()
            for path in sorted(found)
            if path.is_file() and not path.name.startswith(".")
        ]
    if not source.is_file():
        raise DataError(f"{source} does not exist; name a folder or zip with images/ and labelTxt/")
    try:
        with zipfile.ZipFile(source) as archive:
            return sorted(name for name in archive.namelist() if not name.startswith(("__MACOSX", ".")))
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{source} is neither a folder nor a readable zip ({error})") from error


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
