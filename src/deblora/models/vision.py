"""Vision transformers from a local folder in the Hugging Face format."""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from deblora.errors import ModelError
from deblora.models.backbone import Backbone, Identity, InputSpec
from deblora.models.weights import check_readable, files_sha256, find_weights

MODEL_TYPES = ("vit", "vit_mae", "dinov2", "dinov2_with_registers", "clip", "clip_vision_model")
DEFAULT_MEAN = DEFAULT_STD = 0.5  # of ViT and ViTMAE folders without a preprocessor_config.json
_VIT_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
    "image_size",
    "patch_size",
    "num_channels",
    "qkv_bias",
)
_DEFAULT_ROLES = ("q_proj", "v_proj", "query", "value", "fc1", "fc2")


class VisionBackbone(Backbone):
    """A transformer with a class token: the feature is that token, or the mean of the patch tokens.

    Both are read from the last hidden state, after the final layer normalization where the family has one inside
    the encoder (ViT, DINOv2); the token of CLIP is the one its projection sees.
    """

    def encode(self, pixels: Float[torch.Tensor, "b c h w"]) -> Float[torch.Tensor, "b d"]:
        """Return the pooled tokens; position embeddings are interpolated when the size is not that of the config."""
        config: Any = self.encoder.config
        native = _side(config.image_size)
        options = (
            {} if config.model_type.startswith("dinov2") or pixels.shape[-2:] == (native, native) else _RESIZE
        )
        out: Any = self.encoder(pixel_values=pixels, **options)
        tokens: torch.Tensor = out.last_hidden_state
        if self.pool == "mean":
            n_prefix = 1 + getattr(config, "num_register_tokens", 0)
            return tokens[:, n_prefix:].mean(dim=1)
        pooled: torch.Tensor = out.pooler_output if config.model_type == "clip_vision_model" else tokens[:, 0]
        return pooled


_RESIZE = {"interpolate_pos_encoding": True}


def _side(size: Any) -> int:
    return int(size[0]) if isinstance(size, list | tuple) else int(size)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise ModelError(f"{file} is damaged ({error}); fetch or write it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is damaged (no JSON object); fetch or write it again")
    return content


def _read_encoder(folder: Path, model_type: str) -> nn.Module:
    import transformers

    known = {
        "vit": transformers.ViTModel,
        "vit_mae": transformers.ViTModel,
        "dinov2": transformers.Dinov2Model,
        "dinov2_with_registers": transformers.Dinov2WithRegistersModel,
        "clip": transformers.CLIPVisionModel,
        "clip_vision_model": transformers.CLIPVisionModel,
    }
    options: dict[str, Any] = {"add_pooling_layer": False} if model_type.startswith("vit") else {}
    if model_type == "vit_mae":
        # its own class shuffles the tokens on every call, even with nothing masked
        source = transformers.ViTMAEConfig.from_pretrained(folder, local_files_only=True)
        options["config"] = transformers.ViTConfig(**{name: getattr(source, name) for name in _VIT_FIELDS})
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        encoder, report = known[model_type].from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{folder} cannot be loaded as {model_type} ({error}); fetch or write it again"
        ) from error
    finally:
        transformers.logging.set_verbosity(before)
    absent = sorted(report["missing_keys"])
    if absent:
        raise ModelError(f"{folder} lacks {len(absent)} tensors of {model_type}, first: {absent[0]}")
    module: nn.Module = encoder
    return module


def _normalization(
    folder: Path, model_type: str, n_bands: int
) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Return mean, std and scale: of ``preprocessor_config.json``, else .5 (CLIP: the constants of its authors)."""
    mean: Any = DEFAULT_MEAN
    std: Any = DEFAULT_STD
    scale = 255.0
    file = folder / "preprocessor_config.json"
    if file.is_file():
        content = _read_json(file)
        mean, std = content.get("image_mean", mean), content.get("image_std", std)
        scale = 1.0 / float(content.get("rescale_factor", 1.0 / scale))
    elif model_type.startswith("clip"):
        from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        mean, std = OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    bands = []
    for values in (mean, std):
        row = tuple(float(v) for v in values) if isinstance(values, list | tuple) else (float(values),)
        row = row * n_bands if len(row) == 1 else row
        if len(row) != n_bands:
            raise ModelError(
                f"{folder}: {len(row)} normalization constants for {n_bands} bands; mend {file.name}"
            )
        bands.append(row)
    return bands[0], bands[1], round(scale, 6)


def load_vision(
    path: Path | None, *, name: str, image_size: int | None = None, pool: str = "mean"
) -> Backbone:
    """Load a ViT, ViTMAE, DINOv2 or CLIP image tower from a folder with ``config.json`` and ``model.safetensors``.

    Raises:
        ModelError: If files are missing, damaged or of another architecture, or if a setting does not fit.
    """
    files = find_weights(path, also=("config.json",))
    folder = files[0].parent
    model_type = str(_read_json(folder / "config.json").get("model_type"))
    if model_type not in MODEL_TYPES:
        raise ModelError(
            f"{folder}: model type {model_type!r} is not supported; known: {', '.join(MODEL_TYPES)}"
        )
    check_readable(files)
    encoder = _read_encoder(folder, model_type)
    config: Any = encoder.config
    size, patch = image_size or _side(config.image_size), _side(config.patch_size)
    if size % patch:
        raise ModelError(f"{folder}: image_size {size} must be a multiple of the patch size {patch}")
    mean, std, scale = _normalization(folder, model_type, config.num_channels)
    return VisionBackbone(
        encoder,
        spec=InputSpec(config.num_channels, size, mean, std, scale),
        feature_size=int(config.hidden_size),
        identity=Identity(name, files_sha256(files)),
        lora_targets=tuple(n for n, _ in encoder.named_modules() if n.rpartition(".")[2] in _DEFAULT_ROLES),
        pool=pool,
    )
