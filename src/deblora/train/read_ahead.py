"""Chips are read in background threads while the model works on those before them."""

import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

MOST_READERS = 8
READER_NICENESS = 5
"""Ours: a third of a core's share beside a model that computes there, and no starving beside other programs."""

T = TypeVar("T")


def n_readers(device: torch.device) -> int:
    """Return how many threads read: one beside a model on the CPU, which needs the cores, else up to eight (ours)."""
    return 1 if device.type == "cpu" else max(1, min(MOST_READERS, (os.cpu_count() or 2) - 1))


class ReadAhead(Generic[T]):
    """Items that are mostly taken in equal steps; those of the next step are read before they are asked for.

    At most the items of two calls are held. An item that was not foreseen is read when it is taken.

    Args:
        read: Called with the number of an item, from several threads at once.
        n_items: Their number.
        n_threads: Threads that read.
    """

    def __init__(self, read: Callable[[int], T], n_items: int, *, n_threads: int) -> None:
        self._read, self._n_items = read, n_items
        self._threads = ThreadPoolExecutor(n_threads, "read", initializer=_yield_cores_to_the_model)
        self._coming: dict[int, Future[T]] = {}
        self._last: int | None = None

    def __enter__(self) -> "ReadAhead[T]":
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the threads."""
        self.close()

    def close(self) -> None:
        """Drop what nobody asked for, and wait for the threads."""
        self._threads.shutdown(cancel_futures=True)

    def take(self, wanted: Sequence[int]) -> list[T]:
        """Return the wanted items; the next call is expected to want those as far ahead as these are of the last."""
        foreseen = [self._coming.pop(i) if i in self._coming else None for i in wanted]
        futures = [
            future or self._threads.submit(self._read, i) for i, future in zip(wanted, foreseen, strict=True)
        ]
        step = len(wanted) if self._last is None else wanted[0] - self._last
        self._last = wanted[0]
        for unwanted in self._coming.values():
            unwanted.cancel()
        following = [i + step for i in wanted if 0 <= i + step < self._n_items]
        self._coming = {i: self._threads.submit(self._read, i) for i in following}
        return [future.result() for future in futures]


def _yield_cores_to_the_model() -> None:
    """Let this thread run mostly where a core has nothing else to do.

    A model that computes on all cores waits for its slowest thread, so a core taken from one delays all of them.
    """
    if sys.platform == "linux":  # elsewhere priorities belong to processes
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), READER_NICENESS)
