"""Who does what among several processes; without a launcher, one does everything."""

import numpy as np
import pytest

from deblora.errors import LauncherError
from deblora.run import processes

ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "no"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "1"},
        ACCELERATE,  # one process, as asked for
        {"MASTER_ADDR": "node1"},
        {**ACCELERATE, "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
        {"PMI_SIZE": "4", "WORLD_SIZE": "4"},
    ],
)
def test_launches_that_are_what_they_seem(environment: dict[str, str]) -> None:
    processes.check_launch(environment)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({**ACCELERATE, "MASTER_ADDR": "127.0.0.1"}, "asked for several processes but started one"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "4 processes were started by MPI"),
        ({"PMI_SIZE": "2"}, "2 processes were started by MPI"),
    ],
)
def test_launches_that_would_run_alone_are_refused(environment: dict[str, str], words: str) -> None:
    with pytest.raises(LauncherError, match=words) as caught:
        processes.join(environment)
    assert "torchrun --nproc-per-node" in str(caught.value)


def test_a_launch_that_would_run_alone_ends_with_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from deblora.cli.main import main

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in {**ACCELERATE, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    assert main(["audit", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("deblora: accelerate launch was asked for several")


@pytest.mark.parametrize("n_shares", [1, 2, 3, 7])
@pytest.mark.parametrize("n_rows", [0, 1, 8, 50, 64])
def test_shares_are_whole_batches_in_order(n_rows: int, n_shares: int) -> None:
    parts = processes.shares(n_rows, n_shares, batch_size=8)
    assert len(parts) == n_shares
    assert [row for part in parts for row in part] == list(range(n_rows))
    assert all(part.start % 8 == 0 for part in parts if len(part))
    n_batches = [-(-len(part) // 8) for part in parts]
    assert max(n_batches) - min(n_batches) <= 1


def test_one_process_does_everything_itself() -> None:
    assert processes.world_size() == 1 and processes.rank() == 0 and processes.is_first()
    assert processes.on_first(lambda: {"a": [1]}) == {"a": [1]}
    own = np.ones((3, 2), dtype=np.float32)
    assert processes.gather_rows(own, [range(3)]) is own
    assert processes.speaks_of_failure()
    assert not processes.is_lost_connection(RuntimeError("Connection closed by peer"))
