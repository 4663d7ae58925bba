"""LoRA adapters through peft: attach, stack, save and load, with a sidecar that names what an adapter belongs to.

An adapter is a standard PEFT folder for ``Backbone.encoder``. ``base.json`` beside it records base, input and parent,
because PEFT leaves the base empty for modules that do not come from a hub.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from deblora.artifacts import file_sha256
from deblora.errors import ArtifactError, ModelError
from deblora.models.backbone import Backbone

WEIGHTS, CONFIG, SIDECAR = "adapter_model.safetensors", "adapter_config.json", "base.json"


def attach_lora(
    backbone: Backbone,
    *,
    rank: int,
    alpha: float,
    targets: tuple[str, ...] | None = None,
    dropout: float = 0.0,
    adapter_name: str = "stage0",
    seed: int,
) -> None:
    """Attach a fresh adapter: ``y = W x + (alpha / rank) B A x`` with ``B = 0``, so nothing changes yet.

    Only the adapter is trainable afterwards.

    Args:
        backbone: Changed in place.
        rank: Inner size, >= 1.
        alpha: LoRA alpha; equal to ``rank`` for a factor of 1.
        targets: Names, or endings of names, of modules to adapt; the backbone's own list if ``None``.
        dropout: On the adapter's input, while training.
        adapter_name: Name inside the peft model.
        seed: Seed of ``A``.

    Raises:
        ModelError: If a target matches no Linear or Conv2d.
    """
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = _config(rank, alpha, _resolve(backbone, targets), dropout)
        backbone.encoder = get_peft_model(backbone.encoder, config, adapter_name=adapter_name)
    backbone.encoder.eval()


def stack_adapter(
    backbone: Backbone,
    *,
    rank: int,
    alpha: float,
    targets: tuple[str, ...] | None = None,
    adapter_name: str = "deblora",
    seed: int,
) -> None:
    """Put a second adapter on the same modules: both are active, only the new one is trainable.

    Raises:
        ModelError: If there is no first adapter, or a target matches nothing.
    """
    peft_model = _peft_model(backbone)
    first = list(peft_model.peft_config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft_model.add_adapter(adapter_name, _config(rank, alpha, _resolve(backbone, targets), 0.0))
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
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        try:
            peft_model.save_pretrained(str(staging), selected_adapters=[adapter_name])
        except SafetensorError as error:  # how safetensors reports a full disk
            raise ArtifactError(f"{folder} cannot be written ({error}); free space and go on") from error
        written = staging / adapter_name if (staging / adapter_name / CONFIG).is_file() else staging
        config = json.loads((written / CONFIG).read_text())
        if isinstance(config.get("target_modules"), list):
            config["target_modules"] = sorted(
                config["target_modules"]
            )  # a set, in the order of the hash seed
        (written / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True))
        others = [name for name in peft_model.base_model.active_adapters if name != adapter_name]
        record = {
            **_identity(backbone),
            "parents": {n: _state_sha256(backbone, n) for n in others},
            **sidecar,
        }
        (written / SIDECAR).write_text(json.dumps(record, indent=1, default=str))
        (written / WEIGHTS).chmod(0o644)
        if folder.exists():
            shutil.rmtree(folder)
        written.chmod(0o755)
        written.replace(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def load_adapter(backbone: Backbone, folder: Path, *, adapter_name: str, trainable: bool = False) -> None:
    """Load an adapter onto the model it was trained on, beside adapters that are already there.

    Raises:
        ModelError: If files are missing, damaged or pickled, or the base or a parent adapter is another one.
    """
    config, record = _read(folder)
    _check_base(backbone, record, folder)
    weights = _read_weights(folder)
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    here = [] if not hasattr(backbone.encoder, "peft_config") else list(_peft_model(backbone).peft_config)
    parents = record.get("parents") or {}
    if not isinstance(parents, dict):
        raise ModelError(f"{folder / SIDECAR}: parents must be a table; train the adapter again")
    if sorted(parents) != sorted(here) or any(_state_sha256(backbone, n) != parents[n] for n in parents):
        raise ModelError(
            f"the adapter {folder} was trained on top of {sorted(parents) or 'no other adapter'}, "
            f"but the model carries {sorted(here) or 'none'} with other weights; load its own parent first"
        )
    try:
        settings = LoraConfig(**{k: v for k, v in config.items() if k in LoraConfig.__dataclass_fields__})
        with torch.random.fork_rng(devices=[]):
            if here:
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
    absent = [key for key in found.missing_keys if f".{adapter_name}." in key and "lora_" in key]
    if absent:
        raise ModelError(
            f"the adapter {folder} lacks {len(absent)} weights, first: {absent[0]}; train it again"
        )
    _activate(backbone, [*here, adapter_name], trainable=adapter_name if trainable else None)


def merge_adapters(backbone: Backbone) -> None:
    """Add the active adapters to the weights they adapt, so that a forward pass costs what the bare model costs.

    Features stay the same up to float rounding. Meant for extraction: a merged model is neither trained nor saved.

    Raises:
        ModelError: If the model carries no adapter.
    """
    _peft_model(backbone).merge_adapter()


def adapter_sha256(folder: Path) -> str:
    """Return the hash of a saved adapter's weights.

    Raises:
        ModelError: If there are none.
    """
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} holds no adapter ({WEIGHTS} is missing)")
    return file_sha256(folder / WEIGHTS)


def n_trainable(module: nn.Module) -> int:
    """Count the numbers that training changes."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _config(rank: int, alpha: float, targets: list[str], dropout: float) -> Any:
    from peft import LoraConfig

    scale = int(alpha) if float(alpha).is_integer() else alpha
    return LoraConfig(r=rank, lora_alpha=scale, target_modules=targets, lora_dropout=dropout, bias="none")


def _resolve(backbone: Backbone, targets: tuple[str, ...] | None) -> list[str]:
    """Return full module names; a target may be a full name or the end of one."""
    names = _adaptable(backbone)
    wanted = targets if targets is not None else backbone.lora_targets
    chosen, unknown = set(), []
    for target in wanted:
        hits = [name for name in names if name == target or name.endswith(f".{target}")]
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
    return sorted(chosen)


def _adaptable(backbone: Backbone) -> list[str]:
    module: Any = backbone.encoder
    inner = module.base_model.model if hasattr(module, "peft_config") else module
    found = []
    for name, layer in inner.named_modules():
        layer = getattr(layer, "base_layer", layer)
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            clean = name.removesuffix(".base_layer")
            if "lora_" not in clean and clean not in found:
                found.append(clean)
    return found


def _peft_model(backbone: Backbone) -> Any:
    if not hasattr(backbone.encoder, "peft_config"):
        raise ModelError("the model carries no adapter; attach or load one first")
    return backbone.encoder


def _activate(backbone: Backbone, names: list[str], *, trainable: str | None) -> None:
    """Make adapters active; peft makes them all trainable, so freeze the others again."""
    backbone.encoder.base_model.set_adapter(names)  # type: ignore[union-attr, operator]
    for name, parameter in backbone.encoder.named_parameters():
        parameter.requires_grad_(trainable is not None and f".{trainable}." in name and "lora_" in name)
    backbone.encoder.eval()


def _identity(backbone: Backbone) -> dict[str, object]:
    spec = backbone.spec
    return {
        "base": backbone.name,
        "weights_sha256": backbone.weights_sha256,
        "n_bands": spec.n_bands,
        "image_size": spec.image_size,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "scale": spec.scale,
        "pool": backbone.pool,
        "feature_size": backbone.feature_size,
    }


def _state_sha256(backbone: Backbone, adapter_name: str) -> str:
    """Hash an adapter's weights in memory."""
    digest = hashlib.sha256()
    for name, parameter in sorted(backbone.encoder.named_parameters()):
        if f".{adapter_name}." in name and "lora_" in name:
            digest.update(name.replace(f".{adapter_name}.", ".").encode())
            digest.update(parameter.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    if not (folder / WEIGHTS).is_file() and (folder / "adapter_model.bin").is_file():
        raise ModelError(
            f"{folder / 'adapter_model.bin'} is a pickle, which can run code; load it once where you trust it with "
            "torch.load(..., weights_only=True) and save it with safetensors.torch.save_file"
        )
    tables = []
    for name in (CONFIG, SIDECAR):
        try:
            table = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{folder} is not an adapter of deblora: {name} is missing or damaged; train it with deblora, which "
                f"writes {SIDECAR} beside the files of peft"
            ) from error
        if not isinstance(table, dict):
            raise ModelError(f"{folder / name} must hold a JSON object; train the adapter again")
        tables.append(table)
    return tables[0], tables[1]


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{folder / WEIGHTS} is missing or damaged ({error}); train the adapter again"
        ) from error


def _check_base(backbone: Backbone, record: dict[str, Any], folder: Path) -> None:
    wrong = [
        f"{key} {record.get(key)!r} (adapter) and {value!r} (model)"
        for key, value in _identity(backbone).items()
        if record.get(key) != value
    ]
    if wrong:
        raise ModelError(
            f"the adapter {folder} belongs to another model: "
            + "; ".join(wrong)
            + "; load the model that base.json names"
        )
