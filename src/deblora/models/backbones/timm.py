"""Models of timm, as an extra: any architecture it knows, with weights from a local safetensors file."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from deblora.errors import ModelError
from deblora.files import file_sha256
from deblora.models.backbone import Backbone, InputSpec
from deblora.models.backbones.layers import adapter_targets, check_pool
from deblora.models.weights import HALF, read_json, read_weights, weights_file

HEADS = ("head.", "head_dist.", "fc.", "classifier.", "last_linear.")  # classifiers, which give no feature


def load(
    path: Path, *, image_size: int | None = None, pool: str = "mean", model: str | None = None
) -> Backbone:
    """Load a model of timm without its classifier.

    Args:
        path: Safetensors file in timm's names, or a folder with ``model.safetensors`` and, as on the hub,
            ``config.json``.
        image_size: Pixels per side; transformers of timm interpolate their position codes.
        pool: ``mean`` of the patch tokens or of the map, or the ``cls`` token.
        model: Architecture, such as ``vit_small_patch16_224``; that of ``config.json`` if ``None``.

    Raises:
        ModelError: If timm is not installed or cannot be imported, the architecture is unknown, or the weights do not
            fit it.
    """
    timm, file = _timm(), weights_file(path)
    config = _config(path)
    name = model or config.get("architecture")
    if not isinstance(name, str):
        raise ModelError(
            f"backbone.model is not set and {path} has no config.json of timm that names the architecture; set "
            "backbone.model, for example to vit_small_patch16_224"
        )
    network = _create(timm, name)
    facts = {**getattr(network, "pretrained_cfg", {}), **config.get("pretrained_cfg", {})}
    native = int((facts.get("input_size") or (3, 224, 224))[-1])
    size = image_size or native
    if size != native and hasattr(network, "patch_embed"):
        network = _create(timm, name, dynamic_img_size=True)
    _fill(network, read_weights(file), file, name)
    network.eval()
    check_pool(network, pool, f"timm {name}")
    mean, std = (tuple(map(float, facts.get(key) or HALF)) for key in ("mean", "std"))
    spec = InputSpec(3, size, mean, std, 255.0)
    n_prefix, width = int(getattr(network, "num_prefix_tokens", 0)), int(network.num_features)

    def features(module: Any, pixels: Float[torch.Tensor, "b c h w"]) -> Float[torch.Tensor, "b d"]:
        return pool_features(module.forward_features(pixels), pool, n_prefix=n_prefix, width=width)

    with torch.inference_mode():
        feature_size = int(features(network, torch.zeros(1, 3, size, size)).shape[1])
    return Backbone(
        network,
        features,
        spec=spec,
        feature_size=feature_size,
        name=f"timm {name}",
        weights_sha256=file_sha256(file),
        lora_targets=adapter_targets(network),
        pool=pool,
    )


def pool_features(
    output: torch.Tensor, pool: str, *, n_prefix: int, width: int
) -> Float[torch.Tensor, "b d"]:
    """Pool what ``forward_features`` returns: tokens, or a map with its channels first or (Swin) last."""
    if output.ndim == 3:
        return output[:, 0] if pool == "cls" else output[:, n_prefix:].mean(dim=1)
    if output.ndim == 4:
        return output.mean(dim=(2, 3)) if output.shape[1] == width else output.mean(dim=(1, 2))
    return output


def _timm() -> Any:
    try:
        return import_module("timm")
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another build
        raise ModelError(
            f"backbone.name timm needs timm ({error}): pip install 'deblora[timm]'. It imports torchvision, and the "
            "torchvision of PyPI is built for CUDA: beside a CPU build of torch it breaks timm, transformers and peft "
            "alike. Install the torchvision that belongs to your torch from the same index as torch first, or use "
            "backbone.name huggingface, which needs neither"
        ) from error


def _create(timm: Any, name: str, **options: Any) -> Any:
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **options)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"timm cannot make backbone.model {name} ({str(error)[:200]}); see timm.list_models()"
        ) from error


def _config(path: Path) -> dict[str, Any]:
    file = (path if path.is_dir() else path.parent) / "config.json"
    return read_json(file) if file.is_file() else {}


def _fill(network: nn.Module, weights: dict[str, torch.Tensor], file: Path, name: str) -> None:
    kept = {key: value for key, value in weights.items() if not key.startswith(HEADS)}
    try:
        found = network.load_state_dict(kept, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{file} does not fit timm's {name}: {str(error)[:300]}") from error
    wrong = [key for key in (*found.missing_keys, *found.unexpected_keys) if not key.startswith(HEADS)]
    if wrong:
        raise ModelError(
            f"{file} does not fit timm's {name}: {len(wrong)} names differ, first: {wrong[0]}; check backbone.model"
        )
