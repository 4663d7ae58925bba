"""What a piece of work used: wall seconds, processor seconds and peak memory of this process."""

import contextlib
import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


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
