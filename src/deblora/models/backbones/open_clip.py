"""Vision towers in the names of OpenCLIP, read as the CLIP of transformers; the package open_clip is not needed.

A folder of the hub holds ``open_clip_config.json`` and ``open_clip_model.safetensors``. Names of the tower are
``visual.conv1, visual.class_embedding, visual.positional_embedding, visual.ln_pre, visual.ln_post`` and, per block,
``visual.transformer.resblocks.N.{ln_1, attn.in_proj_*, attn.out_proj, ln_2, mlp.c_fc, mlp.c_proj}``.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from deblora.errors import ArtifactError, ModelError
from deblora.files import file_sha256, write_atomic
from deblora.models.backbone import Backbone, InputSpec
from deblora.models.backbones.mae_weights import fill
from deblora.models.backbones.vision import wrap
from deblora.models.presets import PRESETS
from deblora.models.weights import read_checkpoint, read_json, read_weights, weights_file

# Of CLIP's training pictures (arXiv 2103.00020, published code); OpenCLIP takes them where a configuration names none.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
TOKENIZER = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_LAYER = re.compile(
    r"(?P<visual>visual\.)?transformer\.resblocks\.(?P<number>\d+)\.(?P<name>.+?)[._](?P<kind>weight|bias)"
)
LAYERS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
OTHERS = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
TURNED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
IGNORED = ("attn_mask", "input_resolution", "context_length", "vocab_size")  # constants in older files


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
    """Return the tower's weights under the names of ``transformers.CLIPVisionModel``.

    Raises:
        ModelError: If the file holds no tower, or a tensor has no place there.
    """
    if "visual.conv1.weight" not in weights:
        raise ModelError(
            f"{where} holds no vision tower in OpenCLIP's names (visual.conv1.weight is missing)"
        )
    tower = {key: value for key, value in weights.items() if key.startswith("visual.")}
    tower.pop("visual.proj", None)  # into the space of image and text; features are taken before it
    renamed = rename_weights(tower, where)
    return {key.removeprefix("vision_model."): value for key, value in renamed.items()}


def convert_open_clip(checkpoint: Path, config: Path, *, tokenizer: Path, out: Path) -> Path:
    """Write an OpenCLIP checkpoint as a CLIP folder of Hugging Face.

    Args:
        checkpoint: Weights as safetensors (``open_clip_model.safetensors``). Pickles are not read.
        config: ``open_clip_config.json`` of the model, or the file of its architecture in OpenCLIP's source tree.
        tokenizer: Folder with CLIP's tokenizer, which all models of this kind share (any CLIP folder has it).
        out: New folder.

    Returns:
        ``out``, for ``backbone.path``.

    Raises:
        ArtifactError: If ``out`` is not empty.
        ModelError: If a file is missing or damaged, or the model is of another kind.
    """
    if out.exists() and any(out.iterdir()):
        raise ArtifactError(f"{out} is not empty; name a new folder")
    if checkpoint.suffix != ".safetensors":
        raise ModelError(
            f"{checkpoint} is not a safetensors file; docs/generative-and-text.md says how to make one"
        )
    files = [tokenizer / name for name in TOKENIZER if (tokenizer / name).is_file()]
    if not files:
        raise ModelError(f"{tokenizer} holds no tokenizer ({', '.join(TOKENIZER[:3])})")
    settings = read_json(config)
    weights = rename_weights(read_weights(checkpoint), checkpoint)
    absent = sorted({*OTHERS.values(), *TURNED.values()} - set(weights))
    if absent:
        raise ModelError(
            f"{checkpoint} has nothing for {absent[0]}; only ViT CLIP models of OpenCLIP are known"
        )
    described = clip_config(settings.get("model_cfg", settings), weights, config)
    preprocess = settings.get("preprocess_cfg") or {}
    write_atomic(out / "model.safetensors", save(weights, metadata={"format": "pt"}))
    write_atomic(out / "config.json", json.dumps(described, indent=1))
    statistics = {
        "image_mean": list(preprocess.get("mean") or MEAN),
        "image_std": list(preprocess.get("std") or STD),
        "rescale_factor": 1 / 255,
    }
    write_atomic(out / "preprocessor_config.json", json.dumps(statistics, indent=1))
    for file in files:
        shutil.copyfile(file, out / file.name)
    return out


def rename_weights(weights: Mapping[str, torch.Tensor], source: Path) -> dict[str, torch.Tensor]:
    """Return the tensors under the names of transformers, fused projections split in three.

    Raises:
        ModelError: If one has no place there.
    """
    renamed: dict[str, torch.Tensor] = {}
    for full, tensor in weights.items():
        key = full.removeprefix("module.")
        layer = _LAYER.fullmatch(key)
        if key in OTHERS:
            renamed[OTHERS[key]] = tensor.contiguous()
        elif key in TURNED:
            renamed[TURNED[key]] = tensor.T.contiguous()
        elif layer and (layer["name"] in LAYERS or layer["name"] == "attn.in_proj"):
            tower = "vision_model" if layer["visual"] else "text_model"
            home, kind = f"{tower}.encoder.layers.{layer['number']}", layer["kind"]
            if layer["name"] in LAYERS:
                renamed[f"{home}.{LAYERS[layer['name']]}.{kind}"] = tensor.contiguous()
                continue
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{home}.self_attn.{part}_proj.{kind}"] = rows.clone()
        elif key not in IGNORED:
            raise ModelError(
                f"{source}: {key} has no place in CLIP; only ViT CLIP models of OpenCLIP are known"
            )
    return renamed


def clip_config(model: dict[str, Any], weights: dict[str, torch.Tensor], source: Path) -> dict[str, Any]:
    """Return ``config.json`` of transformers for a model configuration of OpenCLIP; sizes come from the weights.

    Raises:
        ModelError: If the configuration is of another kind or does not fit the weights.
    """
    vision, text = model.get("vision_cfg"), model.get("text_cfg")
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise ModelError(
            f"{source} has no vision_cfg and text_cfg; give the configuration of the OpenCLIP model"
        )
    odd = [
        key
        for key in ("timm_model_name", "hf_model_name", "attentional_pool", "no_ln_pre")
        if {**vision, **text}.get(key)
    ]
    if odd or not isinstance(vision.get("layers"), int):
        raise ModelError(f"{source}: {odd[0] if odd else 'a ResNet'} is not CLIP's own architecture")
    activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    patches, words = (weights[OTHERS[key]] for key in ("visual.conv1.weight", "token_embedding.weight"))
    width, patch = patches.shape[0], patches.shape[2]
    side = round((len(weights[OTHERS["visual.positional_embedding"]]) - 1) ** 0.5) * patch

    def tower(name: str, size: int, n_heads: int) -> dict[str, Any]:
        first = weights[f"{name}.encoder.layers.0.mlp.fc1.weight"]
        n_layers = sum(
            key.startswith(f"{name}.encoder.layers.") and key.endswith("mlp.fc1.weight") for key in weights
        )
        return {
            "hidden_size": size,
            "intermediate_size": first.shape[0],
            "num_hidden_layers": n_layers,
            "num_attention_heads": n_heads,
            "hidden_act": activation,
        }

    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    dimensions = weights["text_projection.weight"].shape[0]
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": dimensions,
        "vision_config": {
            **tower("vision_model", width, width // int(vision.get("head_width", 64))),
            "image_size": side,
            "patch_size": patch,
            "num_channels": patches.shape[1],
            "projection_dim": dimensions,
        },
        "text_config": {
            **tower("text_model", words.shape[1], int(text.get("heads", 8))),
            "vocab_size": len(words),
            "max_position_embeddings": len(weights[OTHERS["positional_embedding"]]),
            "projection_dim": dimensions,
            **ends,
        },
    }
