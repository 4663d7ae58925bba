"""Calls in several processes at a time, some of them after others, and what a piece of work used."""

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
from graphlib import TopologicalSorter
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
    results: dict[int, Any] = {}
    errors: dict[int, BaseException] = {}
    running: dict[Future[Any], int] = {}
    ready: list[int] = []
    order = TopologicalSorter({k: call.after for k, call in enumerate(calls)})
    order.prepare()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_jobs, spawn, initializer=_end_with, initargs=(os.getpid(),)) as pool:
        while True:
            ready = sorted([*ready, *order.get_ready()])
            while ready and len(running) < n_jobs:
                k = ready.pop(0)
                running[pool.submit(calls[k].function, *calls[k].arguments)] = k
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                k = running.pop(future)
                error = future.exception()
                if error is not None:
                    errors[k] = error  # what waits for it never gets ready
                    continue
                results[k] = future.result()
                order.done(k)
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


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Run a piece of work and return what it used, as it stands in ``run.json``.

    Returns:
        ``seconds`` of wall time; ``cpu_seconds``, user and system time over all threads and finished child processes;
        ``peak_bytes``, the highest resident memory of the process while it ran, what was there before included; and,
        where a GPU was used, ``peak_gpu_bytes``, the most that torch allocated on the first one.
    """
    torch = _torch_on_gpu()
    gc.collect()
    # glibc keeps what earlier work has freed until it is asked; the kernel then forgets the peak so far. Where it
    # cannot, the peak of the process stands for that of the work.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch:
        torch.cuda.reset_peak_memory_stats()
    start, cpu = time.perf_counter(), sum(os.times()[:4])
    work()
    used: dict[str, float] = {
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(sum(os.times()[:4]) - cpu, 2),
        "peak_bytes": _peak_bytes(),
    }
    torch = _torch_on_gpu()
    on_gpu = int(torch.cuda.max_memory_allocated()) if torch else 0
    return {**used, "peak_gpu_bytes": on_gpu} if on_gpu else used


def _torch_on_gpu() -> Any:
    """Return torch if it is loaded and sees a GPU."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() else None


def _peak_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return int(peak if sys.platform == "darwin" else peak * 1024)
