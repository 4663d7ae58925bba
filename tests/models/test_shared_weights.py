"""Real weights beside the checkout load completely and behave as their README says."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from deblora.models.adapters.lora import attach_lora, n_trainable
from deblora.models.backbone import load_backbone

pytestmark = pytest.mark.shared


@pytest.mark.parametrize("sensor", ["S2_RGB", "S1"])
def test_galileo_nano(shared: Callable[[str], Path], sensor: str) -> None:
    model = load_backbone("galileo-nano", path=shared("weights/galileo_nano"), sensor=sensor)
    features = model(torch.rand(2, model.spec.n_bands, 128, 128, generator=torch.Generator().manual_seed(0)))
    assert features.shape == (2, 128)
    assert torch.isfinite(features).all()
    attach_lora(model, rank=8, alpha=8, seed=0)
    assert n_trainable(model) == 4 * (4 * 8 * 256 + 2 * 8 * (128 + 512))


def test_efficientnet_names_the_flower(shared: Callable[[str], Path]) -> None:
    from sklearn.datasets import load_sample_image

    from deblora.data.pixels import to_batch

    model = load_backbone(
        "efficientnet-lite0", path=shared("weights/efficientnet_lite0_in1k"), image_size=224
    )
    spec = model.spec
    picture = load_sample_image("flower.jpg")
    batch = to_batch([picture], image_size=224, mean=spec.mean, std=spec.std, scale=spec.scale)
    logits = model.encoder.classifier(model(batch))  # type: ignore[operator]
    assert int(logits.argmax()) == 985  # daisy
