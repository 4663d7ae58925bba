"""Vision towers in the names of OpenCLIP, read as the CLIP of transformers; the package open_clip is not needed.

A folder of the hub holds ``open_clip_config.json`` and ``open_clip_model.safetensors``. Names of the tower are
``visual.conv1, visual.class_embedding, visual.positional_embedding, visual.ln_pre, visual.ln_post`` and, per block,
``visual.transformer.resblocks.N.{ln_1, attn.in_proj_*, attn.out_proj, ln_2, mlp.c_fc, mlp.c_proj}``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deblora.errors import ModelError
from deblora.files import file_sha256
from deblora.models.backbone import Backbone, InputSpec
from deblora.models.backbones.folders import read_json
from deblora.models.backbones.mae_names import fill
from deblora.models.backbones.vision import wrap
from deblora.models.presets import PRESETS
from deblora.models.weights import read_checkpoint, weights_file

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training pictures (arXiv 2103.00020, published code)
STD = (0.26862954, 0.26130258, 0.27577711)
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_OUTSIDE = {
    "conv1.weight": "embeddings.patch_embedding.weight",
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
}
_INSIDE = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def load(path: Path, *, image_size: int | None = None, pool: str = "mean") -> Backbone:
    """Load the ViT of an OpenCLIP folder.

    Args:
        path: Folder with ``open_clip_config.json`` and ``open_clip_model.safetensors``.
        image_size: Pixels per side; other sizes than the model's interpolate its position codes.
        pool: ``mean`` of the patch tokens, or the ``cls`` token, normalized as in CLIP, before its projection.

    Raises:
        ModelError: If a file is missing or damaged, or the tower is no plain ViT.
    """
    import transformers

    described = read_json(path / "open_clip_config.json")
    model, images = (described.get(key) or {} for key in ("model_cfg", "preprocess_cfg"))
    file = weights_file(path, names=PRESETS["open-clip"].files)
    settings = vision_config(model, file)
    encoder = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**settings))
    fill(encoder, vision_weights(read_checkpoint(file), file), file)
    native = settings["image_size"]
    mean, std = (tuple(map(float, images.get(key) or of)) for key, of in (("mean", MEAN), ("std", STD)))
    return wrap(
        encoder.eval(),
        spec=InputSpec(3, image_size or native, mean, std, 255.0),
        name="open-clip",
        weights_sha256=file_sha256(file),
        pool=pool,
        interpolate=image_size not in (None, native),
        normalized_class=True,
        where=path,
    )


def vision_config(model: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Return the settings of ``transformers.CLIPVisionConfig`` for an OpenCLIP ``model_cfg``.

    Raises:
        ModelError: If the tower is a ResNet, a model of timm, or otherwise no plain ViT.
    """
    vision = model.get("vision_cfg") or {}
    width, depth = vision.get("width"), vision.get("layers")
    if not isinstance(width, int) or not isinstance(depth, int) or "timm_model_name" in vision:
        raise ModelError(
            f"{where.parent / 'open_clip_config.json'} does not describe a plain ViT; "
            "use an OpenCLIP model named ViT-..."
        )
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // int(vision.get("head_width", 64)),  # defaults of open_clip
        "intermediate_size": int(width * float(vision.get("mlp_ratio", 4.0))),
        "image_size": int(vision.get("image_size", 224)),
        "patch_size": int(vision.get("patch_size", 16)),
        "hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu",
        "layer_norm_eps": 1e-5,
    }


def vision_weights(weights: Mapping[str, torch.Tensor], where: Path) -> dict[str, torch.Tensor]:
    """Return the tower's weights under the names of ``transformers.CLIPVisionModel``; the fused qkv is split.

    Raises:
        ModelError: If the file holds no tower.
    """
    tower = {
        key.removeprefix("visual."): value for key, value in weights.items() if key.startswith("visual.")
    }
    if "conv1.weight" not in tower:
        raise ModelError(
            f"{where} holds no vision tower in OpenCLIP's names (visual.conv1.weight is missing)"
        )
    renamed: dict[str, torch.Tensor] = {}
    for key, value in tower.items():
        if key == "proj":  # into the space of image and text; features are taken before it
            continue
        match = _BLOCK.fullmatch(key)
        if match is None:
            stem, _, kind = key.rpartition(".")
            renamed[_OUTSIDE.get(key) or f"{_OUTSIDE.get(stem, stem)}.{kind}"] = value
            continue
        prefix, (layer, _, kind) = f"encoder.layers.{match[1]}", match[2].rpartition(".")
        if kind.startswith("in_proj_"):
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{prefix}.self_attn.{part}_proj.{kind.removeprefix('in_proj_')}"] = rows.contiguous()
        else:
            renamed[f"{prefix}.{_INSIDE.get(layer, layer)}.{kind}"] = value
    return renamed
