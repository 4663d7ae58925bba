"""Pre-train the embedded backbone: a small masked autoencoder on simulated optical chips, labels unused.

Usage: ``python scripts/pretrain_embedded.py --minutes 10``. Writes config.json, model.safetensors, README.md.
"""

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from deblora.data.pixels import to_batch
from deblora.data.simulate import CLASS_NAMES, simulated_chips

FOLDER = Path(__file__).resolve().parent.parent / "src/deblora/models/embedded"
SIZE, BATCH, PEAK_RATE = 64, 128, 1.5e-3
WARMUP_SHARE = 0.05
MEAN = STD = (0.5, 0.5, 0.5)


def main() -> None:
    """Draw the chips, train until the steps or the minutes are used up, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="budget of training alone")
    parser.add_argument("--chips", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    model = ViTMAEForPreTraining(configuration())
    chips = draw_chips(arguments.chips, arguments.seed)
    print(f"{len(chips)} chips, {sum(p.numel() for p in model.parameters())} parameters", flush=True)
    steps, losses = train(model, chips, minutes=arguments.minutes, seed=arguments.seed)
    model.save_pretrained(arguments.out, safe_serialization=True)
    final = float(np.mean(losses[-50:]))
    (arguments.out / "README.md").write_text(describe(arguments, len(chips), steps, losses[0], final))
    print(f"saved after {steps} steps, loss {final:.4f}")


def configuration() -> ViTMAEConfig:
    """Return the shape of the model: 64 tokens of 128, six layers, a decoder just large enough."""
    return ViTMAEConfig(
        image_size=SIZE,
        patch_size=8,
        num_channels=3,
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        decoder_hidden_size=64,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=256,
        mask_ratio=0.75,
        norm_pix_loss=True,
    )


def draw_chips(n: int, seed: int) -> torch.Tensor:
    """Return about ``n`` chips, the same number of every class over the full range of its attributes."""
    counts = {"train": (n // len(CLASS_NAMES),) * len(CLASS_NAMES)}
    # A seed far from those of recipes keeps these chips out of every experiment.
    chips = simulated_chips(
        sensor="optical", counts_per_class=counts, chip_size=SIZE, tail_coverage=1.0, seed=900_000 + seed
    )
    arrays = [chips.pixels.read(i) for i in range(len(chips))]
    return to_batch(arrays, image_size=SIZE, mean=MEAN, std=STD, scale=255.0)


def train(
    model: ViTMAEForPreTraining, chips: torch.Tensor, *, minutes: float, seed: int
) -> tuple[int, list[float]]:
    """Train with AdamW; the rate follows the minutes used: linear warm-up, then a cosine to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    start, losses = time.monotonic(), list[float]()
    model.train()
    for batch in batches(chips, torch.Generator().manual_seed(seed)):
        progress = (time.monotonic() - start) / (60 * minutes)
        if progress >= 1:
            break
        warm = min(1.0, (progress + 1e-3) / WARMUP_SHARE)
        optimizer.param_groups[0]["lr"] = PEAK_RATE * warm * 0.5 * (1 + math.cos(math.pi * progress))
        loss = model(pixel_values=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if len(losses) % 50 == 0:
            print(f"step {len(losses)}, {100 * progress:.0f} %, loss {np.mean(losses[-50:]):.4f}", flush=True)
    return len(losses), losses


def batches(chips: torch.Tensor, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield shuffled batches forever, each turned and mirrored as a whole."""
    while True:
        order = torch.randperm(len(chips), generator=generator)
        for part in order.split(BATCH)[: len(chips) // BATCH]:
            turns, mirror = torch.randint(4, (2,), generator=generator).tolist()
            batch = torch.rot90(chips[part], turns, (2, 3))
            yield batch.flip(3) if mirror % 2 else batch


def describe(arguments: argparse.Namespace, n_chips: int, steps: int, first: float, final: float) -> str:
    """Return the model card."""
    return f"""# Embedded backbone

A ViT masked autoencoder (64 px, patch 8, 3 bands, hidden 128, depth 6, 4 heads, MLP 512; decoder 64 wide, 1
layer), small enough to ship. It never saw a label or a real image.

- Data: {n_chips} simulated optical chips (`deblora.data.simulate`, seed
  {900_000 + arguments.seed}), the same number of each of {len(CLASS_NAMES)} classes,
  full range of attributes, random quarter turns and mirroring.
- Input: RGB / 255, then (x - 0.5) / 0.5 per band.
- Training: mask ratio 0.75, normalized pixel loss, AdamW (0.9, 0.95), weight decay 0.05, batch {BATCH},
  peak rate {PEAK_RATE}, 5 % warm-up, cosine to zero, fp32, seed {arguments.seed}.
- Result: {steps} steps in {arguments.minutes:g} minutes on one CPU thread; loss {first:.4f} at the first
  step, {final:.4f} as the mean of the last 50.
- Made by `python scripts/pretrain_embedded.py --minutes {arguments.minutes:g} --chips
  {arguments.chips} --seed {arguments.seed}`. Chips, first weights, masks and batches are
  seeded; the number of steps depends on the machine, because the minutes are fixed.
- License: Apache-2.0, like the code.
"""


if __name__ == "__main__":
    main()
