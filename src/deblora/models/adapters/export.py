"""Adapters as one file or folder for other tools: stacked adapters joined, scales folded into the weights.

A stack of LoRA adapters is one LoRA of the summed rank::

    s1 B1 A1 + s2 B2 A2 = [s1 B1, s2 B2] [A1; A2],    s = alpha / r, or alpha / sqrt(r) for rsLoRA

Exports therefore always have alpha = rank and factor 1. Tools that do not read alpha (it lies in the metadata of the
file, which many skip) give the same pictures as those that do.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save

from deblora.errors import ModelError
from deblora.files import write_atomic
from deblora.models.adapters.files import (
    CONFIG,
    SIDECAR,
    WEIGHTS,
    check_whole,
    read_adapter,
    read_folder,
    sealed,
)

DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for
DIFFUSERS_METADATA = "lora_adapter_metadata"
PEFT_PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
# Settings of peft under which an adapter is more than W + s B A.
BEYOND_LORA = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "alora_invocation_tokens",
)


@dataclass(frozen=True)
class JoinedLora:
    """One LoRA of factor 1.

    Args:
        down: ``A`` by module name, ``r in`` (or ``r in k k`` for a convolution).
        up: ``B`` by module name, ``out r`` (or ``out r 1 1``).
        rank: Inner size of every module.
        record: What ``base.json`` of the topmost adapter says.
    """

    down: dict[str, Float[torch.Tensor, "r ..."]]
    up: dict[str, Float[torch.Tensor, "o r ..."]]
    rank: int
    record: dict[str, Any]


def join_adapters(folders: tuple[Path, ...]) -> JoinedLora:
    """Join adapters that act together; a module that one of them leaves alone gets zeros there.

    Args:
        folders: Adapter folders, the first one attached first; at least one.

    Raises:
        ModelError: If an adapter is damaged, is no plain LoRA, or was trained on top of others than those before it.
    """
    loaded = [_plain(folder) for folder in folders]
    for position, (folder, (_, _, record)) in enumerate(zip(folders, loaded, strict=True)):
        parents = record.get("parents") or {}
        if sorted(parents.values()) != sorted(weights_digest(below) for below in folders[:position]):
            raise ModelError(
                f"{folder} was trained on top of {sorted(parents) or 'no other adapter'}; export it together with "
                "these and no others"
            )
    ranks = [int(config["r"]) for config, _, _ in loaded]
    down, up = {}, {}
    for module in sorted({key.removesuffix(DOWN) for _, w, _ in loaded for key in w if key.endswith(DOWN)}):
        a, b = next((w[module + DOWN], w[module + UP]) for _, w, _ in loaded if module + DOWN in w)
        name = module.removeprefix(PEFT_PREFIX)
        down[name] = torch.cat(
            [
                w.get(module + DOWN, a.new_zeros(r, *a.shape[1:])).float()
                for r, (_, w, _) in zip(ranks, loaded, strict=True)
            ]
        )
        up[name] = torch.cat(
            [
                _scale(config) * w.get(module + UP, b.new_zeros(len(b), r, *b.shape[2:])).float()
                for r, (config, w, _) in zip(ranks, loaded, strict=True)
            ],
            dim=1,
        )
    return JoinedLora(down, up, sum(ranks), loaded[-1][2])


def of_diffusers(lora: JoinedLora) -> bool:
    """Tell whether diffusers has a model that the adapter belongs to: Stable Diffusion's UNet."""
    return lora.record.get("base") == "stable-diffusion"


def write_diffusers(lora: JoinedLora, folder: Path) -> Path:
    """Write a LoRA file that ``StableDiffusionPipeline.load_lora_weights(folder)`` reads.

    Returns:
        The file.

    Raises:
        ModelError: If the adapter does not belong to Stable Diffusion's UNet.
    """
    if not of_diffusers(lora):
        raise ModelError(
            f"the adapter belongs to {lora.record.get('base')}, which diffusers does not know; export it with "
            "--format peft, or leave --format out"
        )
    weights = {f"unet.{name}{DOWN}": a for name, a in lora.down.items()}
    weights |= {f"unet.{name}{UP}": b for name, b in lora.up.items()}
    settings = {f"unet.{key}": value for key, value in _config(lora).items()}
    metadata = {"format": "pt", DIFFUSERS_METADATA: json.dumps(settings, indent=2, sort_keys=True)}
    write_atomic(folder / DIFFUSERS_WEIGHTS, save(weights, metadata=metadata))
    _write_record(lora, folder, DIFFUSERS_WEIGHTS)
    return folder / DIFFUSERS_WEIGHTS


def write_peft(lora: JoinedLora, folder: Path) -> Path:
    """Write a standard PEFT folder, without any other adapter below it.

    Returns:
        The file with the weights.
    """
    weights = {f"{PEFT_PREFIX}{name}{DOWN}": a for name, a in lora.down.items()}
    weights |= {f"{PEFT_PREFIX}{name}{UP}": b for name, b in lora.up.items()}
    config = {
        "peft_type": "LORA",
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
        **_config(lora),
    }
    write_atomic(folder / WEIGHTS, save(weights, metadata={"format": "pt"}))
    write_atomic(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True))
    _write_record(lora, folder, WEIGHTS, CONFIG)
    return folder / WEIGHTS


def weights_digest(folder: Path) -> str:
    """Return the hash by which ``base.json`` of a stacked adapter names the one below it.

    Raises:
        ModelError: If the weights are missing or damaged.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(read_adapter(folder).items()):
        digest.update(name.encode())
        digest.update(tensor.float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _config(lora: JoinedLora) -> dict[str, Any]:
    return {"r": lora.rank, "lora_alpha": lora.rank, "target_modules": sorted(lora.down)}


def _write_record(lora: JoinedLora, folder: Path, *files: str) -> None:
    own = {"parents": {}, "modules": sorted(lora.down), "files": sealed(folder, *files)}
    write_atomic(folder / SIDECAR, json.dumps({**lora.record, **own}, indent=1))


def _plain(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, Any]]:
    """Return settings, weights and record of an adapter that is ``W + s B A`` and nothing else."""
    config, record = read_folder(folder)
    weights = read_adapter(folder)
    beyond = [name for name in BEYOND_LORA if config.get(name)]
    start = config.get("init_lora_weights", True)
    if config.get("peft_type") != "LORA" or beyond or start not in (True, False, "gaussian"):
        kind = ", ".join(beyond) or (config.get("peft_type") if config.get("peft_type") != "LORA" else start)
        raise ModelError(
            f"{folder} is no plain LoRA ({kind}); only plain LoRA can be exported to other tools"
        )
    odd = [key for key in weights if not key.endswith((DOWN, UP)) or not key.startswith(PEFT_PREFIX)]
    if odd or not weights or not isinstance(config.get("r"), int):
        raise ModelError(
            f"{folder} holds more than LoRA weights, first: {(odd or ['nothing'])[0]}; train it again"
        )
    for name in sorted({key.removesuffix(DOWN).removesuffix(UP) for key in weights}):
        a, b = weights.get(name + DOWN), weights.get(name + UP)
        if a is None or b is None or (len(a), b.shape[1:2]) != (config["r"], (config["r"],)):
            raise ModelError(
                f"{folder}: the factors of {name} are incomplete, or not of rank {config['r']}; train it again"
            )
    check_whole(folder, record, weights)
    return config, weights, record


def _scale(config: dict[str, Any]) -> float:
    rank, alpha = float(config["r"]), float(config.get("lora_alpha", config["r"]))
    return alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
