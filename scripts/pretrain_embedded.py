"""Pre-train the embedded backbone: a small contrastive masked autoencoder on simulated optical chips, labels unused.

Two views of every chip are masked; the visible tokens reconstruct the masked pixels and, averaged, tell the two
views of a chip from those of other chips (Mishra et al. 2022, arXiv 2210.16870, without their noise prediction).
The views differ in pose and in tone, so that features of shape pay more than features of brightness.

Usage: ``python scripts/pretrain_embedded.py``. Writes config.json and model.safetensors, and prints a probe table.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from deblora.data.pixels import to_batch
from deblora.data.simulate.chips import CLASS_NAMES, Sensor, simulated_chips
from deblora.evaluate.classifiers.linear import LinearFits
from deblora.evaluate.classifiers.search import select
from deblora.models.backbones.vision import load

FOLDER = Path(__file__).resolve().parent.parent / "src/deblora/models/backbones/embedded"
# All values below are ours, chosen for minutes on one CPU thread, unless a source is named.
SIZE, BATCH, PEAK_RATE, WARMUP_SHARE = 64, 64, 1.5e-3, 0.05
TEMPERATURE = 0.2
POSITION_SCALE = 0.25  # of the encoder; full codes drown the patches when a few visible tokens are averaged
N_KNOTS = 5  # of a tone curve
LOG_SPECKLE_MEAN, LOG_SPECKLE_STD = -0.27, 0.80  # of the log of a gamma variate of two looks and mean 1
# Seeds far from those of recipes keep these chips out of every experiment.
SEED_TRAIN, SEED_PROBE = 900_000, 700_001


def main() -> None:
    """Draw the chips, train, save, and probe against the same network with random weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--chips", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--probe-seeds", type=int, default=3, help="0 leaves the probe table out")
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in another order give other weights
    torch.manual_seed(arguments.seed)
    model = with_position_codes(ViTMAEForPreTraining(configuration()))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        chips = draw_chips(arguments.chips, arguments.seed)
        print(f"{len(chips)} chips, {sum(p.numel() for p in model.parameters())} parameters", flush=True)
        train(model, chips, steps=arguments.steps, seed=arguments.seed, out=arguments.out)
        for sensor in ("optical", "sar"):
            for name, weights in (("pre-trained", arguments.out), ("random", Path(folder))):
                scores = [probe(weights, sensor=sensor, seed=s) for s in range(arguments.probe_seeds)]
                if scores:
                    print(f"{sensor}, {name}: {np.mean(scores):.3f} +- {np.std(scores, ddof=1):.3f}", scores)


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


def with_position_codes(model: ViTMAEForPreTraining) -> ViTMAEForPreTraining:
    """Fill the frozen position codes, which transformers 5.23 leaves at zero in a model made from a configuration.

    Without them a masked token does not know where it is, and the best reconstruction is the same everywhere.
    """
    grid = model.config.image_size // model.config.patch_size
    with torch.no_grad():
        encoder, decoder = model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed
        encoder.copy_(POSITION_SCALE * position_codes(encoder.shape[-1], grid))
        decoder.copy_(position_codes(decoder.shape[-1], grid))
        nn.init.normal_(model.decoder.mask_token, std=0.02)
        nn.init.normal_(model.vit.embeddings.cls_token, std=0.02)
    return model


def position_codes(size: int, grid: int) -> Float[Tensor, "1 t d"]:
    """Return sines and cosines of column and row at ``size / 4`` frequencies; zeros for the class token."""
    frequencies = 10_000.0 ** (-torch.arange(size // 4) / (size // 4))
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in (columns, rows)]
    codes = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return torch.cat([torch.zeros(1, size), codes])[None]


def draw_chips(n: int, seed: int) -> UInt8[Tensor, "n 3 s s"]:
    """Return about ``n`` chips, the same number of every class over the full range of its attributes."""
    chips = simulated_chips(
        sensor="optical",
        counts_per_class={"train": (n // len(CLASS_NAMES),) * len(CLASS_NAMES)},
        chip_size=SIZE,
        tail_coverage=1.0,
        seed=SEED_TRAIN + seed,
    )
    return torch.from_numpy(np.stack([chips.pixels.read(i).transpose(2, 0, 1) for i in range(len(chips))]))


def train(
    model: ViTMAEForPreTraining, chips: UInt8[Tensor, "n 3 s s"], *, steps: int, seed: int, out: Path
) -> None:
    """Train with AdamW (linear warm-up, then a cosine to zero) and save every 100 steps and at the end."""
    generator = torch.Generator().manual_seed(seed)
    size = model.config.hidden_size
    head = nn.Sequential(nn.Linear(size, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 64))
    parameters = [p for p in (*model.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    order, recent, start = torch.empty(0, dtype=torch.long), list[tuple[float, float]](), time.process_time()
    model.train()
    for step in range(steps):
        if len(order) < BATCH:
            order = torch.randperm(len(chips), generator=generator)
        batch, order = chips[order[:BATCH]].float() / 255, order[BATCH:]
        warm = min(1.0, (step + 1) / (WARMUP_SHARE * steps))
        optimizer.param_groups[0]["lr"] = PEAK_RATE * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        pixels, contrast = losses(model, head, batch, generator)
        optimizer.zero_grad()
        torch.autograd.backward(pixels + contrast)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        recent = [*recent[-49:], (pixels.item(), contrast.item())]
        if (step + 1) % 100 == 0 or step + 1 == steps:
            model.save_pretrained(out)
            means, seconds = np.mean(recent, axis=0), time.process_time() - start
            print(
                f"step {step + 1}, {seconds:.0f} s, pixels {means[0]:.3f}, contrast {means[1]:.3f}",
                flush=True,
            )


def losses(
    model: ViTMAEForPreTraining, head: nn.Module, chips: Float[Tensor, "b 3 s s"], generator: torch.Generator
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the reconstruction loss over masked patches and the contrastive loss of two views.

    The contrastive loss is ``CE(z z' / t)``, the other view of the chip among all others of the batch (Chen et
    al. 2020), with unit vectors ``z`` of the mean visible patch token.
    """
    clean = torch.cat([change_tone(change_pose(chips, generator), generator) for _ in range(2)])
    seen, wanted = (2 * x.clamp(0, 1) - 1 for x in (add_speckle(clean, generator), clean))
    n_patches = model.vit.embeddings.patch_embeddings.num_patches
    encoded = model.vit(seen, noise=torch.rand(len(seen), n_patches, generator=generator))
    target = model.patchify(wanted)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    error = (model.decoder(encoded.last_hidden_state, encoded.ids_restore).logits - target) ** 2
    pixels = (error.mean(-1) * encoded.mask).sum() / encoded.mask.sum()
    z = functional.normalize(head(encoded.last_hidden_state[:, 1:].mean(1)), dim=1)
    likeness = (z @ z.T / TEMPERATURE).fill_diagonal_(-1e9)
    return pixels, functional.cross_entropy(likeness, torch.arange(len(z)).roll(len(chips)))


def change_pose(chips: Float[Tensor, "b c s s"], generator: torch.Generator) -> Float[Tensor, "b c s s"]:
    """Turn by quarters, mirror, and cut out 70 to 100 % of the side, each chip by itself."""
    n = len(chips)
    angle = torch.randint(4, (n,), generator=generator) * (math.pi / 2)
    mirror = torch.randint(2, (n,), generator=generator) * 2.0 - 1
    share = 0.7 + 0.3 * torch.rand(n, generator=generator)
    cosine, sine = share * angle.cos(), share * angle.sin()
    shift = (2 * torch.rand(n, 2, generator=generator) - 1) * (1 - share)[:, None]
    maps = torch.stack([cosine * mirror, -sine, shift[:, 0], sine * mirror, cosine, shift[:, 1]], dim=1)
    grid = functional.affine_grid(maps.view(n, 2, 3), list(chips.shape), align_corners=False)
    return functional.grid_sample(chips, grid, padding_mode="reflection", align_corners=False)


def change_tone(chips: Float[Tensor, "b c s s"], generator: torch.Generator) -> Float[Tensor, "b c s s"]:
    """Mix the bands to gray (50 %), apply a random tone curve (60 %), change contrast and brightness.

    A curve runs through five random knots: rising, falling (inverted contrast) or neither (after the
    nonlinear intensity curves of Zhou et al. 2019), because what is bright to one sensor is dark to another.
    """
    n = len(chips)

    def chance(probability: float) -> Tensor:
        return torch.rand(n, 1, 1, 1, generator=generator) < probability

    weights = torch.rand(n, 3, 1, 1, generator=generator) + 1e-3
    gray = (chips * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
    chips = torch.where(chance(0.5), gray.expand_as(chips), chips)
    rising = (torch.rand(n, N_KNOTS, generator=generator) + 0.1).cumsum(1)
    rising = (rising - rising[:, :1]) / (rising[:, -1:] - rising[:, :1])
    monotone = torch.where(chance(0.4).view(n, 1), 1 - rising, rising)
    free = torch.rand(n, N_KNOTS, generator=generator)
    knots = torch.where(chance(0.2).view(n, 1), free, monotone)
    position = chips.clamp(0, 1) * (N_KNOTS - 1)
    below = position.floor().clamp(max=N_KNOTS - 2)
    index = below.long().flatten(1)
    low, high = (knots.gather(1, i).view_as(chips) for i in (index, index + 1))
    chips = torch.where(chance(0.6), low + (high - low) * (position - below), chips)
    contrast = (0.2 * torch.randn(n, 1, 1, 1, generator=generator)).exp()
    brightness = 0.1 * torch.randn(n, 1, 1, 1, generator=generator)
    mean = chips.mean((1, 2, 3), keepdim=True)
    return (chips - mean) * contrast + mean + brightness


def add_speckle(chips: Float[Tensor, "b c s s"], generator: torch.Generator) -> Float[Tensor, "b c s s"]:
    """Add the noise of a logarithmic intensity of two looks to half of the chips, up to 0.12 of the range."""
    n = len(chips)
    amount = 0.12 * torch.rand(n, 1, 1, 1, generator=generator)
    amount = amount * (torch.rand(n, 1, 1, 1, generator=generator) < 0.5)
    looks = -torch.rand(n, 2, 1, *chips.shape[2:], generator=generator).clamp_min(1e-6).log()
    return chips + amount * (looks.mean(1).log() - LOG_SPECKLE_MEAN) / LOG_SPECKLE_STD


def probe(folder: Path, *, sensor: Sensor, seed: int) -> float:
    """Return the accuracy of a linear probe on 25 training and 25 test chips per class; 15 choose its penalty."""
    backbone = load(folder, name="candidate")
    counts = {split: (n,) * len(CLASS_NAMES) for split, n in (("train", 25), ("val", 15), ("test", 25))}
    chips = simulated_chips(
        sensor=sensor, counts_per_class=counts, chip_size=SIZE, tail_coverage=1.0, seed=SEED_PROBE + seed
    )
    spec, split = backbone.spec, np.array(chips.splits)
    arrays = [chips.pixels.read(i) for i in range(len(chips))]
    pixels = to_batch(arrays, image_size=spec.image_size, mean=spec.mean, std=spec.std, scale=spec.scale)
    with torch.inference_mode():
        x = torch.cat([backbone(part) for part in torch.split(pixels, 250)]).numpy()
    fit, val, test = (split == name for name in ("train", "val", "test"))
    y, n_classes = chips.labels, len(CLASS_NAMES)
    fits = LinearFits.of(x[fit], y[fit], n_classes).warm()
    chosen = select((({"l2": l2}, fits(l2)) for l2 in (3e-2, 3e-3)), x[val], y[val])
    return float((chosen.classifier.logits(x[test]).argmax(axis=1) == y[test]).mean())


if __name__ == "__main__":
    main()
