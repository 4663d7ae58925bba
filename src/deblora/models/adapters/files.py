"""The folder of a saved adapter: what lies in it, and whether it belongs to a model."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from deblora.errors import ModelError
from deblora.files import file_sha256
from deblora.models.backbone import Backbone

log = logging.getLogger("deblora")
WEIGHTS, CONFIG, SIDECAR = "adapter_model.safetensors", "adapter_config.json", "base.json"


def adapter_sha256(folder: Path) -> str:
    """Return the hash of a saved adapter's weights.

    Raises:
        ModelError: If there are none.
    """
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} holds no adapter ({WEIGHTS} is missing)")
    return file_sha256(folder / WEIGHTS)


def identity(backbone: Backbone) -> dict[str, object]:
    """Return what an adapter is bound to: the model, its weights and how it sees chips."""
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


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configuration and the sidecar of an adapter.

    Raises:
        ModelError: If a file is missing, damaged or a pickle.
    """
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


def sealed(folder: Path, *names: str) -> dict[str, str]:
    """Return the hashes of files of an adapter, which its sidecar holds as ``files``."""
    return {name: file_sha256(folder / name) for name in names}


def changes_nothing(weights: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether every ``B`` of a LoRA adapter is zero, as before its training."""
    factors = [weight for name, weight in weights.items() if ".lora_B." in name]
    return bool(factors) and not any(weight.any() for weight in factors)


def check_whole(folder: Path, record: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
    """Check that settings and weights are those that were saved together, and that they do something.

    An adapter whose ``B`` is zero passes with a warning if it was saved like that: none was trained, or nothing moved.

    Raises:
        ModelError: If a file has another hash than its sidecar says, a value is not finite, or every ``B`` is zero
            though the adapter was trained.
    """
    wrong = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
    if wrong:
        raise ModelError(
            f"{folder / WEIGHTS} holds NaN or infinite values, first in {wrong[0]}; train the adapter again, with a "
            "lower learning rate"
        )
    empty = changes_nothing(weights)
    if empty and not record.get("changes_nothing"):
        raise ModelError(
            f"{folder / WEIGHTS}: every lora_B is zero, so the adapter does nothing; train it again"
        )
    files = record.get("files") or {}
    if not isinstance(files, dict):
        raise ModelError(f"{folder / SIDECAR}: files must be a table; train the adapter again")
    changed = [name for name, digest in files.items() if sealed(folder, Path(name).name) != {name: digest}]
    if changed:
        raise ModelError(
            f"{folder / changed[0]} is not the file that was saved with {SIDECAR}: it was changed, or is of another "
            "adapter; restore it, or train the adapter again"
        )
    if empty:
        log.warning("the adapter %s changes nothing: every lora_B is zero", folder)


def read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of an adapter.

    Raises:
        ModelError: If they are missing or damaged.
    """
    from safetensors.torch import load_file

    try:
        return load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{folder / WEIGHTS} is missing or damaged ({error}); train the adapter again"
        ) from error


def check_base(backbone: Backbone, record: dict[str, Any], folder: Path) -> None:
    """Refuse an adapter of another model.

    Raises:
        ModelError: Names everything that differs.
    """
    wrong = [
        f"{key} {record.get(key)!r} (adapter) and {value!r} (model)"
        for key, value in identity(backbone).items()
        if record.get(key) != value
    ]
    if wrong:
        raise ModelError(
            f"the adapter {folder} belongs to another model: "
            + "; ".join(wrong)
            + "; load the model that base.json names"
        )
