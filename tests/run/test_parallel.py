"""Seeds that run at the same time: results in order, and no process outlives the comparison."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deblora.cli.main import main
from deblora.run.parallel import Call, in_parallel

WORKER = """
import os, sys, time
from pathlib import Path
from deblora.run.parallel import Call, in_parallel

def work(folder, k):
    (Path(folder) / f"pid-{k}").write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    in_parallel([Call(work, (sys.argv[1], k)) for k in range(2)], n_jobs=2)
"""


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_results_keep_the_order_of_the_arguments(n_jobs: int) -> None:
    calls = [Call(divmod, given) for given in ((7, 2), (9, 4), (5, 5))]
    assert in_parallel(calls, n_jobs=n_jobs) == [(3, 1), (2, 1), (1, 0)]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_call_waits_for_those_before_it(n_jobs: int, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    calls = [
        Call(os.mkdir, (one,)),
        Call(os.mkdir, (one / "a",), (0,)),
        Call(os.mkdir, (one / "b",), (0,)),
        Call(os.listdir, (one,), (1, 2)),
        Call(os.mkdir, (other,)),
    ]
    assert sorted(in_parallel(calls, n_jobs=n_jobs)[3]) == ["a", "b"]
    assert other.is_dir()


def test_what_depends_on_a_failure_is_left_out_and_the_rest_is_made(tmp_path: Path) -> None:
    calls = [
        Call(os.rmdir, (tmp_path / "nothing",)),
        Call(os.mkdir, (tmp_path / "after",), (0,)),
        Call(os.mkdir, (tmp_path / "after" / "that",), (1,)),
        Call(os.mkdir, (tmp_path / "apart",)),
    ]
    with pytest.raises(FileNotFoundError, match="nothing"):
        in_parallel(calls, n_jobs=2)
    assert [path.name for path in tmp_path.iterdir()] == ["apart"]


def test_a_call_cannot_wait_for_a_later_one() -> None:
    with pytest.raises(ValueError, match="call 0 waits for"):
        in_parallel([Call(divmod, (1, 1), (1,)), Call(divmod, (1, 1))], n_jobs=2)


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


def test_rows_in_two_processes_give_the_same_table(recipe: Path, tmp_path: Path) -> None:
    rows = ["--skip-deblora", "--seeds", "1", "--methods", "shift", "lora-bs"]
    tables = []
    for n_jobs in ("1", "2"):
        out = tmp_path / n_jobs
        assert main(["compare", str(recipe), "--out", str(out), "--jobs", n_jobs, *rows]) == 0
        tables.append((out / "results.csv").read_bytes())
        stages = json.loads((out / "seed-0" / "run.json").read_text())["stages"]
        assert {"train-row-lora-bs", "evaluate-lora-bs", "evaluate-shift", "scores", "choose"} <= set(stages)
    assert tables[0] == tables[1]
