"""Masked reconstruction: parity with transformers, what is trained, what is hidden, resume."""

from pathlib import Path

import pytest
import torch

import tiny_models as tiny
from deblora.data.chips import ArrayPixels
from deblora.errors import ModelError
from deblora.models.adapters.lora import attach_lora
from deblora.models.backbone import Backbone, load_backbone, with_bands
from deblora.train.mae import Reconstruct, WithNoise, patches
from deblora.train.samples import TrainingOrder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model("vit-mae", tmp_path_factory.mktemp("mae"))


def adapted(folder: Path, name: str = "vit-mae", **settings: object) -> Backbone:
    model = load_backbone(name, path=folder, **settings)
    attach_lora(model, rank=2, alpha=2, seed=0)
    return model


def batch(size: int = tiny.PX, n_bands: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(3, n_bands, size, size, generator=rng), torch.rand(3, (size // 8) ** 2, generator=rng)


def test_the_loss_is_that_of_transformers(folder: Path) -> None:
    import transformers

    pixels, noise = batch()
    reference = transformers.ViTMAEForPreTraining.from_pretrained(folder, norm_pix_loss=True).eval()
    with torch.no_grad():
        expected = reference(pixel_values=pixels, noise=noise).loss
    loss = Reconstruct(adapted(folder), seed=0)(pixels, noise)["loss"]
    torch.testing.assert_close(loss, expected)


def test_the_folders_decoder_is_frozen_and_a_light_one_is_not(folder: Path) -> None:
    own = Reconstruct(adapted(folder), seed=0)
    assert not any(p.requires_grad for p in own.decoder.parameters())
    assert own.decoder.decoder_pred.in_features == tiny.DECODER["decoder_hidden_size"]
    light = Reconstruct(adapted(folder, "vit-mae", image_size=tiny.PX * 2), seed=0)
    assert light.decoder.decoder_pos_embed.shape[1] == 1 + 64  # the same decoder on a finer grid
    pixels, noise = batch(tiny.PX * 2)
    light(pixels, noise)["loss"].backward()
    wide = load_backbone("vit-mae", path=folder)
    with_bands(wide, 10)
    attach_lora(wide, rank=2, alpha=2, seed=0)
    objective = Reconstruct(wide, seed=0)
    assert objective.decoder.decoder_pred.out_features == 64 * 10
    assert any(p.requires_grad for p in objective.decoder.parameters())
    again = Reconstruct(wide, seed=0)
    assert torch.equal(objective.decoder.decoder_pred.weight, again.decoder.decoder_pred.weight)
    assert torch.isfinite(objective(*batch(n_bands=10))["loss"])


def test_a_folder_without_a_decoder_gets_a_trained_one(folder: Path, tmp_path: Path) -> None:
    import transformers

    transformers.ViTMAEModel.from_pretrained(folder).save_pretrained(tmp_path)
    objective = Reconstruct(adapted(tmp_path), seed=0)
    assert objective.decoder.decoder_pred.weight.requires_grad
    assert objective.decoder.decoder_pos_embed.abs().mean() > 0.1  # places of the patches, not zeros
    assert torch.isfinite(objective(*batch())["loss"])


def test_training_lowers_the_loss_and_moves_only_the_adapter(folder: Path) -> None:
    model = adapted(folder)
    objective = Reconstruct(model, seed=0)
    frozen = {n: p.clone() for n, p in objective.named_parameters() if not p.requires_grad}
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer, (pixels, noise) = torch.optim.AdamW(trained, lr=5e-2), batch()
    losses = []
    for _ in range(15):
        loss = objective(pixels, noise)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert all(torch.equal(p, frozen[n]) for n, p in objective.named_parameters() if n in frozen)


def test_hidden_pixels_reach_the_target_only(folder: Path) -> None:
    """A masked patch may change the loss through its own target, never through the encoder."""
    objective = Reconstruct(adapted(folder), seed=0)
    pixels, noise = batch()
    visible = noise.argsort(dim=1)[:, : objective.n_visible]
    assert objective.n_visible == 4
    from deblora.train.mae import visible_tokens

    hidden = torch.ones_like(noise).scatter(1, visible, 0.0)
    mask = hidden.reshape(3, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    with torch.no_grad():
        before = visible_tokens(objective.backbone, pixels, visible)
        after = visible_tokens(objective.backbone, pixels + 100 * mask, visible)
    torch.testing.assert_close(after, before)


def test_patches_are_read_row_by_row() -> None:
    pixels = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)
    cut = patches(pixels, 2)
    assert cut.shape == (1, 4, 8)
    assert cut[0, 1].tolist() == [2, 18, 3, 19, 6, 22, 7, 23]


def test_noise_belongs_to_the_sample(folder: Path) -> None:
    import numpy as np

    model = adapted(folder)
    chips = [np.full((tiny.PX, tiny.PX, 3), i, dtype=np.uint8) for i in range(4)]
    order = TrainingOrder(
        ArrayPixels(chips, [str(i) for i in range(4)]),
        {"labels": torch.arange(4)},
        spec=model.spec,
        n_samples=8,
        seed=0,
    )
    samples, again = (WithNoise(order, n_patches=16, seed=0) for _ in range(2))
    assert len(samples) == 8 and set(samples[0]) == {"pixels", "noise"}  # no label
    assert torch.equal(samples[5]["noise"], again[5]["noise"])
    assert not torch.equal(samples[5]["noise"], samples[6]["noise"])
    assert not torch.equal(samples[5]["noise"], WithNoise(order, n_patches=16, seed=1)[5]["noise"])


def test_other_models_and_too_few_patches_are_refused(folder: Path, tmp_path: Path) -> None:
    siglip = adapted(tiny.write_model("siglip", tmp_path), "siglip")
    with pytest.raises(ModelError, match=r"lora.loss mae needs a ViT .* not siglip"):
        Reconstruct(siglip, seed=0)
    with pytest.raises(ModelError, match=r"at least 16"):
        Reconstruct(adapted(folder, image_size=8), seed=0)


def test_the_embedded_model_takes_it() -> None:
    model = load_backbone("embedded", path=None, image_size=32)
    attach_lora(model, rank=1, alpha=1, seed=0)
    objective = Reconstruct(model, seed=0)
    pixels, noise = batch(32)
    assert torch.isfinite(objective(pixels, noise)["loss"])
