"""Tiny inputs that several tests share: a long-tailed folder of PNG chips, a tiny ViT and a recipe for both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

CLASSIFIERS = (
    "cross_entropy",
    "balanced_softmax",
    "logit_adjustment",
    "gaussians_lora",
    "gaussians_both",
    "text",
    "own_logits",
    "pseudo_labeled",
)
"""The cheap ones."""
COUNTS = {"checks": 40, "rows": 20, "slope": 8}  # long-tailed


def draw(name: str, rng: np.random.Generator) -> np.ndarray:
    """Return a noisy 16 x 16 RGB pattern."""
    y, x = np.mgrid[:16, :16]
    pattern = {"checks": ((x // 4 + y // 4) % 2) * 160, "rows": (y // 2 % 2) * 160, "slope": x * 10}[name]
    return np.clip(pattern[..., None] + rng.integers(0, 60, (16, 16, 3)), 0, 255).astype(np.uint8)


def write_chips(folder: Path, *, seed: int = 0, counts: dict[str, int] = COUNTS) -> Path:
    """Write ``folder/<class>/<number>.png``."""
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(draw(name, rng)).save(folder / name / f"{i:03d}.png")
    return folder


def write_vit(folder: Path, *, seed: int = 0, **settings: Any) -> Path:
    """Write a Hugging Face folder with an untrained ViT for 16 x 16 chips; features have 16 dimensions."""
    import transformers

    small = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 16,
        "patch_size": 8,
    }
    torch.manual_seed(seed)
    transformers.ViTModel(transformers.ViTConfig(**{**small, **settings})).save_pretrained(folder)
    return folder


def recipe_values(source: Path, model: Path) -> dict[str, Any]:
    """Return a recipe that runs in seconds."""
    return {
        "data": {"source": str(source)},
        "backbone": {"name": "huggingface", "path": str(model)},
        "lora": {"rank": 2, "max_train_steps": 6, "train_batch_size": 8},
        "cluster": {"n_clusters": 4, "rho": 4.0},
        "calibrate": {"numerator": 1.0},
        "deblora": {"max_train_steps": 4, "train_batch_size": 4},
        "evaluate": {"n_bootstrap": 100, "classifiers": list(CLASSIFIERS)},
    }


def write_recipe(path: Path, values: dict[str, Any]) -> Path:
    """Write a recipe as YAML."""
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def write_toy_queue(
    root: Path,
    *,
    run: str = "0" * 16,
    ids: Sequence[str] = (),
    names: Sequence[str] = tuple(COUNTS),
    **notes: Any,
):
    """Write a queue of these chips, or of six that lie nowhere; pictures are gray."""
    from deblora.pipeline.classify.queue import Queue, QueueChip, QueueClass, write_queue

    groups = ("head", "middle", "tail")
    classes = tuple(QueueClass(name, groups[min(i, 2)], 3 - min(i, 2)) for i, name in enumerate(names))
    ids = ids or tuple(f"scene/{i}.png" for i in range(6))
    chips = tuple(
        QueueChip(own, f"/pool/{own}", names[i % len(names)], 0.5, groups[min(i % len(names), 2)])
        for i, own in enumerate(ids)
    )
    about = {
        "run_folder": "runs/mine",
        "pool": "/pool",
        "strategy": "half-sure",
        "n": len(ids),
        "seed": 0,
        **notes,
    }
    queue = Queue(root, run, classes=classes, chips=chips, **about)
    write_queue(queue, (np.full((300, 20, 3), 20 * i % 255, dtype=np.uint8) for i in range(len(chips))))
    return queue
