"""Atomic writes and hashes of files."""

import glob
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}\.part")
"""Name of a file or folder that is still being written."""


def file_sha256(path: Path) -> str:
    """Return the hash of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader, a kill or a crash of the machine never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    unfinished = _unfinished(path)
    try:
        # With O_EXCL nothing that lies there is followed or overwritten; the mode follows the umask.
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def folder_written_at_once(folder: Path) -> Iterator[Path]:
    """Hand out an empty folder and put it, synced, in the place of ``folder`` when the context ends without error.

    A kill leaves the earlier folder or none. What lay there is deleted.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for path in filter(is_leftover, folder.parent.glob(f".{glob.escape(folder.name)}.*.part")):
        _remove(path)  # of a killed write of the same folder
    unfinished = _unfinished(folder)
    unfinished.mkdir()
    try:
        yield unfinished
        for file in unfinished.rglob("*"):
            if file.is_file():
                sync(file)
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until what was written to a file lies on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def is_leftover(path: Path) -> bool:
    """Tell whether a file or folder is what a killed write left behind."""
    return _UNFINISHED.fullmatch(path.name) is not None


def remove_leftovers(folder: Path, *, deep: bool = True) -> None:
    """Remove what killed writes left in a folder, or below it too; nobody else may be writing there."""
    for path in filter(is_leftover, sorted(folder.rglob(".*.part") if deep else folder.glob(".*.part"))):
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.part")
