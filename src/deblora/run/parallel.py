"""Calls in several processes at a time, some of them after others."""

import contextlib
import ctypes
import gc
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARENT_CHECK_S = 0.5


@dataclass(frozen=True)
class Call:
    """A call that may start once others have ended.

    Attributes:
        function: What is called; other processes import it by its name.
        arguments: Its positional arguments.
        after: Positions, among all calls, of those that must have succeeded before; all smaller than its own.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    after: tuple[int, ...] = ()


def in_parallel(calls: Sequence[Call], *, n_jobs: int) -> list[Any]:
    """Make all calls, up to ``n_jobs`` at a time; of those that may start, the first in order does.

    Processes have their share of the cores and end with this one. Where a call fails, those after it are left out,
    all others are still made.

    Returns:
        Results in the order of the calls.

    Raises:
        ValueError: If a call waits for itself or a later one.
        Exception: What the first call that failed raised.
    """
    late = [k for k, call in enumerate(calls) if any(not 0 <= i < k for i in call.after)]
    if late:
        raise ValueError(f"call {late[0]} waits for {calls[late[0]].after}, which must lie before it")
    if n_jobs == 1 or len(calls) < 2:
        return [call.function(*call.arguments) for call in calls]
    n_jobs = min(n_jobs, len(calls))
    # Read by the math libraries when a process starts; more threads than cores slow all of them down.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n_jobs)))
    with ProcessPoolExecutor(
        n_jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_end_with,
        initargs=(os.getpid(),),
    ) as pool:
        return _results(calls, pool, n_jobs)


def _results(calls: Sequence[Call], pool: ProcessPoolExecutor, n_jobs: int) -> list[Any]:
    results: dict[int, Any] = {}
    errors: dict[int, BaseException] = {}
    running: dict[Future[Any], int] = {}
    waiting, failed = list(range(len(calls))), set[int]()
    while waiting or running:
        for k in tuple(waiting):
            if failed.intersection(calls[k].after):
                waiting.remove(k)
                failed.add(k)
        ready = [k for k in waiting if all(i in results for i in calls[k].after)]
        for k in ready[: n_jobs - len(running)]:
            waiting.remove(k)
            running[pool.submit(calls[k].function, *calls[k].arguments)] = k
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            k = running.pop(future)
            error = future.exception()
            if error is None:
                results[k] = future.result()
            else:
                errors[k] = error
                failed.add(k)
    if errors:
        raise errors[min(errors)]
    return [results[k] for k in range(len(calls))]


def _end_with(parent: int) -> None:
    """Let this process end when its parent is gone: a killed comparison must not go on writing its run folders."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass(frozen=True)
class Usage:
    """What a piece of work used.

    Attributes:
        seconds: Wall time.
        cpu_seconds: User and system time over all threads and finished child processes.
        peak_bytes: Highest resident memory of the process while it ran, what was there before included.
        peak_gpu_bytes: Highest memory that torch allocated on the first GPU; 0 without one.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    peak_gpu_bytes: int

    def record(self) -> dict[str, float]:
        """Return the values as they stand in ``run.json``; GPU memory only where it was used."""
        found = {
            "seconds": round(self.seconds, 2),
            "cpu_seconds": round(self.cpu_seconds, 2),
            "peak_bytes": self.peak_bytes,
        }
        return {**found, "peak_gpu_bytes": self.peak_gpu_bytes} if self.peak_gpu_bytes else found


def measured(work: Callable[[], object]) -> Usage:
    """Run a piece of work and return what it used."""
    _reset_peaks()
    start, cpu = time.perf_counter(), _cpu_seconds()
    work()
    return Usage(time.perf_counter() - start, _cpu_seconds() - cpu, _peak_bytes(), _peak_gpu_bytes())


def _cpu_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _reset_peaks() -> None:
    """Let the kernel forget the peak so far; where it cannot, the peak of the process stands for that of the work."""
    gc.collect()
    # glibc keeps what earlier work has freed until it is asked.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak_bytes() -> int:
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return int(peak if sys.platform == "darwin" else peak * 1024)


def _peak_gpu_bytes() -> int:
    torch = sys.modules.get("torch")
    return int(torch.cuda.max_memory_allocated()) if torch is not None and torch.cuda.is_available() else 0
