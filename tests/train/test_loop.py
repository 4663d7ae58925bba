"""A killed training goes on to the same weights; a cut-off checkpoint is dropped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from deblora.train.loop import SEAL, WEIGHTS, train
from deblora.train.objectives import Regress, ResidualMap, ResidualMlp
from deblora.train.samples import FeatureOrder

N_STEPS, BATCH, N_CHIPS, SIZE = 8, 4, 12, 6


class Killed(RuntimeError):
    pass


class DiesAfter(Dataset[dict[str, torch.Tensor]]):
    """The samples of another set, until the given number of them has been read."""

    def __init__(self, samples: FeatureOrder, n_reads: int) -> None:
        self.samples, self.left = samples, n_reads

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if self.left == 0:
            raise Killed
        self.left -= 1
        return self.samples[index]


class Recorded(FeatureOrder):
    """Remembers which positions were read."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.__dict__.setdefault("read", []).append(index)
        return super().__getitem__(index)


class Noisy(nn.Module):
    """The map behind dropout, so that the state of the random generator matters."""

    def __init__(self) -> None:
        super().__init__()
        self.map, self.drop = ResidualMap(SIZE, 2, seed=0), nn.Dropout(0.5)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        moved: torch.Tensor = self.map(self.drop(features))
        return moved


class Mlp(ResidualMlp):
    """The map with a hidden layer, at the size of these tests."""

    def __init__(self) -> None:
        super().__init__(SIZE, 3, seed=0)


def objective(module: nn.Module | None = None) -> Regress:
    return Regress(module if module is not None else ResidualMap(SIZE, 2, seed=0), scale=torch.ones(SIZE))


def samples(kind: type[FeatureOrder] = FeatureOrder) -> FeatureOrder:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(N_CHIPS, SIZE, generator=generator)
    target = torch.randn(N_CHIPS, SIZE, generator=generator)
    return kind(
        features, {"target": target, "weight": torch.ones(N_CHIPS)}, n_samples=N_STEPS * BATCH, seed=3
    )


def run(folder: Path, goal: nn.Module, data: Dataset[dict[str, torch.Tensor]]) -> list[tuple[int, float]]:
    return train(
        goal,
        data,
        folder=folder,
        n_steps=N_STEPS,
        batch_size=BATCH,
        learning_rate=0.05,
        checkpointing_steps=2,
    )


def killed_after_step_4(folder: Path, goal: nn.Module) -> None:
    """Trainer reads one batch ahead, so the fault lies in the batch after the next."""
    with pytest.raises(Killed):
        run(folder, goal, DiesAfter(samples(), (4 + 1) * BATCH + 1))
    assert (folder / "checkpoint-4" / "trainer_state.json").is_file()
    assert not (folder / "checkpoint-6").exists()


def assert_same(a: nn.Module, b: nn.Module) -> None:
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, weight in a.state_dict().items():
        assert torch.equal(weight, b.state_dict()[name]), name


@pytest.mark.parametrize("module", [None, Noisy, Mlp], ids=["plain", "dropout", "mlp"])
def test_a_killed_training_ends_at_the_same_weights(tmp_path: Path, module: type[nn.Module] | None) -> None:
    whole, first, second = (objective(module() if module else None) for _ in range(3))
    records = run(tmp_path / "whole", whole, samples())
    killed_after_step_4(tmp_path / "cut", first)
    data = samples(Recorded)
    resumed = run(tmp_path / "cut", second, data)
    assert_same(whole, second)
    assert resumed == records and [step for step, _ in resumed] == list(range(1, N_STEPS + 1))
    assert data.__dict__["read"][-4 * BATCH :] == list(range(4 * BATCH, 8 * BATCH))


def test_training_moves_the_weights_and_lowers_the_loss(tmp_path: Path) -> None:
    goal = objective()
    start = {name: weight.clone() for name, weight in goal.state_dict().items()}
    records = run(tmp_path, goal, samples())
    assert not torch.equal(goal.state_dict()["backbone.up.weight"], start["backbone.up.weight"])
    assert records[-1][1] < records[0][1]


def test_the_first_loss_is_that_of_the_untrained_map(tmp_path: Path) -> None:
    data = samples()
    first = [data[i] for i in range(BATCH)]
    expected = torch.stack([(row["pixels"] - row["target"]).pow(2).mean() for row in first]).mean()
    assert run(tmp_path, objective(), data)[0][1] == pytest.approx(float(expected), rel=1e-5)


def test_a_cut_off_checkpoint_is_dropped(tmp_path: Path) -> None:
    whole, first, second = objective(), objective(), objective()
    run(tmp_path / "whole", whole, samples())
    killed_after_step_4(tmp_path / "cut", first)
    cut_off = tmp_path / "cut" / "checkpoint-5"
    cut_off.mkdir()
    (cut_off / WEIGHTS).write_bytes(b"half of a file")
    run(tmp_path / "cut", second, samples())
    assert not cut_off.exists()
    assert_same(whole, second)


FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", WEIGHTS, SEAL)


@pytest.mark.parametrize("damage", ["empty", "cut", "missing"])
@pytest.mark.parametrize("file", FILES)
def test_a_checkpoint_counts_only_when_all_its_parts_are_whole(
    tmp_path: Path, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole, first, second = objective(Noisy()), objective(Noisy()), objective(Noisy())
    records = run(tmp_path / "whole", whole, samples())
    killed_after_step_4(tmp_path / "cut", first)
    path = tmp_path / "cut" / "checkpoint-4" / file
    content = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(
        content[: len(content) // 2 * (damage == "cut")]
    )
    data = samples(Recorded)
    assert run(tmp_path / "cut", second, data) == records
    assert_same(whole, second)
    assert data.__dict__["read"][-6 * BATCH] == 2 * BATCH  # from the checkpoint before
    assert "checkpoint-4 is not whole" in caplog.text and "goes on from checkpoint-2" in caplog.text


def test_without_any_complete_checkpoint_training_starts_anew(tmp_path: Path) -> None:
    whole, again = objective(), objective()
    run(tmp_path / "whole", whole, samples())
    (tmp_path / "cut" / "checkpoint-2").mkdir(parents=True)
    run(tmp_path / "cut", again, samples())
    assert_same(whole, again)


def test_checkpoints_hold_the_trainable_weights_only(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    goal = objective()
    goal.backbone.down.requires_grad_(False)
    run(tmp_path, goal, samples())
    stored = load_file(tmp_path / f"checkpoint-{N_STEPS}" / WEIGHTS)
    assert set(stored) == {"backbone.up.weight"}
    assert not (tmp_path / f"checkpoint-{N_STEPS}" / "model.safetensors").exists()


def test_a_checkpoint_of_another_objective_is_refused(tmp_path: Path) -> None:
    run(tmp_path, objective(), samples())
    with pytest.raises(ValueError, match="other weights"):
        run(tmp_path, objective(Noisy()), samples())


def test_training_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    goal, data = objective(), samples()
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    run(tmp_path, goal, data)
    assert torch.equal(torch.rand(3), expected)


KILLED_PROCESS = """
import os, sys
from pathlib import Path
sys.path.insert(0, {here!r})
import test_loop as t

class Dies(t.FeatureOrder):
    reads = 0
    def __getitem__(self, index):
        Dies.reads += 1
        if Dies.reads > (4 + 1) * t.BATCH:
            os._exit(9)
        return super().__getitem__(index)

t.run(Path({folder!r}), t.objective(), t.samples(Dies))
"""


def test_a_killed_process_leaves_checkpoints_to_go_on_from(tmp_path: Path) -> None:
    script = KILLED_PROCESS.format(here=str(Path(__file__).parent), folder=str(tmp_path / "cut"))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 9, done.stderr.decode()
    whole, second = objective(), objective()
    run(tmp_path / "whole", whole, samples())
    run(tmp_path / "cut", second, samples())
    assert_same(whole, second)


def test_weights_of_any_memory_layout_are_checkpointed(tmp_path: Path) -> None:
    class Convolved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def forward(
            self, pixels: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
        ) -> dict[str, torch.Tensor]:
            maps = pixels.reshape(-1, 2, 1, 3).expand(-1, 2, 3, 3)
            return {"loss": (weight * (self.conv(maps).sum(dim=(1, 2, 3)) - target[:, 0]) ** 2).mean()}

    torch.manual_seed(0)
    goal = Convolved()
    assert not goal.conv.weight.is_contiguous()
    run(tmp_path / "checkpoints", goal, samples())
    assert list((tmp_path / "checkpoints").glob(f"checkpoint-*/{WEIGHTS}"))


def test_sgd_is_that_of_torch_and_every_step_is_announced(tmp_path: Path) -> None:
    steps: list[int] = []
    goal, data = objective(), samples()
    options = {
        "n_steps": 2,
        "batch_size": BATCH,
        "learning_rate": 0.1,
        "optimizer": "sgd",
        "after_step": steps.append,
    }
    train(goal, data, folder=tmp_path / "checkpoints", **options)  # type: ignore[arg-type]
    assert steps == [1, 2]
    assert not (tmp_path / "checkpoints").exists() or not list(
        (tmp_path / "checkpoints").glob("checkpoint-*")
    )
    plain = objective()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for step, rate in enumerate((0.0, 0.1)):  # one step of warm-up from zero, then the peak
        batch = [data[step * BATCH + i] for i in range(BATCH)]
        loss = plain(**{name: torch.stack([row[name] for row in batch]) for name in batch[0]})["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    for found, expected in zip(goal.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected)
