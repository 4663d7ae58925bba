"""A batch shared by several processes gives the loss, the gradients and the weights of the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import REPOSITORY_ROOT
from deblora.train.loop import SharedBatches, train
from deblora.train.objectives import Regress, ResidualMap
from deblora.train.samples import FeatureOrder

N_STEPS, BATCH, N_CHIPS, SIZE = 8, 5, 12, 6


@pytest.mark.parametrize("n_processes", [1, 2, 3, 5])
def test_together_the_processes_see_each_batch_once(n_processes: int) -> None:
    parts = [list(SharedBatches(20, 5, rank=r, n_processes=n_processes)) for r in range(n_processes)]
    for step in range(4):
        assert [i for part in parts for i in part[step]] == list(range(5 * step, 5 * step + 5))
        assert min(len(part[step]) for part in parts) >= 1


@pytest.mark.parametrize(("n_samples", "batch", "n_processes"), [(20, 5, 6), (21, 5, 2)])
def test_batches_that_cannot_be_shared(n_samples: int, batch: int, n_processes: int) -> None:
    with pytest.raises(ValueError, match="cannot be shared"):
        SharedBatches(n_samples, batch, rank=0, n_processes=n_processes)


def objective() -> Regress:
    return Regress(ResidualMap(SIZE, 2, seed=0), scale=torch.ones(SIZE))


def samples() -> FeatureOrder:
    """Weights differ, so that means of means are wrong."""
    generator = torch.Generator().manual_seed(1)
    features, target = (torch.randn(N_CHIPS, SIZE, generator=generator) for _ in range(2))
    weight = torch.arange(1, N_CHIPS + 1, dtype=torch.float32) ** 2
    return FeatureOrder(features, {"target": target, "weight": weight}, n_samples=N_STEPS * BATCH, seed=3)


def run(folder: Path, goal: Regress, data: torch.utils.data.Dataset) -> list[tuple[int, float]]:
    return train(
        goal,
        data,
        folder=folder,
        n_steps=N_STEPS,
        batch_size=BATCH,
        learning_rate=0.05,
        checkpointing_steps=2,
    )


class Killed(RuntimeError):
    pass


class DiesAtStep5(FeatureOrder):
    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if index >= 6 * BATCH:  # one batch is read ahead
            raise Killed
        return super().__getitem__(index)


def of_one_process(folder: Path) -> None:
    """What each of the two processes runs: a whole training, and one that is killed and goes on."""
    from torch import distributed

    distributed.init_process_group("gloo")
    assert distributed.get_world_size() == 2
    whole, cut, resumed = objective(), objective(), objective()
    records = run(folder / "whole", whole, samples())
    dying = samples()
    dying.__class__ = DiesAtStep5
    with pytest.raises(Killed):
        run(folder / "cut", cut, dying)
    assert (folder / "cut" / "checkpoint-4" / "rng_state_1.pth").is_file()
    distributed.barrier()
    run(folder / "cut", resumed, samples())
    if distributed.get_rank() == 0:
        found = {"whole": whole.state_dict(), "resumed": resumed.state_dict(), "records": records}
        torch.save(found, folder / "found.pt")
    distributed.barrier()  # a process that leaves while another still computes can be aborted
    distributed.destroy_process_group()


def test_two_processes_train_to_the_weights_of_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    paths = f"{REPOSITORY_ROOT / 'src'}{os.pathsep}{REPOSITORY_ROOT / 'tests'}"
    done = subprocess.run(
        [*command, __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    alone = objective()
    records = run(tmp_path / "alone", alone, samples())
    assert [step for step, _ in found["records"]] == [step for step, _ in records]
    for (_, loss), (_, expected) in zip(found["records"], records, strict=True):
        assert loss == pytest.approx(expected, rel=1e-5)
    for name, weight in alone.state_dict().items():
        torch.testing.assert_close(found["whole"][name], weight, rtol=0, atol=1e-5)
        assert torch.equal(found["resumed"][name], found["whole"][name]), name


if __name__ == "__main__":
    of_one_process(Path(sys.argv[1]))
