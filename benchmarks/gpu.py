"""Time extraction and LoRA steps of large backbones beside what the card can multiply; write JSON.

Two shapes with random weights: ViT-L/16 at 224 pixels, as SatMAE uses it, and the UNet of Stable Diffusion 1.5 at
64 x 64 latents. Times depend on shapes only, so no weights are needed. Every figure stands beside the ceiling: the
fastest square matrix product measured on the same card in the same precision.

Example: ``python benchmarks/gpu.py --out benchmarks/results/gpu.json``. ``--smoke`` runs tiny shapes anywhere, to see
that the script works; its figures mean nothing.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from deblora.data.chips import ArrayPixels
from deblora.models.adapters.lora import attach_lora
from deblora.models.backbone import Backbone, InputSpec
from deblora.train.extract import extract_features
from deblora.train.objectives import Classify

N_CLASSES = 10
RANK = 8
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}
VIT_L = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "image_size": 224,
    "patch_size": 16,
}
VIT_TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 16,
}
SD15 = {"sample_size": 64, "cross_attention_dim": 768}  # the rest is diffusers' default
SD_TINY = {
    "sample_size": 8,
    "cross_attention_dim": 16,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 4,
    "layers_per_block": 1,
}


@dataclass(frozen=True)
class Timing:
    """How often things are timed, and on what."""

    device: torch.device
    precision: str
    repeats: int

    def seconds(self, work: Callable[[], object]) -> list[float]:
        """Return the wall time of each repeat, after two calls that warm up."""
        times = []
        for repeat in range(self.repeats + 2):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            if repeat >= 2:
                times.append(time.perf_counter() - start)
        return times

    def wait(self) -> None:
        """Wait until the card has done what it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def products(self) -> AbstractContextManager[object]:
        """Matrix products and convolutions in the precision of the benchmark."""
        if self.precision == "no":
            return nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.precision])


def vit(settings: dict[str, Any]) -> Backbone:
    """Return a ViT with random weights; its feature is the mean patch token."""
    import transformers

    encoder = transformers.ViTModel(transformers.ViTConfig(**settings), add_pooling_layer=False)
    targets = tuple(n for n, m in encoder.named_modules() if isinstance(m, nn.Linear))
    size = settings["image_size"]
    return Backbone(
        encoder,
        lambda model, pixels: model(pixel_values=pixels).last_hidden_state[:, 1:].mean(dim=1),
        spec=InputSpec(3, size, (0.5,) * 3, (0.25,) * 3, 255.0),
        feature_size=settings["hidden_size"],
        name="vit",
        weights_sha256="random",
        lora_targets=targets,
        pool="mean",
    )


def unet(settings: dict[str, Any]) -> Backbone:
    """Return a UNet with random weights; its feature is the mean output of one noise-free pass over latents."""
    import diffusers

    encoder = diffusers.UNet2DConditionModel(**settings)
    names = ("to_q", "to_k", "to_v", "to_out.0")
    targets = tuple(n for n, m in encoder.named_modules() if isinstance(m, nn.Linear) and n.endswith(names))
    width = settings["cross_attention_dim"]

    def features(model: nn.Module, latents: torch.Tensor) -> torch.Tensor:
        text = torch.zeros(len(latents), 77, width, device=latents.device)
        return model(latents, 0, encoder_hidden_states=text).sample.mean(dim=(2, 3))

    return Backbone(
        encoder,
        features,
        spec=InputSpec(4, settings["sample_size"], (0.5,) * 4, (0.25,) * 4, 255.0),
        feature_size=4,
        name="unet",
        weights_sha256="random",
        lora_targets=targets,
        pool="mean",
    )


def ceiling(timing: Timing, sizes: list[int]) -> dict[str, Any]:
    """Return the fastest rate of a square matrix product, in TFLOP/s."""
    rates = {}
    for size in sizes:
        a = torch.randn(size, size, device=timing.device, dtype=DTYPES[timing.precision])
        rates[size] = 2e-12 * size**3 / statistics.median(timing.seconds(lambda a=a: a @ a))
    return {"tflops": max(rates.values()), "tflops_by_size": rates}


def measured(timing: Timing, work: Callable[[], object], n_chips: int, top: float) -> dict[str, Any]:
    """Time one call, count its multiplications, and compare with the ceiling."""
    with FlopCounterMode(display=False) as counter:
        work()
    times = timing.seconds(work)
    rate = 1e-12 * counter.get_total_flops() / statistics.median(times)
    return {
        "seconds": times,
        "chips_per_s": n_chips / statistics.median(times),
        "tflops": rate,
        "share_of_ceiling": rate / top,
    }


def case(backbone: Backbone, timing: Timing, batch_size: int, n_chips: int, top: float) -> dict[str, Any]:
    """Measure one backbone: the bare forward pass, extraction from chips in memory, and a LoRA step."""
    backbone.to(timing.device)
    spec = backbone.spec
    shape = (batch_size, spec.n_bands, spec.image_size, spec.image_size)
    pixels = torch.randn(shape, device=timing.device)

    def forward() -> None:
        with torch.inference_mode(), timing.products():
            backbone(pixels)

    found: dict[str, Any] = {"batch_size": batch_size, "forward": measured(timing, forward, batch_size, top)}
    ids = tuple(map(str, range(n_chips)))
    noise = np.random.default_rng(0).integers(0, 256, (*shape[2:], spec.n_bands)).astype(np.float32)
    chips = ArrayPixels([noise] * n_chips, ids)
    times = timing.seconds(
        lambda: extract_features(
            backbone, chips, ids, batch_size=batch_size, precision=timing.precision, title=None
        )
    )
    found["extract_features"] = {"seconds": times, "chips_per_s": n_chips / statistics.median(times)}
    attach_lora(backbone, rank=RANK, alpha=RANK, targets=None, adapter_name="timed", seed=0)
    objective = Classify(backbone, N_CLASSES, log_prior=None, seed=0).to(timing.device)
    trainable = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable)
    labels = torch.arange(batch_size, device=timing.device) % N_CLASSES

    def step() -> None:
        with timing.products():
            loss = objective(pixels, labels)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    found["lora_step"] = measured(timing, step, batch_size, top)
    found["trainable_parameters"] = sum(p.numel() for p in trainable)
    if timing.device.type == "cuda":
        found["peak_memory_gb"] = torch.cuda.max_memory_allocated(timing.device) / 1e9
        torch.cuda.reset_peak_memory_stats(timing.device)
    return found


def main() -> None:
    """Run both shapes and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--precision", choices=list(DTYPES), default="bf16")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, on the CPU; figures mean nothing")
    options = parser.parse_args()
    if not options.smoke and not torch.cuda.is_available():
        parser.error("no GPU is found; --smoke runs tiny shapes on the CPU")
    device = torch.device("cpu" if options.smoke else "cuda")
    timing = Timing(device, options.precision, 1 if options.smoke else options.repeats)
    batch_size, n_chips = (2, 4) if options.smoke else (options.batch_size, 32 * options.batch_size)
    top = ceiling(timing, [64] if options.smoke else [4096, 8192, 16384])
    machine = describe_machine("torch", "transformers", "peft", "numpy")
    machine["device"] = "cpu" if options.smoke else torch.cuda.get_device_name(device)
    found: dict[str, Any] = {
        "machine": machine,
        "smoke": options.smoke,
        "precision": options.precision,
        "ceiling": top,
    }
    tiny = options.smoke
    for name, build, settings in (
        ("satmae-vit-large", vit, VIT_TINY if tiny else VIT_L),
        ("sd-1.5-unet", unet, SD_TINY if tiny else SD15),
    ):
        try:
            backbone = build(settings)
        except ImportError as error:
            found[name] = {"left_out": f"{error}; install the extra sd"}
            continue
        found[name] = case(backbone, timing, batch_size, n_chips, top["tflops"])
        print(json.dumps({name: found[name]}), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
