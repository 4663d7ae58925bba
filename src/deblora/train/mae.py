"""Masked reconstruction (arXiv 2111.06377) as what the first adapter minimizes; it needs no label.

Of the ``n`` patches of an image, ``n_visible = n - round(mask_ratio n)`` at random places go through the encoder; a
decoder predicts the pixels ``y`` of the others. With ``M`` the masked patches, ``p`` the numbers of a patch and
``t = (x - mean(x)) / sqrt(var(x) + 1e-6)`` taken within each patch::

    loss = 1 / (|M| p) sum over M of || y - t ||^2
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn
from torch.utils.data import Dataset

from deblora.errors import ModelError
from deblora.models.backbone import Backbone
from deblora.models.backbones.mae_weights import LIGHT, fit_grid, new_decoder

MASK_RATIO = 0.75  # arXiv 2111.06377


class Reconstruct(nn.Module):
    """Predict masked patches from the visible ones.

    The decoder that comes with the weights stays as it is, so that the adapter alone has to explain the new images
    (our choice). Where there is none, or it was made for other bands, a light one is trained beside the adapter and
    thrown away.

    Args:
        backbone: Model with a trainable adapter; its encoder is a ViT of transformers.
        mask_ratio: Share of the patches that is hidden, in (0, 1).
        seed: Seed of a new decoder.

    Raises:
        ModelError: If the encoder is another one, or the image has too few patches to hide some.
    """

    def __init__(self, backbone: Backbone, *, mask_ratio: float = MASK_RATIO, seed: int) -> None:
        super().__init__()
        self.backbone = backbone
        config = _vit(backbone).config
        self.patch: int = config.patch_size
        self.side: int = backbone.spec.image_size // self.patch
        self.n_visible = self.side**2 - round(mask_ratio * self.side**2)
        if backbone.spec.image_size % self.patch or not 0 < self.n_visible < self.side**2:
            raise ModelError(
                f"lora.loss mae hides {mask_ratio:.0%} of the patches, but images of {backbone.spec.image_size} px "
                f"do not divide into enough patches of {self.patch} px; set backbone.image_size to a multiple of "
                f"{self.patch}, at least {2 * self.patch}"
            )
        self.decoder = _decoder(backbone, self.side, seed)

    def forward(
        self, pixels: Float[torch.Tensor, "b c h w"], noise: Float[torch.Tensor, "b n"]
    ) -> dict[str, torch.Tensor]:
        """Return the loss of a batch.

        Args:
            pixels: Normalized images.
            noise: One number per patch; the patches with the smallest are visible.
        """
        order = noise.argsort(dim=1)
        place = order.argsort(dim=1)
        hidden = visible_tokens(self.backbone, pixels, order[:, : self.n_visible])
        predicted = self.decoder(hidden, place).logits
        target = patches(pixels, self.patch)
        mean, variance = target.mean(dim=-1, keepdim=True), target.var(dim=-1, keepdim=True)
        error = (predicted - (target - mean) / (variance + 1e-6).sqrt()).square().mean(dim=-1)
        masked = (place >= self.n_visible).to(error.dtype)
        return {"loss": (error * masked).sum() / masked.sum()}


def visible_tokens(
    backbone: Backbone, pixels: Float[torch.Tensor, "b c h w"], visible: Int[torch.Tensor, "b v"]
) -> Float[torch.Tensor, "b t d"]:
    """Return class token and visible patches after the encoder; adapters that are attached take part.

    Args:
        backbone: Its encoder is a ViT of transformers.
        pixels: Normalized images.
        visible: Numbers of the patches that the encoder sees, row by row.
    """
    vit = _vit(backbone)
    tokens = vit.embeddings(pixels, interpolate_pos_encoding=True)
    rows = visible.unsqueeze(-1).expand(-1, -1, tokens.shape[2])
    hidden = torch.cat([tokens[:, :1], tokens[:, 1:].gather(1, rows)], dim=1)
    for layer in vit.layers:
        hidden = layer(hidden)
    normalized: torch.Tensor = vit.layernorm(hidden)
    return normalized


def patches(pixels: Float[torch.Tensor, "b c h w"], side: int) -> Float[torch.Tensor, "b n p"]:
    """Return patches row by row, the numbers of each in the order row, column, band."""
    b, c, h, w = pixels.shape
    grid = pixels.reshape(b, c, h // side, side, w // side, side)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, side * side * c)


class WithNoise(Dataset[dict[str, torch.Tensor]]):
    """Samples of another data set with the numbers that hide patches instead of labels.

    The numbers of sample ``i`` depend on the seed and ``i`` only, so a resumed run hides the same patches.

    Args:
        samples: Gives ``pixels``, a fixed sample for each number.
        n_patches: Patches of an image.
        seed: Seed of the numbers.
    """

    def __init__(self, samples: Dataset[dict[str, torch.Tensor]], *, n_patches: int, seed: int) -> None:
        self.samples, self.n_patches, self.seed = samples, n_patches, seed

    def __len__(self) -> int:
        return len(self.samples)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        noise = np.random.default_rng([self.seed, index, 1]).random(self.n_patches, dtype=np.float32)
        return {"pixels": self.samples[index]["pixels"], "noise": torch.from_numpy(noise)}


def _vit(backbone: Backbone) -> Any:
    """Return the ViT inside adapters.

    Raises:
        ModelError: If the encoder is another model.
    """
    import transformers

    encoder: Any = backbone.encoder
    vit = encoder.get_base_model() if hasattr(encoder, "peft_config") else encoder
    if not isinstance(vit, transformers.ViTModel):
        raise ModelError(
            f"lora.loss mae needs a ViT whose patches can be hidden (embedded, vit, vit-mae or satmae), not "
            f"{backbone.name}; choose another lora.loss"
        )
    return vit


def _decoder(backbone: Backbone, side: int, seed: int) -> Any:
    config, n_bands = _vit(backbone).config, backbone.spec.n_bands
    if backbone.open_decoder is not None:
        own: Any = backbone.open_decoder()
        if own is not None and own.decoder_pred.out_features == config.patch_size**2 * n_bands:
            fit_grid(own, side)
            return own.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings = {
            "hidden_size": config.hidden_size,
            "patch_size": config.patch_size,
            "image_size": side * config.patch_size,
            "num_channels": n_bands,
        }
        return new_decoder({**settings, **LIGHT})
