"""Vision models in Hugging Face folders: ViT, ViTMAE (as its encoder), DINOv2, CLIP, SigLIP, ConvNeXt and others."""

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from deblora.errors import ModelError
from deblora.files import file_sha256
from deblora.models.backbone import Backbone, InputSpec
from deblora.models.backbones.layers import adapter_targets, check_pool, n_prefix_tokens, pooled
from deblora.models.backbones.mae_weights import folder_decoder
from deblora.models.weights import (
    crop_size,
    normalization,
    preprocessing,
    quiet,
    read_json,
    weights_file,
    whole,
)

EMBEDDED = Path(__file__).parent / "embedded"
# Name of the preset -> types of config.json that it takes. ``huggingface`` takes any.
KINDS: dict[str, tuple[str, ...]] = {
    "vit": ("vit",),
    "vit-mae": ("vit_mae",),
    "dinov2": ("dinov2", "dinov2_with_registers"),
    "clip": ("clip", "clip_vision_model"),
    "siglip": ("siglip", "siglip_vision_model"),
    "convnext": ("convnext", "convnextv2"),
}
# Where a folder holds more than the image encoder, the class that reads the encoder only.
ENCODERS = {
    "clip": "CLIPVisionModel",
    "clip_vision_model": "CLIPVisionModel",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
    "vit_mae": "ViTModel",
    "vit": "ViTModel",
}


def load(folder: Path, *, name: str, image_size: int | None = None, pool: str = "mean") -> Backbone:
    """Load a vision model from a local folder with ``config.json`` and ``model.safetensors``.

    Input normalization comes from ``preprocessor_config.json`` where there is one, else mean and std .5.

    Args:
        folder: Model folder.
        name: Name to record; those of ``KINDS`` take folders of their own types only.
        image_size: Pixels per side; other sizes than the model's interpolate its position codes.
        pool: ``mean`` of the patch tokens, or the ``cls`` token.

    Raises:
        ModelError: If the folder is incomplete, damaged, pickled or of a type that is not supported.
    """
    config = read_json(folder / "config.json")
    kind = str(config.get("model_type"))
    _check_kind(folder, name, kind)
    file = weights_file(folder)
    encoder, vision = _open(folder, config, kind)
    processor, settings = preprocessing(folder)
    native, n_bands = (whole(folder, vision, *of) for of in (("image_size", 224), ("num_channels", 3)))
    size = image_size or crop_size(settings) or native
    spec = InputSpec(n_bands, size, *normalization(processor, settings, n_bands))
    return wrap(
        encoder,
        spec=spec,
        name=name,
        weights_sha256=file_sha256(file),
        pool=pool,
        interpolate=size != native,
        normalized_class=kind.startswith("clip"),
        where=folder,
        open_decoder=partial(folder_decoder, folder) if kind == "vit_mae" else None,
    )


def load_embedded(*, image_size: int | None = None, pool: str = "mean") -> Backbone:
    """Load the small ViT that comes with the package."""
    return load(EMBEDDED, name="embedded", image_size=image_size, pool=pool)


def wrap(
    encoder: nn.Module,
    *,
    spec: InputSpec,
    name: str,
    weights_sha256: str,
    pool: str,
    interpolate: bool,
    where: Path,
    normalized_class: bool = False,
    open_decoder: Callable[[], nn.Module | None] | None = None,
) -> Backbone:
    """Make a backbone of a transformers vision model.

    Args:
        encoder: The model, with loaded weights.
        spec: Its input.
        name: Name to record.
        weights_sha256: Hash of the weight file.
        pool: ``mean`` or ``cls``.
        interpolate: Whether position codes have to be interpolated to ``spec.image_size``.
        where: Folder or file, for messages.
        normalized_class: See :func:`deblora.models.backbones.layers.pooled`.
        open_decoder: See :class:`deblora.models.backbone.Backbone`.

    Raises:
        ModelError: If the model has no class token to pool, or gives no feature for its input.
    """
    check_pool(encoder, pool, name)
    takes_option = "interpolate_pos_encoding" in inspect.signature(encoder.forward).parameters
    options = {"interpolate_pos_encoding": True} if interpolate and takes_option else {}
    output = _blank_output(encoder, spec, where, options)
    tokens = output.last_hidden_state
    n_prefix = (
        n_prefix_tokens(encoder, n_tokens=tokens.shape[1], n_patches=_n_patches(encoder, spec))
        if tokens.ndim == 3
        else 0
    )

    def features(module: nn.Module, pixels: Float[torch.Tensor, "b c h w"]) -> Float[torch.Tensor, "b d"]:
        found = module(pixel_values=pixels, **options)
        return pooled(found, pool, n_prefix=n_prefix, normalized_class=normalized_class)

    return Backbone(
        encoder,
        features,
        spec=spec,
        feature_size=int(tokens.shape[1] if tokens.ndim == 4 else tokens.shape[2]),
        name=name,
        weights_sha256=weights_sha256,
        lora_targets=adapter_targets(encoder),
        pool=pool,
        open_decoder=open_decoder,
    )


def _check_kind(folder: Path, name: str, kind: str) -> None:
    if name in KINDS and kind not in KINDS[name]:
        fitting = [preset for preset, kinds in KINDS.items() if kind in kinds] or ["huggingface"]
        raise ModelError(
            f"{folder} holds a model of type {kind}, but backbone.name is {name}; set it to {fitting[0]}"
        )


def _n_patches(encoder: nn.Module, spec: InputSpec) -> int | None:
    patch = getattr(getattr(encoder, "config", None), "patch_size", None)
    if isinstance(patch, (list, tuple)):
        patch = patch[0] if len(set(patch)) == 1 else None
    return (spec.image_size // patch) ** 2 if isinstance(patch, int) and patch > 0 else None


def _blank_output(encoder: nn.Module, spec: InputSpec, where: Path, options: Mapping[str, bool]) -> Any:
    shape = (1, spec.n_bands, spec.image_size, spec.image_size)
    try:
        with torch.inference_mode():
            output = encoder.eval()(pixel_values=torch.zeros(shape), **options)
        if output.last_hidden_state.ndim not in (3, 4):
            raise ValueError("its output is neither tokens nor a map")
        return output
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).split("\n")[0][:300]
        raise ModelError(
            f"{where} gives no feature for images of shape {shape} ({reason}); check backbone.image_size and the "
            "type of the model"
        ) from error


def _open(folder: Path, config: Mapping[str, Any], kind: str) -> tuple[nn.Module, Mapping[str, Any]]:
    """Return the encoder and the part of the configuration that describes it."""
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    vision = config.get("vision_config", config)
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    if kind in ("vit", "vit_mae"):
        options["add_pooling_layer"] = False
    if kind == "vit_mae":
        known = transformers.ViTConfig().to_dict()
        options["config"] = transformers.ViTConfig(
            **{k: v for k, v in config.items() if k in known and k != "model_type"}
        )
    kind_of_model = getattr(transformers, ENCODERS.get(kind, "AutoModel"))
    try:
        with quiet():
            model, notes = kind_of_model.from_pretrained(str(folder), output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, StrictDataclassError) as error:
        raise ModelError(
            f"{folder} cannot be loaded as a vision model ({kind}): {str(error)[:300]}"
        ) from error
    except Exception as error:  # safetensors raises a class of its own for damaged files
        if type(error).__name__ != "SafetensorError":
            raise
        raise ModelError(f"{folder} holds damaged weights ({error}); get them again") from error
    # Transformers would fill them with random numbers and only warn; pooler and mask token give no feature.
    absent = sorted(key for key in notes["missing_keys"] if not re.search("pooler|mask_token", key))
    if absent:
        raise ModelError(
            f"{folder}: the weights lack {len(absent)} tensors that config.json asks for, first: {absent[0]}; get the "
            "folder again"
        )
    return model.float().eval(), vision
