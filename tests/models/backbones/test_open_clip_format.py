"""Converted OpenCLIP weights against a plain forward pass written from OpenCLIP's layout."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from deblora.errors import ArtifactError, ModelError
from deblora.models.backbone import load_backbone
from deblora.models.backbones.clip_text import load_text_head
from deblora.models.backbones.open_clip import convert_open_clip
from generative_builders import write_tokenizer

WIDTH, DEPTH, HEADS, JOINT = 32, 2, 2, 24
CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": JOINT,
        "vision_cfg": {"image_size": 16, "layers": DEPTH, "width": WIDTH, "patch_size": 8, "head_width": 16},
        "text_cfg": {
            "context_length": 20,
            "vocab_size": 514,
            "width": WIDTH,
            "heads": HEADS,
            "layers": DEPTH,
        },
    },
    "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]},
}


def tower(prefix: str, draw) -> dict[str, torch.Tensor]:
    found = {}
    for i in range(DEPTH):
        home = f"{prefix}transformer.resblocks.{i}."
        shapes = {
            "attn.in_proj_": (3 * WIDTH, WIDTH),
            "attn.out_proj.": (WIDTH, WIDTH),
            "mlp.c_fc.": (4 * WIDTH, WIDTH),
            "mlp.c_proj.": (WIDTH, 4 * WIDTH),
        }
        for name, shape in shapes.items():
            found[f"{home}{name}weight"], found[f"{home}{name}bias"] = draw(*shape), draw(shape[0])
        for name in ("ln_1", "ln_2"):
            found[f"{home}{name}.weight"], found[f"{home}{name}.bias"] = 1 + draw(WIDTH), draw(WIDTH)
    return found


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return 0.2 * torch.randn(*shape, generator=generator)

    norms = {
        f"{n}.{k}": (1.0 if k == "weight" else 0.0) + draw(WIDTH)
        for n in ("visual.ln_pre", "visual.ln_post", "ln_final")
        for k in ("weight", "bias")
    }
    return {
        **tower("visual.", draw),
        **tower("", draw),
        **norms,
        "visual.class_embedding": draw(WIDTH),
        "visual.positional_embedding": draw(5, WIDTH),
        "visual.conv1.weight": draw(WIDTH, 3, 8, 8),
        "visual.proj": draw(WIDTH, JOINT),
        "token_embedding.weight": draw(514, WIDTH),
        "positional_embedding": draw(20, WIDTH),
        "text_projection": draw(WIDTH, JOINT),
        "logit_scale": torch.tensor(2.0),
    }


def transformer(
    x: torch.Tensor, weights: dict[str, torch.Tensor], prefix: str, mask: torch.Tensor | None
) -> torch.Tensor:
    """Residual attention blocks of OpenCLIP, through torch's own multi-head attention."""
    for i in range(DEPTH):
        w = {key.removeprefix(f"{prefix}transformer.resblocks.{i}."): value for key, value in weights.items()}
        norm = functional.layer_norm(x, (WIDTH,), w["ln_1.weight"], w["ln_1.bias"]).transpose(0, 1)
        attended = functional.multi_head_attention_forward(
            norm, norm, norm, WIDTH, HEADS, w["attn.in_proj_weight"], w["attn.in_proj_bias"], None, None, False, 0.0,
            w["attn.out_proj.weight"], w["attn.out_proj.bias"], attn_mask=mask, need_weights=False,
        )[0]  # fmt: skip
        x = x + attended.transpose(0, 1)
        norm = functional.layer_norm(x, (WIDTH,), w["ln_2.weight"], w["ln_2.bias"])
        inner = functional.gelu(functional.linear(norm, w["mlp.c_fc.weight"], w["mlp.c_fc.bias"]))
        x = x + functional.linear(inner, w["mlp.c_proj.weight"], w["mlp.c_proj.bias"])
    return x


def images(pixels: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
    patches = functional.conv2d(pixels, w["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
    first = w["visual.class_embedding"].expand(len(pixels), 1, -1)
    x = torch.cat([first, patches], dim=1) + w["visual.positional_embedding"]
    x = functional.layer_norm(x, (WIDTH,), w["visual.ln_pre.weight"], w["visual.ln_pre.bias"])
    x = transformer(x, w, "visual.", None)[:, 0]
    return (
        functional.layer_norm(x, (WIDTH,), w["visual.ln_post.weight"], w["visual.ln_post.bias"])
        @ w["visual.proj"]
    )


def texts(tokens: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
    x = w["token_embedding.weight"][tokens] + w["positional_embedding"]
    mask = torch.full((20, 20), float("-inf")).triu(1)
    x = functional.layer_norm(transformer(x, w, "", mask), (WIDTH,), w["ln_final.weight"], w["ln_final.bias"])
    return x[torch.arange(len(x)), (tokens == 513).int().argmax(dim=1)] @ w["text_projection"]


@pytest.fixture(scope="module")
def inputs(weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("open_clip")
    save_file(weights, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG))
    write_tokenizer(folder / "tokenizer")
    return folder


def convert(inputs: Path, out: Path, *, checkpoint: Path | None = None, config: Path | None = None) -> Path:
    return convert_open_clip(
        checkpoint or inputs / "open_clip_model.safetensors",
        config or inputs / "open_clip_config.json",
        tokenizer=inputs / "tokenizer",
        out=out,
    )


def test_scores_survive_the_conversion(
    inputs: Path, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    from transformers import CLIPTokenizer

    folder = convert(inputs, tmp_path / "clip")
    model = load_backbone("huggingface", path=folder, pool="cls")
    assert (model.spec.mean, model.spec.std, model.spec.image_size) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), 16)
    head = load_text_head(folder, ("ship", "plane"), ("a {class}.",))
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokens = tokenizer(
        ["a ship.", "a plane."], padding="max_length", max_length=20, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        expected = (
            functional.normalize(images(pixels, weights)) @ functional.normalize(texts(tokens, weights)).T
        )
        torch.testing.assert_close(head(model(pixels)), expected, rtol=1e-4, atol=1e-5)
    assert head.scale == pytest.approx(float(torch.tensor(2.0).exp()))


def test_other_models_are_refused(inputs: Path, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    def with_weights(changes: dict[str, torch.Tensor], without: str = "") -> Path:
        file = tmp_path / "changed.safetensors"
        save_file({k: v for k, v in {**weights, **changes}.items() if k != without}, file)
        return file

    def with_config(**vision: object) -> Path:
        file = tmp_path / "changed.json"
        model = CONFIG["model_cfg"]
        file.write_text(json.dumps({"model_cfg": {**model, "vision_cfg": {**model["vision_cfg"], **vision}}}))
        return file

    cases = [
        (
            {"checkpoint": with_weights({"visual.attnpool.x": torch.ones(1)})},
            "visual.attnpool.x has no place",
        ),
        ({"config": with_config(timm_model_name="vit")}, "timm_model_name is not CLIP's own"),
        ({"checkpoint": Path("a.pt")}, "not a safetensors file"),
    ]
    for changes, message in cases:
        with pytest.raises(ModelError, match=message):
            convert(inputs, tmp_path / "out", **changes)
    with pytest.raises(ModelError, match="nothing for logit_scale"):
        convert(inputs, tmp_path / "out", checkpoint=with_weights({}, "logit_scale"))
    with pytest.raises(ModelError, match="a ResNet"):
        convert(inputs, tmp_path / "out", config=with_config(layers=[3, 4, 6, 3]))
    with pytest.raises(ArtifactError, match="not empty"):
        convert(inputs, inputs)
