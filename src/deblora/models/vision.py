"""Vision models in Hugging Face folders: ViT, ViTMAE (as its encoder), DINOv2, CLIP's vision tower and others."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from deblora.artifacts import file_sha256
from deblora.errors import ModelError
from deblora.models.backbone import Backbone, InputSpec, weights_file

EMBEDDED = Path(__file__).parent / "embedded"
# Attention and MLP layers under their names in transformers 4 and 5; fused projections included.
ADAPTED = re.compile(
    r"(q_proj|k_proj|v_proj|query|key|value|qkv|fc1|fc2|pwconv1|pwconv2|intermediate\.dense|output\.dense)$"
)
HALF = (0.5, 0.5, 0.5)


def load(folder: Path, *, name: str, image_size: int | None = None, pool: str = "mean") -> Backbone:
    """Load a vision model from a local folder with ``config.json`` and ``model.safetensors``.

    Input normalization comes from ``preprocessor_config.json`` where there is one, else mean and std .5.

    Args:
        folder: Model folder.
        name: Name to record.
        image_size: Pixels per side; other sizes than the model's interpolate its position codes.
        pool: ``mean`` of the patch tokens, or the ``cls`` token.

    Raises:
        ModelError: If the folder is incomplete, damaged, pickled or of a type that is not supported.
    """
    config = _read_json(folder / "config.json")
    file = weights_file(folder)
    encoder, vision = _open(folder, config)
    native, n_bands = (_whole(folder, vision, *of) for of in (("image_size", 224), ("num_channels", 3)))
    spec = _input_spec(folder, n_bands, image_size or native)
    interpolate = spec.image_size != native
    is_clip = str(config.get("model_type")).startswith(
        "clip"
    )  # normalizes the class token outside of the tokens
    targets = tuple(n for n, m in encoder.named_modules() if isinstance(m, nn.Linear) and ADAPTED.search(n))

    def features(module: nn.Module, pixels: Float[torch.Tensor, "b c h w"]) -> Float[torch.Tensor, "b d"]:
        options = {"interpolate_pos_encoding": True} if interpolate else {}
        output = module(pixel_values=pixels, **options)
        tokens = output.last_hidden_state
        if tokens.ndim == 4:  # a convolutional model returns a map
            return tokens.mean(dim=(2, 3))
        if pool == "cls":
            return output.pooler_output if is_clip else tokens[:, 0]
        return tokens[:, 1:].mean(dim=1)

    return Backbone(
        encoder,
        features,
        spec=spec,
        feature_size=_feature_size(encoder, features, spec, folder),
        name=name,
        weights_sha256=file_sha256(file),
        lora_targets=targets,
        pool=pool,
    )


def _open(folder: Path, config: Mapping[str, Any]) -> tuple[nn.Module, Mapping[str, Any]]:
    """Return the encoder and the part of the configuration that describes it."""
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    kind = config.get("model_type")
    vision = config.get("vision_config", config)
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    classes = {
        "clip": "CLIPVisionModel",
        "clip_vision_model": "CLIPVisionModel",
        "vit_mae": "ViTModel",
        "vit": "ViTModel",
    }
    if kind in ("vit", "vit_mae"):
        options["add_pooling_layer"] = False
    if kind == "vit_mae":
        known = transformers.ViTConfig().to_dict()
        options["config"] = transformers.ViTConfig(
            **{k: v for k, v in config.items() if k in known and k != "model_type"}
        )
    kind_of_model = getattr(transformers, classes.get(str(kind), "AutoModel"))
    try:
        with _quiet():
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from listing the decoder and the head that features do not need."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _feature_size(encoder: nn.Module, features: Any, spec: InputSpec, folder: Path) -> int:
    shape = (1, spec.n_bands, spec.image_size, spec.image_size)
    try:
        with torch.inference_mode():
            encoder.eval()
            return int(features(encoder, torch.zeros(shape)).shape[1])
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).split("\n")[0][:300]
        raise ModelError(
            f"{folder} gives no feature for images of shape {shape} ({reason}); check backbone.image_size and the "
            "type of the model"
        ) from error


def _input_spec(folder: Path, n_bands: int, image_size: int) -> InputSpec:
    file = folder / "preprocessor_config.json"
    settings = _read_json(file) if file.is_file() else {}
    try:
        mean, std = (tuple(map(float, settings.get(key) or HALF)) for key in ("image_mean", "image_std"))
        scale = 1.0 / float(settings.get("rescale_factor", 1 / 255))
        if len(mean) != len(std) or not all(math.isfinite(v) for v in (*mean, *std, scale)):
            raise ValueError("image_mean, image_std and rescale_factor must be finite and of equal length")
        if min(std) <= 0 or scale <= 0:
            raise ValueError("image_std and rescale_factor must be positive")
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ModelError(f"{file} is damaged ({error}); get the model folder again") from error
    if len(mean) != n_bands:
        mean, std = (0.5,) * n_bands, (0.5,) * n_bands
    return InputSpec(n_bands, image_size, mean, std, scale)


def _whole(folder: Path, config: Mapping[str, Any], key: str, default: int) -> int:
    value = config.get(key, default)
    if not isinstance(value, int):
        raise ModelError(
            f"{folder / 'config.json'}: {key} is {value!r}, expected an integer; get the folder again"
        )
    return value


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{file} is missing; a Hugging Face model folder has config.json and model.safetensors"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{file} must hold a JSON object")
    return values
