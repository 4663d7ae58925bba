"""Tables of rows that need not lie in memory: they are read block by block, from files that are mapped for a moment."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

Chosen = slice | Int[np.ndarray, " m"]


class RowBlocks(ABC):
    """Looks like an array ``n d`` of floats to whatever asks for some of its rows at a time.

    ``table[rows]`` reads rows given by a slice or by their numbers into a new array. ``np.asarray(table)`` reads all.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    ndim = 2

    @abstractmethod
    def read(self, rows: Chosen) -> Float[np.ndarray, "m d"]:
        """Return the chosen rows in the given order; a slice has a step of 1 and no negative ends."""

    @property
    def size(self) -> int:
        """Numbers in the table."""
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, slice):
            first, stop, step = rows.indices(len(self))
            return self.read(slice(first, stop) if step == 1 else np.arange(first, stop, step))
        numbers = np.asarray(rows)
        if numbers.dtype == bool:
            numbers = np.flatnonzero(numbers)
        return self.read(numbers) if numbers.ndim else self.read(numbers[None])[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("rows on disk cannot become an array without a copy")
        return np.asarray(self.read(slice(0, len(self))), dtype=dtype)


@dataclass(frozen=True)
class Shard:
    """The rows of one safetensors file: where its numbers begin and how many rows there are."""

    path: Path
    offset: int
    n_rows: int
    width: int

    @classmethod
    def open(cls, path: Path, key: str) -> "Shard":
        """Find the float32 table ``key`` of a file, without reading it.

        Raises:
            ValueError: If the file is cut off, or holds no such table.
            OSError: If it cannot be read.
        """
        with path.open("rb") as file:
            n_header = int.from_bytes(file.read(8), "little")
            if not 0 < n_header <= path.stat().st_size - 8:
                raise ValueError("it is no safetensors file")
            entry = json.loads(file.read(n_header)).get(key, {})
        shape, (first, stop) = entry.get("shape", []), entry.get("data_offsets", (0, 0))
        if entry.get("dtype") != "F32" or len(shape) != 2 or stop - first != 4 * shape[0] * shape[1]:
            raise ValueError(f"{key} is not a table of float32")
        if path.stat().st_size < 8 + n_header + stop:
            raise ValueError("it is cut off")
        return cls(path, 8 + n_header + first, shape[0], shape[1])

    def read(self, rows: Chosen) -> Float[np.ndarray, "m d"]:
        """Return rows of this file. The map is closed again, so that its pages do not stay with the process."""
        if not self.n_rows:
            return np.empty((0, self.width), dtype=np.float32)
        mapped = np.memmap(
            self.path, dtype="<f4", mode="r", offset=self.offset, shape=(self.n_rows, self.width)
        )
        return np.array(mapped[rows], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class MappedRows(RowBlocks):
    """The rows of several files, one after the other."""

    shards: tuple[Shard, ...]

    @cached_property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """Rows and columns."""
        return sum(shard.n_rows for shard in self.shards), self.shards[0].width

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        """Always float32."""
        return np.dtype(np.float32)

    @cached_property
    def starts(self) -> Int[np.ndarray, " s"]:
        """Number of the first row of each file."""
        return np.cumsum([0, *(shard.n_rows for shard in self.shards[:-1])])

    def read(self, rows: Chosen) -> Float[np.ndarray, "m d"]:
        """Return rows, opening only the files that hold some of them."""
        if isinstance(rows, slice):
            parts = [
                shard.read(slice(max(rows.start - first, 0), min(rows.stop - first, shard.n_rows)))
                for shard, first in zip(self.shards, self.starts, strict=True)
                if first < rows.stop and rows.start < first + shard.n_rows
            ]
            return parts[0] if len(parts) == 1 else np.concatenate([self._none, *parts])
        numbers = np.where(rows < 0, rows + len(self), rows)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"rows {numbers.min()} to {numbers.max()} of a table of {len(self)}")
        found = np.empty((len(numbers), self.shape[1]), dtype=np.float32)
        owner = np.searchsorted(self.starts, numbers, side="right") - 1
        for i in np.unique(owner):
            found[owner == i] = self.shards[i].read(numbers[owner == i] - self.starts[i])
        return found

    @property
    def _none(self) -> Float[np.ndarray, "0 d"]:
        return np.empty((0, self.shape[1]), dtype=np.float32)


class SelectedRows(RowBlocks):
    """Some rows of another table, in a given order.

    Args:
        table: Where they are.
        numbers: Which ones.
    """

    def __init__(self, table: RowBlocks, numbers: Int[np.ndarray, " m"]) -> None:
        self.table, self.numbers = table, numbers
        self.shape, self.dtype = (len(numbers), table.shape[1]), table.dtype

    def read(self, rows: Chosen) -> Float[np.ndarray, "m d"]:
        """Return rows; neighbors in the other table are read in one piece."""
        numbers = self.numbers[rows]
        if len(numbers) and np.array_equal(numbers, np.arange(numbers[0], numbers[0] + len(numbers))):
            return self.table.read(slice(int(numbers[0]), int(numbers[0]) + len(numbers)))
        return self.table.read(numbers)


def blocks_of_rows(n_rows: int, most: int | None) -> Sequence[slice]:
    """Split rows into blocks of at most ``most``; one block if it is ``None``."""
    step = most or max(1, n_rows)
    return [slice(first, min(first + step, n_rows)) for first in range(0, max(1, n_rows), step)]
