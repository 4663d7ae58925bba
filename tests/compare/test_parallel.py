"""Seeds that run at the same time: results in order, and no process outlives the comparison."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deblora.compare import in_parallel

WORKER = """
import os, sys, time
from pathlib import Path
from deblora.compare import in_parallel

def work(folder, k):
    (Path(folder) / f"pid-{k}").write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    in_parallel(work, [(sys.argv[1], 0), (sys.argv[1], 1)], n_jobs=2)
"""


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_results_keep_the_order_of_the_arguments(n_jobs: int) -> None:
    assert in_parallel(divmod, [(7, 2), (9, 4), (5, 5)], n_jobs=n_jobs) == [(3, 1), (2, 1), (1, 0)]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a signal that cannot be caught")
def test_workers_end_with_a_comparison_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(WORKER)
    comparison = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    files = [tmp_path / f"pid-{k}" for k in range(2)]
    until(lambda: all(file.is_file() and file.read_text() for file in files), "the workers to start")
    workers = [int(file.read_text()) for file in files]
    assert all(alive(worker) for worker in workers)
    comparison.send_signal(signal.SIGKILL)
    comparison.wait()
    until(lambda: not any(alive(worker) for worker in workers), "the workers to end")


def until(done: object, what: str) -> None:
    limit = time.monotonic() + 90
    while not done():  # type: ignore[operator]
        assert time.monotonic() < limit, f"waited in vain for {what}"
        time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")
    return not stat.is_file() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
