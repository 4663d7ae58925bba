"""``deblora models`` says what the code and the references say, and starts without torch."""

import json
import subprocess
import sys

import pytest

from deblora.cli.main import main
from deblora.models.presets import CARDS, PRESETS, recipe_lines


def test_the_command_starts_without_torch() -> None:
    code = (
        "import sys; from deblora.cli.main import main; assert main(['models', '--json']) == 0; "
        "heavy = [m for m in ('torch', 'transformers', 'peft', 'sklearn') if m in sys.modules]; assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert set(rows["names"]) == set(PRESETS)
    assert {row["preset"] for row in rows["weights"]} <= set(PRESETS)
    assert all(row["license"] and row["reference"] and row["get"] for row in rows["weights"])


def test_the_text_names_every_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in PRESETS)
    assert "license     unknown; its repository held no license file" in text


def test_the_commands_fetch_what_is_read() -> None:
    from deblora.models.backbones import diffusion_files as sd
    from deblora.models.hub import PIPELINE

    assert {*sd.SETTINGS, *(f"{name}.safetensors" for name in sd.WEIGHTS)} < set(PIPELINE)
    commands = {card.weights: card.get for card in CARDS if card.get.startswith("hf download")}
    assert len(commands) == 9
    for weights, command in commands.items():
        assert command.startswith(f"hf download {weights} ") and "--local-dir weights/" in command
        assert "--include" not in command  # one pattern per flag; several would silently become file names
        # (of a single named file hf insists that it exists, of several it takes those that do)
        assert command.index("json") < command.index("safetensors")
    assert "tokenizer.json" in commands["openai/clip-vit-base-patch16"]
    assert "'tokenizer/*'" in commands["stable-diffusion-v1-5/stable-diffusion-v1-5"]
    assert "--revision refs/pr/4" in commands["facebook/convnext-tiny-224"]


def test_the_recipe_lines_are_valid() -> None:
    import yaml

    from deblora.recipe.classify import recipe_from

    for card in CARDS:
        recipe = recipe_from({"data": {"source": "x"}, **yaml.safe_load(recipe_lines(card))})
        assert recipe.backbone.name == card.preset


def test_numbers_of_parameters_are_those_of_the_architectures() -> None:
    import torch
    import transformers as t

    large = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    }
    small = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}
    with torch.device("meta"):
        models = {
            "google/vit-base-patch16-224-in21k": t.ViTModel(t.ViTConfig(), add_pooling_layer=False),
            "fmow_pretrain.pth": t.ViTModel(t.ViTConfig(**large), add_pooling_layer=False),
            "facebook/dinov2-small": t.Dinov2Model(t.Dinov2Config(**small)),
            "google/siglip-base-patch16-224": t.SiglipVisionModel(t.SiglipVisionConfig()),
            "facebook/convnext-tiny-224": t.ConvNextModel(t.ConvNextConfig()),
        }
    stated = {card.weights: card.n_parameters for card in CARDS}
    for weights, model in models.items():
        assert sum(p.numel() for p in model.parameters()) == stated[weights], weights
