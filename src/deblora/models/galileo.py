"""Galileo-nano, a real pre-trained transformer for satellite images (Tseng et al. 2025), one band group at a time."""

import json
from pathlib import Path

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

from deblora.errors import ModelError
from deblora.models.backbone import Backbone, Identity, InputSpec
from deblora.models.weights import files_sha256, fill, find_weights, load_tensors

# index in the group embedding and number of bands; source: authors' code
SENSORS = {"S1": (0, 2), "S2_RGB": (1, 3)}
PATCH = 8
GSD_FACTOR = 8.0  # 8 px x 10 m / 10 m: positions as if chips had 10 m pixels (ours)
MONTH = 6  # July, 0-based; chips carry no date (ours)
DEFAULT_IMAGE_SIZE = 128
DEFAULT_HEADS = 8
_OTHER_INPUTS = (
    "space_time_embed.",
    "space_embed.",
    "time_embed.",
    "static_embed.",
    "sp_channel_embed",
    "t_channel_embed",
    "st_channel_embed",
)


class Attention(nn.Module):
    """Multi-head self-attention with separate projections."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[torch.Tensor, "b n d"]) -> Float[torch.Tensor, "b n d"]:
        """Attend among all tokens."""
        q, k, v = (
            layer(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        y = functional.scaled_dot_product_attention(q, k, v)
        out: torch.Tensor = self.proj(y.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Two linear layers with exact GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Float[torch.Tensor, "b n d"]) -> Float[torch.Tensor, "b n d"]:
        """Apply both layers."""
        out: torch.Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, n_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, n_heads)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, hidden)

    def forward(self, x: Float[torch.Tensor, "b n d"]) -> Float[torch.Tensor, "b n d"]:
        """Apply attention and MLP with their residuals."""
        x = x + self.attn(self.norm1(x))
        out: torch.Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchEmbedding(nn.Module):
    """The 8 x 8 patch projection of one band group."""

    def __init__(self, n_bands: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(n_bands, width, PATCH, stride=PATCH)

    def forward(self, x: Float[torch.Tensor, "b c h w"]) -> Float[torch.Tensor, "b d p q"]:
        """Project patches."""
        out: torch.Tensor = self.proj(x)
        return out


def sine_cosine(n_rows: int, n_columns: int, size: int) -> Float[torch.Tensor, "n size"]:
    """Return ``[sin x w, cos x w, sin y w, cos y w]`` per patch, row by row.

    ``x`` is the column and ``y`` the row, times ``GSD_FACTOR``; ``w_i = 10000^(-i / size)`` for ``i < size / 4``
    (authors' code).
    """
    quarter = size // 4
    omega = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / size)
    y, x = torch.meshgrid(
        torch.arange(n_rows, dtype=torch.float64), torch.arange(n_columns, dtype=torch.float64), indexing="ij"
    )
    angles = [GSD_FACTOR * axis.reshape(-1, 1) * omega for axis in (x, y)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1).float()


class GalileoEncoder(nn.Module):
    """Patch tokens of one sensor through the transformer; the output is the mean of the normalized tokens."""

    def __init__(
        self, sensor: str, *, width: int, depth: int, n_heads: int, hidden: int, n_times: int
    ) -> None:
        super().__init__()
        self.sensor = sensor
        part = width // 4
        self.space_time_embed = nn.ModuleDict({sensor: PatchEmbedding(SENSORS[sensor][1], width)})
        self.s_t_channel_embed = nn.Parameter(torch.zeros(7, part))
        self.pos_embed = nn.Parameter(torch.zeros(n_times, part))
        self.month_embed = nn.Embedding(12, part)
        self.blocks = nn.ModuleList([Block(width, n_heads, hidden) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels: Float[torch.Tensor, "b c h w"]) -> Float[torch.Tensor, "b d"]:
        """Encode; optical chips come as R, G, B and are turned into the B, G, R of the weights."""
        if self.sensor == "S2_RGB":
            pixels = pixels.flip(1)
        patches = self.space_time_embed[self.sensor](pixels)
        n_rows, n_columns = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        group = self.s_t_channel_embed[SENSORS[self.sensor][0]]
        fixed = torch.cat([group, self.pos_embed[0], self.month_embed.weight[MONTH]])
        position = sine_cosine(n_rows, n_columns, group.shape[0]).to(tokens)
        tokens = tokens + torch.cat([fixed.expand(n_rows * n_columns, -1), position], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        out: torch.Tensor = self.norm(tokens).mean(dim=1)
        return out


def _n_heads(folder: Path) -> int:
    config = folder / "encoder_config.json"
    if not config.is_file():
        return DEFAULT_HEADS
    try:
        return int(json.loads(config.read_text())["num_heads"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{config} is damaged ({error!r}); it must name num_heads") from error


def load_galileo(
    path: Path | None, *, image_size: int | None = None, pool: str = "mean", sensor: str = "S2_RGB"
) -> Backbone:
    """Load the encoder from a folder with ``model.safetensors`` and, optionally, ``encoder_config.json``.

    Raises:
        ModelError: If files are missing, damaged or of another architecture, or if a setting does not fit.
    """
    if sensor not in SENSORS:
        raise ModelError(f"galileo-nano: sensor {sensor!r} is unknown; choose one of {', '.join(SENSORS)}")
    if pool != "mean":
        raise ModelError(f"galileo-nano has no class token; pool must be 'mean', not {pool!r}")
    size = image_size or DEFAULT_IMAGE_SIZE
    if size % PATCH:
        raise ModelError(f"galileo-nano: image_size {size} must be a multiple of {PATCH}")
    files = find_weights(path)
    tensors = load_tensors(files[0])
    own = f"space_time_embed.{sensor}."
    tensors = {k: v for k, v in tensors.items() if k.startswith(own) or not k.startswith(_OTHER_INPUTS)}
    try:
        hidden, width = tensors["blocks.0.mlp.fc1.weight"].shape
        n_times = tensors["pos_embed"].shape[0]
    except KeyError as error:
        raise ModelError(f"{files[0]} is no Galileo encoder: {error} is missing") from error
    depth = len({key.split(".")[1] for key in tensors if key.startswith("blocks.")})
    heads = _n_heads(files[0].parent)
    encoder = GalileoEncoder(sensor, width=width, depth=depth, n_heads=heads, hidden=hidden, n_times=n_times)
    fill(encoder, tensors, files[0])
    n_bands = SENSORS[sensor][1]
    roles = ("q", "v", "fc1", "fc2")
    return Backbone(
        encoder,
        spec=InputSpec(n_bands, size, (0.0,) * n_bands, (1.0,) * n_bands, 255.0),
        feature_size=width,
        identity=Identity("galileo-nano", files_sha256(files), sensor),
        lora_targets=tuple(n for n, _ in encoder.named_modules() if n.rpartition(".")[2] in roles),
        pool=pool,
    )
