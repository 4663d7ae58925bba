"""Adapters through peft: attach, stack, save and load, with a sidecar that names what an adapter belongs to.

An adapter is a standard PEFT folder for ``Backbone.encoder``. ``base.json`` beside it records base, input and parent,
because PEFT leaves the base empty for modules that do not come from a hub.
"""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from deblora.errors import ArtifactError, ModelError
from deblora.files import folder_written_at_once
from deblora.models.adapters.files import (
    CONFIG,
    SIDECAR,
    WEIGHTS,
    adapter_sha256,
    changes_nothing,
    check_base,
    check_whole,
    identity,
    read_adapter,
    read_folder,
    sealed,
)
from deblora.models.adapters.kinds import (
    NO_STACK,
    PREFIXES,
    AdapterKind,
    config_from,
    is_of,
    peft_settings,
    refusal,
    suits,
)
from deblora.models.backbone import Backbone

log = logging.getLogger("deblora")
__all__ = [
    "CONFIG",
    "SIDECAR",
    "adapter_sha256",
    "attach_lora",
    "load_adapter",
    "n_trainable",
    "save_adapter",
    "stack_adapter",
]


def attach_lora(
    backbone: Backbone,
    *,
    rank: int,
    alpha: float,
    targets: tuple[str, ...] | None = None,
    dropout: float = 0.0,
    kind: AdapterKind = "lora",
    n_steps: int | None = None,
    adapter_name: str = "stage0",
    seed: int,
) -> None:
    """Attach a fresh adapter: ``y = W x + (alpha / rank) B A x`` with ``B = 0``, so nothing changes yet.

    Only the adapter is trainable afterwards. Other kinds than ``lora`` start from the identity as well (PiSSA up to
    rounding); see :mod:`deblora.models.adapters.kinds`.

    Args:
        backbone: Changed in place.
        rank: Inner size, >= 1.
        alpha: LoRA alpha; equal to ``rank`` for a factor of 1.
        targets: Names, or endings of names, of modules to adapt; the backbone's own list if ``None``.
        dropout: On the adapter's input, while training.
        kind: Kind of the adapter.
        n_steps: Steps of the training, which AdaLoRA's schedule needs.
        adapter_name: Name inside the peft model.
        seed: Seed of ``A``.

    Raises:
        ModelError: If a target matches no Linear or Conv2d, or a layer that the kind cannot adapt.
    """
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        names = _resolve(backbone, targets, kind)
        config = peft_settings(kind, rank=rank, alpha=alpha, targets=names, dropout=dropout, n_steps=n_steps)
        backbone.encoder = get_peft_model(backbone.encoder, config, adapter_name=adapter_name)
    backbone.encoder.eval()


def stack_adapter(
    backbone: Backbone,
    *,
    rank: int,
    alpha: float,
    targets: tuple[str, ...] | None = None,
    kind: AdapterKind = "lora",
    adapter_name: str = "deblora",
    seed: int,
) -> None:
    """Put a second adapter on the same modules: both are active, only the new one is trainable.

    Raises:
        ModelError: If there is no first adapter, a target matches nothing, or the kind allows no second one.
    """
    peft_model = _peft_model(backbone)
    first = list(peft_model.peft_config)
    kinds = [str(config.peft_type).rpartition(".")[2].lower() for config in peft_model.peft_config.values()]
    if any(name in NO_STACK for name in (kind, *kinds)):
        raise ModelError(
            "no second adapter can be trained on top of adalora; set deblora.placement to fresh, residual or "
            "residual-mlp"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings = peft_settings(kind, rank=rank, alpha=alpha, targets=_resolve(backbone, targets, kind))
        peft_model.add_adapter(adapter_name, settings)
    _activate(backbone, [*first, adapter_name], trainable=adapter_name)


def save_adapter(backbone: Backbone, adapter_name: str, folder: Path, sidecar: dict[str, object]) -> None:
    """Write a PEFT folder and its ``base.json``, atomically: the folder is complete or absent.

    Args:
        backbone: Holds the adapter.
        adapter_name: Which one.
        folder: Replaced if it exists.
        sidecar: Added to ``base.json`` (classes, groups, seed, settings).
    """
    peft_model = _peft_model(backbone)
    with folder_written_at_once(folder) as written:
        try:
            peft_model.save_pretrained(str(written), selected_adapters=[adapter_name])
        except SafetensorError as error:  # how safetensors reports a full disk
            raise ArtifactError(f"{folder} cannot be written ({error}); free space and go on") from error
        if (written / adapter_name / CONFIG).is_file():
            for file in (written / adapter_name).iterdir():
                file.replace(written / file.name)
            (written / adapter_name).rmdir()
        config = json.loads((written / CONFIG).read_text())
        if isinstance(config.get("target_modules"), list):
            config["target_modules"] = sorted(
                config["target_modules"]
            )  # a set, in the order of the hash seed
        (written / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True))
        others = [name for name in peft_model.base_model.active_adapters if name != adapter_name]
        weights = read_adapter(written)
        wrong = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
        if wrong:
            raise ModelError(
                f"training has left NaN or infinite weights, first in {wrong[0]}; lower the learning rate"
            )
        record = {
            **identity(backbone),
            "parents": {n: _state_sha256(backbone, n) for n in others},
            "modules": _modules(weights),
            **({"changes_nothing": True} if changes_nothing(weights) else {}),
            "files": sealed(written, WEIGHTS, CONFIG),
            **sidecar,
        }
        (written / SIDECAR).write_text(json.dumps(record, indent=1, default=str))
        (written / WEIGHTS).chmod((written / SIDECAR).stat().st_mode)


def load_adapter(
    backbone: Backbone,
    folder: Path,
    *,
    adapter_name: str,
    trainable: bool = False,
) -> None:
    """Load an adapter onto the model it was trained on, together with the adapters it was trained on top of.

    Args:
        backbone: Changed in place.
        folder: Holds the adapter.
        adapter_name: Name inside the peft model.
        trainable: Whether it is trained further.

    Raises:
        ModelError: If files are missing, damaged, changed or pickled, or the base or a parent adapter is another one.
    """
    config, record = read_folder(folder)
    check_base(backbone, record, folder)
    weights = read_adapter(folder)
    from peft import get_peft_model, set_peft_model_state_dict

    loaded = list(_peft_model(backbone).peft_config) if hasattr(backbone.encoder, "peft_config") else []
    parents = record.get("parents") or {}
    if not isinstance(parents, dict):
        raise ModelError(f"{folder / SIDECAR}: parents must be a table; train the adapter again")
    if sorted(parents) != sorted(loaded) or any(_state_sha256(backbone, n) != parents[n] for n in parents):
        raise ModelError(
            f"the adapter {folder} was trained on top of {sorted(parents) or 'no other adapter'}, "
            f"but the model carries {sorted(loaded) or 'none'} with other weights; load its own parent first"
        )
    try:
        settings = config_from(config)
        with torch.random.fork_rng(devices=[]):
            if loaded:
                backbone.encoder.add_adapter(adapter_name, settings)  # type: ignore[operator]
            else:
                backbone.encoder = get_peft_model(backbone.encoder, settings, adapter_name=adapter_name)
        found = set_peft_model_state_dict(backbone.encoder, weights, adapter_name=adapter_name)
    except (ValueError, RuntimeError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise ModelError(f"the adapter {folder} does not fit the model: {str(error)[:300]}") from error
    if found.unexpected_keys:
        raise ModelError(
            f"the adapter {folder} holds weights for other modules, first: {found.unexpected_keys[0]}"
        )
    absent = [key for key in found.missing_keys if is_of(key, adapter_name)]
    if absent:
        raise ModelError(
            f"the adapter {folder} lacks {len(absent)} weights, first: {absent[0]}; train it again"
        )
    check_whole(folder, record, weights)
    _activate(backbone, [*loaded, adapter_name], trainable=adapter_name if trainable else None)


def n_trainable(module: nn.Module) -> int:
    """Count the numbers that training changes."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _resolve(backbone: Backbone, targets: tuple[str, ...] | None, kind: AdapterKind) -> list[str]:
    """Return full module names; a target may be a full name or the end of one.

    A layer that cuts the image into patches is taken by its full name only: ``proj`` means projections of attention.
    """
    layers = _layers(backbone)
    names = [name for name, layer in layers.items() if suits(kind, layer)]
    wanted = targets if targets is not None else backbone.lora_targets
    chosen, unknown = set(), []
    for target in wanted:
        ends = [name for name in layers if name.endswith(f".{target}")]
        hits = [name for name in layers if name == target] + [
            name for name in ends if not _cuts_patches(name, layers[name], backbone)
        ]
        if ends and not hits:
            raise ModelError(
                f"lora.targets {target} matches {ends[0]} only, which cuts the image into patches; give its full name "
                "to adapt it"
            )
        refused = [name for name in hits if name not in names]
        if refused and (targets is not None or isinstance(layers[refused[0]], (nn.Linear, nn.Conv2d))):
            raise ModelError(refusal(kind, refused[0], layers[refused[0]]))
        chosen.update(hits)
        if not hits:
            unknown.append(target)
    if unknown or not chosen:
        endings = sorted({name.split(".")[-1] for name in names})
        if targets is None:
            raise ModelError(
                f"no layer of {backbone.name} is known to suit an adapter; set lora.targets to some of "
                f"{', '.join(endings)}"
            )
        raise ModelError(
            f"lora.targets {unknown or list(wanted)} match no layer; layers end in {', '.join(endings)}"
        )
    log.info("the adapter changes %d layers: %s", len(chosen), ", ".join(_short(sorted(chosen))))
    return sorted(chosen)


def _cuts_patches(name: str, layer: nn.Module, backbone: Backbone) -> bool:
    """Tell whether a layer makes patches of pixels: by its name, or a convolution of bands without overlap."""
    if any(part.startswith("patch_embed") for part in name.split(".")):
        return True
    if not isinstance(layer, nn.Conv2d) or layer.in_channels != backbone.spec.n_bands:
        return False
    return layer.kernel_size == layer.stride and layer.kernel_size != (1, 1)


def _modules(weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the modules that weights of a saved adapter belong to."""
    found = {re.split(r"\.(?:lora|hada|lokr|vera)_", key)[0] for key in weights if ".base_layer" not in key}
    return sorted(name.removeprefix("base_model.model.") for name in found)


def _short(names: Sequence[str]) -> list[str]:
    """Write names that differ in numbers only as one, with their count."""
    counts = Counter(re.sub(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", "*", name) for name in names)
    return [name if n == 1 else f"{name} ({n})" for name, n in counts.items()]


def _layers(backbone: Backbone) -> dict[str, nn.Module]:
    """Return the modules of the base model without children, by name; adapters on them are looked through."""
    module: Any = backbone.encoder
    inner = module.base_model.model if hasattr(module, "peft_config") else module
    found: dict[str, nn.Module] = {}
    for name, layer in inner.named_modules():
        base = getattr(layer, "base_layer", layer)
        clean = name.removesuffix(".base_layer")
        is_leaf = base is not layer or not any(True for _ in layer.children())
        if is_leaf and not any(prefix in clean for prefix in PREFIXES):
            found.setdefault(clean, base)
    return found


def _peft_model(backbone: Backbone) -> Any:
    if not hasattr(backbone.encoder, "peft_config"):
        raise ModelError("the model carries no adapter; attach or load one first")
    return backbone.encoder


def _activate(backbone: Backbone, names: list[str], *, trainable: str | None) -> None:
    """Make adapters active; peft makes them all trainable, so freeze the others again."""
    backbone.encoder.base_model.set_adapter(names)  # type: ignore[union-attr, operator]
    for name, parameter in backbone.encoder.named_parameters():
        parameter.requires_grad_(trainable is not None and is_of(name, trainable))
    backbone.encoder.eval()


def _state_sha256(backbone: Backbone, adapter_name: str) -> str:
    """Hash an adapter's weights in memory."""
    digest = hashlib.sha256()
    for name, parameter in sorted(backbone.encoder.named_parameters()):
        if is_of(name, adapter_name):
            digest.update(name.replace(f".{adapter_name}", "").encode())
            digest.update(parameter.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
