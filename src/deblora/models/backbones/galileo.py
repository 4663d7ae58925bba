"""Galileo-nano (arXiv 2502.09356): the spatial tokens of one band group of its encoder."""

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

from deblora.errors import ModelError
from deblora.files import file_sha256
from deblora.models.backbone import Backbone, InputSpec
from deblora.models.backbones.layers import token_map
from deblora.models.weights import read_weights, weights_file

WIDTH, DEPTH, N_HEADS, PATCH = 128, 4, 8, 8
GROUPS = ("S1", "S2_RGB", "S2_Red_Edge", "S2_NIR_10m", "S2_NIR_20m", "S2_SWIR", "NDVI")
N_BANDS = {"S1": 2, "S2_RGB": 3}
GSD_FACTOR, MONTH = 8, 6  # what the figures beside the weights were measured with
Sensor = Literal["S1", "S2_RGB"]


class Attention(nn.Module):
    """Self-attention with separate projections, as named in the weight file."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Float[torch.Tensor, "b t w"]) -> Float[torch.Tensor, "b t w"]:
        """Return attended tokens."""
        b, t, w = x.shape
        heads = (b, t, N_HEADS, w // N_HEADS)
        q, k, v = (layer(x).view(heads).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed: torch.Tensor = self.proj(
            functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, w)
        )
        return mixed


class Mlp(nn.Module):
    """Two linear layers with exact GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Float[torch.Tensor, "b t w"]) -> Float[torch.Tensor, "b t w"]:
        """Return transformed tokens."""
        out: torch.Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class TransformerBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(WIDTH), Attention()
        self.norm2, self.mlp = nn.LayerNorm(WIDTH), Mlp()

    def forward(self, x: Float[torch.Tensor, "b t w"]) -> Float[torch.Tensor, "b t w"]:
        """Return transformed tokens."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GalileoEncoder(nn.Module):
    """Patch embedding of one band group, positions, blocks, norm; no class token."""

    map_multiple = PATCH

    def __init__(self, sensor: Sensor) -> None:
        super().__init__()
        self.sensor = sensor
        self.fixed_bands = True  # a band group is what the weights know; see with_bands of models/backbone.py
        self.proj = nn.Conv2d(N_BANDS[sensor], WIDTH, PATCH, PATCH)
        self.fixed: torch.Tensor
        self.register_buffer("fixed", torch.zeros(3 * WIDTH // 4))
        self.blocks = nn.ModuleList(TransformerBlock() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, pixels: Float[torch.Tensor, "b c h w"]) -> Float[torch.Tensor, "b 128"]:
        """Return the mean of the tokens."""
        mean: torch.Tensor = self.tokens(pixels).mean(dim=1)
        return mean

    def tokens(self, pixels: Float[torch.Tensor, "b c h w"]) -> Float[torch.Tensor, "b t 128"]:
        """Return the normalized tokens of the patches, row by row; positions are computed for any size."""
        if self.sensor == "S2_RGB":
            pixels = pixels.flip(1)  # the weights expect blue, green, red
        grid = self.proj(pixels)
        rows, columns = grid.shape[2:]
        tokens = grid.flatten(2).transpose(1, 2)
        place = position_code(rows, columns).to(tokens)
        tokens = tokens + torch.cat([self.fixed.expand(rows * columns, -1), place], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        normalized: torch.Tensor = self.norm(tokens)
        return normalized

    def feature_maps(self, pixels: Float[torch.Tensor, "b c h w"]) -> list[Float[torch.Tensor, "b d h2 w2"]]:
        """Return one map, the tokens in the order of the patches."""
        return [token_map(self.tokens(pixels), pixels, patch=PATCH, name="galileo-nano")]


def position_code(rows: int, columns: int) -> Float[torch.Tensor, "t 32"]:
    """Return ``[sin x, cos x, sin y, cos y]`` with ``omega_i = 10000^(-i/32)``, i = 0..7."""
    omega = 10000.0 ** (-torch.arange(8, dtype=torch.float64) / 32)
    y, x = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64) * GSD_FACTOR,
        torch.arange(columns, dtype=torch.float64) * GSD_FACTOR,
        indexing="ij",
    )
    angles = [axis.reshape(-1, 1) * omega for axis in (x, y)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()


def load(path: Path, *, image_size: int | None = None, sensor: str = "S2_RGB") -> Backbone:
    """Load Galileo-nano for 8-bit pictures: pixels / 255, default 128 px, ground sampling factor 8.

    Args:
        path: Folder with ``model.safetensors`` in original names.
        image_size: Pixels per side, a multiple of 8.
        sensor: ``S2_RGB`` (red, green, blue in) or ``S1`` (VV, VH; one gray band is repeated).

    Raises:
        ModelError: If weights are missing or foreign, or the size does not fit the patches.
    """
    size = image_size or 128
    if size % PATCH:
        raise ModelError(f"backbone.image_size is {size}; Galileo needs a multiple of {PATCH}")
    if sensor not in N_BANDS:
        raise ModelError(f"backbone.sensor is {sensor!r}; known are {', '.join(N_BANDS)}")
    file = weights_file(path)
    encoder = GalileoEncoder("S1" if sensor == "S1" else "S2_RGB")
    try:
        encoder.load_state_dict(_select(read_weights(file), sensor))
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"{file} does not hold the Galileo-nano encoder: {str(error)[:300]}") from error
    n = N_BANDS[sensor]
    layers = ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2")
    return Backbone(
        encoder,
        lambda module, pixels: module(pixels),
        spec=InputSpec(n, size, (0.0,) * n, (1.0,) * n, 255.0),
        feature_size=WIDTH,
        name="galileo-nano",
        weights_sha256=file_sha256(file),
        lora_targets=tuple(f"blocks.{i}.{layer}" for i in range(DEPTH) for layer in layers),
        pool="mean",
    )


def _select(weights: dict[str, torch.Tensor], sensor: str) -> dict[str, torch.Tensor]:
    """Pick and rename what one band group needs; channel, time and month codes become one constant."""
    chosen = {key: value for key, value in weights.items() if key.startswith(("blocks.", "norm."))}
    for part in ("weight", "bias"):
        chosen[f"proj.{part}"] = weights[f"space_time_embed.{sensor}.proj.{part}"]
    chosen["fixed"] = torch.cat(
        [
            weights["s_t_channel_embed"][GROUPS.index(sensor)],
            weights["pos_embed"][0],
            weights["month_embed.weight"][MONTH],
        ]
    )
    return chosen
