"""Class texts against CLIP's own scores."""

import shutil
from pathlib import Path

import pytest
import torch

from deblora.errors import ModelError
from deblora.models.backbone import load_backbone
from deblora.models.backbones.clip_text import TEMPLATES, has_text, load_text_head, spoken
from generative_builders import write_clip

PIXELS = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NAMES = ("ship", "ground-track-field", "storage_tank")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


def test_scores_are_those_of_clip(folder: Path) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    head = load_text_head(folder, NAMES, ("a photo of a {class}.",))
    tower = load_backbone("huggingface", path=folder, pool="cls")
    clip, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    sentences = ["a photo of a ship.", "a photo of a ground track field.", "a photo of a storage tank."]
    tokens = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = clip(pixel_values=PIXELS, **tokens).logits_per_image
        got = head.scale * head(tower(PIXELS))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in head.parameters())


def test_cosines_stay_exact_in_mixed_precision(folder: Path) -> None:
    head, features = load_text_head(folder, NAMES), torch.randn(4, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = head(features)
    torch.testing.assert_close(mixed, head(features))


def test_templates_are_averaged_at_unit_length(folder: Path) -> None:
    each = [load_text_head(folder, NAMES, (template,)).texts for template in TEMPLATES]
    mean = torch.stack(each).mean(dim=0)
    together = load_text_head(folder, NAMES).texts
    torch.testing.assert_close(together, mean / mean.norm(dim=1, keepdim=True))


def test_names_become_words() -> None:
    assert spoken("ground-track_field ") == "ground track field"


def test_only_a_whole_clip_has_text(folder: Path, tmp_path: Path) -> None:
    assert has_text(folder)
    assert not has_text(tmp_path)
    bare = Path(shutil.copytree(folder, tmp_path / "bare"))
    for name in ("tokenizer.json", "vocab.json"):
        (bare / name).unlink(missing_ok=True)
    assert not has_text(bare)
    with pytest.raises(ModelError, match="not a whole CLIP model"):
        load_text_head(bare, NAMES)
    with pytest.raises(ModelError, match=r"\{class\}"):
        load_text_head(folder, NAMES, ("a ship",))
    cut = Path(shutil.copytree(folder, tmp_path / "cut"))
    (cut / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(ModelError, match="cannot be loaded as a whole CLIP model"):
        load_text_head(cut, NAMES)
