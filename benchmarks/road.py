"""Time feature extraction beside the bare model, and a LoRA step beside a bare peft loop, in turns; write JSON.

Example: ``python benchmarks/road.py --out benchmarks/results/road-cpu.json``. Larger backbones take part when their
folder is named: ``--efficientnet FOLDER``, ``--galileo FOLDER``.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from PIL import Image

from deblora.data.readers.lists import read_folder
from deblora.models.adapters.lora import attach_lora
from deblora.models.backbone import Backbone, load_backbone
from deblora.train.extract import extract_features, read_batch
from deblora.train.loop import train
from deblora.train.objectives import Classify
from deblora.train.samples import TrainingOrder

N_CLASSES = 4


def write_chips(folder: Path, n_chips: int, size: int) -> None:
    """Write noisy PNG chips, so that extraction pays for decoding."""
    rng = np.random.default_rng(0)
    for i in range(n_chips):
        path = folder / f"class{i % N_CLASSES}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(path)


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired_ratio(ours: list[float], peer: list[float]) -> float:
    """Return the median of the ratios of neighbors in time, so that a change of the machine's speed cancels."""
    return statistics.median(a / b for a, b in zip(ours, peer, strict=True))


def in_turns(ours: Callable[[], object], peer: Callable[[], object], repeats: int) -> dict[str, Any]:
    """Warm both up, time them alternately, and return every repeat and the medians of the ratios.

    The CPU seconds of all threads say what the work costs where other programs load the machine.
    """
    ours(), peer()
    times: dict[str, list[float]] = {"ours_s": [], "peer_s": [], "ours_cpu_s": [], "peer_cpu_s": []}
    load = os.getloadavg()[0]
    for repeat in range(repeats):
        pair = (("peer", peer), ("ours", ours))
        for name, work in pair if repeat % 2 else pair[::-1]:
            cpu = time.process_time()
            times[f"{name}_s"].append(seconds(work))
            times[f"{name}_cpu_s"].append(time.process_time() - cpu)
    wall = paired_ratio(times["ours_s"], times["peer_s"])
    cpu = paired_ratio(times["ours_cpu_s"], times["peer_cpu_s"])
    return {**times, "load": round(load, 2), "ours_over_peer": wall, "ours_over_peer_cpu": cpu}


def extraction(
    backbone: Backbone, folder: Path, batch_size: int, repeats: int, *, n_threads: int
) -> dict[str, Any]:
    """Compare extraction from files with the forward passes alone on tensors that are ready.

    With as many threads as cores decoding takes time from the model; with one less it has a core, as beside a GPU.
    """
    chips = read_folder(folder)
    starts = range(0, len(chips), batch_size)
    ready = [
        read_batch(chips.pixels, range(s, min(s + batch_size, len(chips))), backbone.spec) for s in starts
    ]

    def bare() -> None:
        with torch.inference_mode():
            for batch in ready:
                backbone(batch)

    threads = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    found = in_turns(
        lambda: extract_features(backbone, chips.pixels, chips.ids, batch_size=batch_size), bare, repeats
    )
    torch.set_num_threads(threads)
    return {
        **found,
        "n_chips": len(chips),
        "n_threads": n_threads,
        "throughput_of_bare": 1 / found["ours_over_peer"],
        "throughput_of_bare_per_cpu_second": 1 / found["ours_over_peer_cpu"],
    }


def lora_step(
    open_model: Callable[[], Backbone], folder: Path, batch_size: int, steps: int, repeats: int
) -> dict[str, Any]:
    """Compare the time per step; what a training costs once cancels in the difference of two lengths.

    Training decodes a chip once and keeps it, so few chips are taken, all of which the short training sees.
    """
    chips = read_folder(folder).subset(np.arange(steps * batch_size))
    labels = torch.from_numpy(chips.labels)

    def objective() -> Classify:
        backbone = open_model()
        attach_lora(backbone, rank=8, alpha=8, seed=0)
        return Classify(backbone, N_CLASSES, log_prior=None, seed=0)

    def ours(n_steps: int) -> None:
        module = objective()
        samples = TrainingOrder(
            chips.pixels,
            {"labels": labels},
            spec=module.backbone.spec,
            n_samples=n_steps * batch_size,
            seed=0,
        )
        with tempfile.TemporaryDirectory() as scratch:
            train(
                module,
                samples,
                folder=Path(scratch),
                n_steps=n_steps,
                batch_size=batch_size,
                learning_rate=1e-3,
                checkpointing_steps=10**6,
            )

    def bare(n_steps: int) -> None:
        module = objective()
        spec = module.backbone.spec
        images = read_batch(chips.pixels, range(len(chips)), spec)
        parameters = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
        generator = torch.Generator().manual_seed(0)
        for _ in range(n_steps):
            rows = torch.randint(len(chips), (batch_size,), generator=generator)
            loss = module(pixels=images[rows], labels=labels[rows])["loss"]
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()

    times: dict[str, list[float]] = {"ours_s": [], "peer_s": []}
    for repeat in range(repeats + 1):
        pairs = {"peer_s": bare, "ours_s": ours}
        for name, work in pairs.items():
            short, long = seconds(lambda w=work: w(steps)), seconds(lambda w=work: w(3 * steps))
            if repeat:  # the first round warms up
                times[name].append((long - short) / (2 * steps))
    ratio = paired_ratio(times["ours_s"], times["peer_s"])
    return {**times, "batch_size": batch_size, "ours_over_peer": ratio}


def main() -> None:
    """Run both comparisons for every backbone at hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--efficientnet", type=Path)
    parser.add_argument("--galileo", type=Path)
    parser.add_argument("--chips", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    models: dict[str, tuple[Callable[[], Backbone], int]] = {
        "embedded": (lambda: load_backbone("embedded", path=None), 64)
    }
    if arguments.efficientnet:
        models["efficientnet-lite0"] = (
            lambda: load_backbone("efficientnet-lite0", path=arguments.efficientnet),
            112,
        )
    if arguments.galileo:
        models["galileo-nano"] = (lambda: load_backbone("galileo-nano", path=arguments.galileo), 128)
    machine = describe_machine("torch", "transformers", "peft", "accelerate")
    results: dict[str, Any] = {"machine": machine, "extraction": {}, "lora_step": {}}
    for name, (open_model, size) in models.items():
        with tempfile.TemporaryDirectory() as scratch:
            write_chips(Path(scratch), arguments.chips, size)
            for n_threads in sorted({1, torch.get_num_threads()}):
                results["extraction"][f"{name}, {n_threads} threads"] = extraction(
                    open_model(), Path(scratch), 64, arguments.repeats, n_threads=n_threads
                )
            results["lora_step"][name] = lora_step(open_model, Path(scratch), 32, 10, arguments.repeats)
        print(json.dumps(results, indent=1), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
