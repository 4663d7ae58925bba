"""A killed training by the denoising loss goes on with the same noise to the same adapter."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deblora.data.chips import ArrayPixels
from deblora.models.adapters.lora import attach_lora
from deblora.models.backbone import Backbone, InputSpec, load_backbone
from deblora.train.loop import train
from deblora.train.objectives import Denoise, Numbered
from deblora.train.samples import TrainingOrder
from generative_builders import write_stable_diffusion

N_STEPS, BATCH = 4, 2


class Killed(RuntimeError):
    pass


def order(spec: InputSpec) -> TrainingOrder:
    rng = np.random.default_rng(0)
    chips = [rng.integers(0, 256, (20, 20, 3)).astype(np.uint8) for _ in range(5)]
    pixels = ArrayPixels(chips, [str(i) for i in range(5)])
    values = {"labels": torch.zeros(5, dtype=torch.int64)}
    return TrainingOrder(pixels, values, spec=spec, n_samples=N_STEPS * BATCH, seed=0)


def run(folder: Path, model: Path, *, dies_at: int | None = None) -> tuple[Backbone, list[tuple[int, float]]]:
    backbone = load_backbone("stable-diffusion", path=model)
    attach_lora(backbone, rank=2, alpha=2, seed=0)
    samples = Numbered(order(backbone.spec))
    if dies_at is not None:
        read = samples.__class__.__getitem__

        class Dies(Numbered):
            def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
                if index >= dies_at:
                    raise Killed
                return read(self, index)

        samples = Dies(samples.samples)
    records = train(
        Denoise(backbone, seed=0),
        samples,
        folder=folder,
        n_steps=N_STEPS,
        batch_size=BATCH,
        learning_rate=1e-2,
        checkpointing_steps=2,
    )
    return backbone, records


def adapter(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in backbone.encoder.named_parameters() if "lora_" in name}


def test_a_killed_denoising_ends_at_the_same_adapter(tmp_path: Path) -> None:
    model = write_stable_diffusion(tmp_path / "sd")
    whole, records = run(tmp_path / "whole", model)
    with pytest.raises(Killed):
        run(tmp_path / "cut", model, dies_at=3 * BATCH)
    resumed, again = run(tmp_path / "cut", model)
    assert [step for step, _ in records] == [1, 2, 3, 4]
    assert again == records
    expected = adapter(whole)
    assert all(torch.equal(value, expected[name]) for name, value in adapter(resumed).items())
    assert any(value.abs().sum() > 0 for name, value in expected.items() if "lora_B" in name)
