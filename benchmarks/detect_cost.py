"""Count what one training step of oriented detection costs: multiplications, and memory that the graph holds.

Costs depend on shapes only: the backbone is a ViT-B/16 with random weights, tile, pyramid and head are those of the
recipe, and tensors have shapes but no values (torch's fake tensors), so the count takes seconds. Operations are counted
by torch, for the network; assignment and loss are left out. Memory is the sum of the distinct tensors that the graph
keeps for the backward pass, for one and for two tiles, so that what grows with the batch is told from what does not.
Workspaces of kernels and fragments of the allocator come on top, and a GPU keeps some tensors in another precision than
the CPU whose rules are followed: take it for an estimate within a third. On a GPU, times and the allocator's peak are
measured as well.

Example: ``python benchmarks/detect_cost.py recipes/detect/dota.yaml --out benchmarks/results/detect-cost.json``
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from deblora.detect.fcos.class_loss import FocalScoring
from deblora.detect.fcos.detector import n_parameters
from deblora.detect.predict import precision
from deblora.detect.training import Detect
from deblora.pipeline.detect import model
from deblora.recipe.classify import read_recipe
from deblora.recipe.detect import DetectionRecipe, MethodRecipe, detection_recipe_from

N_CLASSES, N_OBJECTS = 15, 20  # DOTA-v1.0; its tiles hold about twenty objects
KINDS = ("zero-shot", "lora", "fine-tune")
KIND_OF = {"reweight": "lora", "ecm": "lora", "deblora": "zero-shot", "scratch": "fine-tune"}
ON_CPU = {  # torch counts the attention of GPUs only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
        q, k, v
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda out, q, k, v, *_, **__: sdpa_backward_flop_count(out, q, k, v)
    ),
}
VIT_B = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def write_backbone(folder: Path, shape: dict[str, int]) -> None:
    """Write a ViT with random weights as a folder of Hugging Face."""
    import transformers

    config = transformers.ViTConfig(**shape, image_size=224, patch_size=16)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)


def detector_of(recipe: DetectionRecipe, kind: str) -> Detect:
    """Return what a row trains."""
    recipe = replace(recipe, method=replace(MethodRecipe(name=kind), rank=recipe.method.rank))
    backbone = model.open_extractor(recipe)
    return Detect(model.build(recipe, backbone, FocalScoring(N_CLASSES)))


def batch(recipe: DetectionRecipe, n_tiles: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Return noise with objects of all sizes at random places."""
    generator, tile = torch.Generator().manual_seed(0), recipe.data.tile
    shape = (n_tiles, N_OBJECTS)
    boxes = torch.rand(*shape, 5, generator=generator) * torch.tensor([tile, tile, 200, 80, 3.0])
    boxes[..., 2:4] += 10
    pixels = torch.randn(n_tiles, 3, tile, tile, generator=generator)
    labels = torch.randint(0, N_CLASSES, shape, generator=generator)
    extents = torch.full((n_tiles, 2), tile)
    return {
        "pixels": pixels.to(device),
        "boxes": boxes.to(device),
        "labels": labels.to(device),
        "extents": extents,
    }


def forward(objective: Detect, recipe: DetectionRecipe, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the loss in the precision of the recipe."""
    with precision(recipe.mixed_precision, inputs["pixels"].device):
        return objective(**inputs)["loss"]


def fake_weights(objective: Detect, mode: FakeTensorMode) -> dict[str, torch.Tensor]:
    """Return weights and statistics without values."""
    return {
        name: mode.from_tensor(value.detach()).requires_grad_(value.requires_grad)
        for name, value in (*objective.named_parameters(), *objective.named_buffers())
    }


def outputs_of(
    objective: Detect, weights: dict[str, torch.Tensor], recipe: DetectionRecipe, n_tiles: int
) -> torch.Tensor:
    """Return the sum of all outputs of the network: its backward pass is that of any loss."""
    detector = {name.removeprefix("detector."): value for name, value in weights.items()}
    pixels = torch.zeros(n_tiles, 3, recipe.data.tile, recipe.data.tile)
    with precision(recipe.mixed_precision, torch.device("cpu")):
        levels = functional_call(objective.detector, detector, (pixels,))
    parts = [part for one in levels for part in (one.logits, one.lengths, one.angle, one.centerness)]
    return torch.stack([part.float().sum() for part in parts]).sum()


def kept_bytes(objective: Detect, recipe: DetectionRecipe, n_tiles: int) -> int:
    """Return the bytes of the distinct tensors that the graph keeps, weights themselves left out."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    mode = FakeTensorMode()
    weights = fake_weights(objective, mode)
    with mode:
        own = {value.untyped_storage()._cdata for value in weights.values()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            total = outputs_of(objective, weights, recipe, n_tiles)
            found = sum(size for key, size in kept.items() if key not in own)
            del total
    return found


def cost(recipe: DetectionRecipe, kind: str, device: torch.device) -> dict[str, Any]:
    """Count one step of one tile, and predict the memory of the recipe's batch."""
    objective = detector_of(recipe, kind)
    one, two = (kept_bytes(objective, recipe, n) for n in (1, 2))
    mode = FakeTensorMode()
    weights = fake_weights(objective, mode)
    with mode, FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
        total = outputs_of(objective, weights, recipe, 1)
        n_forward = counter.get_total_flops()
        total.backward()
    n_all = sum(p.numel() for p in objective.parameters())
    n_trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    used, trained = n_parameters(objective.detector.extractor)
    steady = 4 * n_all + 12 * n_trained + 2 * one - two  # weights; gradients and Adam's two moments; casts
    n_tiles = recipe.train.train_batch_size
    found = {
        "tflop_forward": 1e-12 * n_forward,
        "tflop_step": 1e-12 * counter.get_total_flops(),
        "extractor_parameters": used,
        "extractor_trained": trained,
        "trained_parameters": n_trained,
        "gb_steady": 1e-9 * steady,
        "gb_per_tile": 1e-9 * (two - one),
        "batch": n_tiles,
        "gb_of_batch": 1e-9 * (steady + n_tiles * (two - one)),
    }
    return (
        found if device.type != "cuda" else {**found, **timed(objective.to(device), recipe, n_tiles, device)}
    )


def timed(objective: Detect, recipe: DetectionRecipe, n_tiles: int, device: torch.device) -> dict[str, float]:
    """Time steps of the recipe's batch on a GPU, and take the peak of its allocator."""
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad])
    inputs, seconds = batch(recipe, n_tiles, device), []
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(12):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        forward(objective, recipe, inputs).backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    peak = 1e-9 * torch.cuda.max_memory_allocated(device)
    return {"seconds_of_batch": statistics.median(seconds[2:]), "gb_measured": peak}


def main() -> None:
    """Count every kind of row and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true", help="a tiny ViT and 64 px; figures mean nothing")
    options = parser.parse_args()
    values = read_recipe(options.recipe)
    device = torch.device("cuda" if torch.cuda.is_available() and not options.smoke else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        write_backbone(Path(folder), TINY if options.smoke else VIT_B)
        values["backbone"] = {"name": "huggingface", "path": folder}
        if options.smoke:
            values["data"] |= {"tile": 64, "overlap": 16}
            values["head"] = {"n_channels": 16, "n_convs": 1}
        recipe = detection_recipe_from(values)
        rows = {kind: cost(recipe, kind, device) for kind in KINDS}
    machine = describe_machine("torch", "transformers", "peft")
    machine["device"] = "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)
    found = {
        "machine": machine,
        "smoke": options.smoke,
        "recipe": options.recipe.name,
        "backbone": "random ViT, patch 16, as ViT-B" if not options.smoke else "tiny ViT",
        "tile": recipe.data.tile,
        "precision": recipe.mixed_precision,
        "rows": {**rows, **{name: f"as {kind}" for name, kind in KIND_OF.items()}},
    }
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    for kind, row in rows.items():
        print(f"{kind}: {row['tflop_step']:.2f} TFLOP per tile and step, {row['gb_of_batch']:.1f} GB")


if __name__ == "__main__":
    main()
