"""Image-text contrast: its closed form, what it trains, and that it falls."""

from pathlib import Path

import pytest
import torch

from deblora.models.adapters.lora import attach_lora
from deblora.models.backbone import load_backbone
from deblora.models.backbones.clip_text import load_text_head
from deblora.train.objectives import Contrast, contrast
from generative_builders import write_clip


def test_the_loss_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 3.0]])
    texts = torch.tensor([0, 0, 2])  # text 1 has no chip in the batch
    rows, columns = logits.exp().tolist(), logits.exp().T.tolist()
    to_text = -sum(torch.tensor(rows[i][c] / sum(rows[i])).log() for i, c in enumerate([0, 0, 2])) / 3
    first = -sum(torch.tensor(columns[0][i] / sum(columns[0])).log() for i in (0, 1)) / 2
    last = -torch.tensor(columns[2][2] / sum(columns[2])).log()
    torch.testing.assert_close(contrast(logits, texts), (to_text + (first + last) / 2) / 2)


def test_it_equals_clips_loss_when_every_chip_has_its_own_text() -> None:
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    place = torch.arange(5)
    cross_entropy = torch.nn.functional.cross_entropy
    both = (cross_entropy(logits, place) + cross_entropy(logits.T, place)) / 2
    torch.testing.assert_close(contrast(logits, place), both)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


def test_only_the_adapter_of_the_vision_tower_learns(folder: Path) -> None:
    model = load_backbone("huggingface", path=folder, pool="cls")
    attach_lora(model, rank=4, alpha=4, seed=0)
    head = load_text_head(folder, ("ship", "plane"))
    goal = Contrast(model, head, n_classes=3, trained=[0, 2])  # class 1 has no training chip
    learning = {name: p for name, p in goal.named_parameters() if p.requires_grad}
    assert learning
    assert all("lora_" in name for name in learning)
    pixels = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 2, 0, 2, 2, 0])
    texts, optimizer, losses = head.texts.clone(), torch.optim.AdamW(learning.values(), lr=0.02), []
    for _ in range(15):
        loss = goal(pixels, labels)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert torch.equal(head.texts, texts)
