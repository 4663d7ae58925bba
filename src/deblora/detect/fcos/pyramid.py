"""From the maps of a backbone to the levels of the detector, each of twice the stride of the one before."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

N_EXTRA = 2  # P6 and P7, as in FCOS
SCALES = (
    2.0,
    1.0,
    0.5,
)  # a stride-16 map gives strides 8, 16, 32: ViTDet (arXiv 2203.16527) without its x4 level


class ChannelNorm(nn.Module):
    """Layer norm over the channels of every cell."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(n_channels, eps=1e-6)

    def forward(self, x: Float[torch.Tensor, "b c h w"]) -> Float[torch.Tensor, "b c h w"]:
        """Return the normalized map."""
        normed: torch.Tensor = self.norm(x.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)


class ExtraLevels(nn.Module):
    """Coarser levels by 3x3 convolutions of stride 2 on the last level; ReLU before all but the first."""

    def __init__(self, n_channels: int, n_extra: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(n_channels, n_channels, 3, stride=2, padding=1) for _ in range(n_extra)
        )

    def forward(self, levels: list[Float[torch.Tensor, "b c h w"]]) -> list[Float[torch.Tensor, "b c h2 w2"]]:
        """Return all levels, the given ones first."""
        levels = list(levels)
        for i, conv in enumerate(self.convs):
            levels.append(conv(levels[-1] if i == 0 else functional.relu(levels[-1])))
        return levels


class SimplePyramid(nn.Module):
    """Levels from a single map, as a plain transformer gives it: ViTDet's simple feature pyramid.

    Each level resizes the same map (x4: two 2x2 transposed convolutions, x2: one, x1: none, x1/2 and x1/4: max
    pooling), followed by a 1x1 and a 3x3 convolution with layer norm. Sizes that do not divide are rounded up.

    Args:
        n_in: Channels of the map.
        n_channels: Channels of every level.
        scales: Size of each level relative to the map, falling: 4, 2, 1, 1/2, 1/4.
        n_extra: Further levels, each of half the size.

    Raises:
        ValueError: If a scale is unknown or they do not halve from level to level.
    """

    def __init__(
        self, n_in: int, n_channels: int, *, scales: Sequence[float] = SCALES, n_extra: int = N_EXTRA
    ) -> None:
        super().__init__()
        if not scales or any(b * 2 != a for a, b in pairwise(scales)):
            raise ValueError(f"scales must halve from level to level, got {tuple(scales)}")
        self.levels = nn.ModuleList(
            nn.Sequential(
                *_resize(n_in, scale),
                nn.Conv2d(_width(n_in, scale), n_channels, 1, bias=False),
                ChannelNorm(n_channels),
                nn.Conv2d(n_channels, n_channels, 3, padding=1, bias=False),
                ChannelNorm(n_channels),
            )
            for scale in scales
        )
        self.extra = ExtraLevels(n_channels, n_extra)
        self.n_channels, self.n_levels = n_channels, len(scales) + n_extra
        self._first = 1 / scales[0]

    def strides(self, map_strides: Sequence[float]) -> tuple[float, ...]:
        """Return the stride of every level from that of the map."""
        return tuple(map_strides[0] * self._first * 2**i for i in range(self.n_levels))

    def forward(
        self, maps: Sequence[Float[torch.Tensor, "b d h w"]]
    ) -> list[Float[torch.Tensor, "b c h2 w2"]]:
        """Return the levels, finest first."""
        (single,) = maps
        levels: list[torch.Tensor] = self.extra([level(single) for level in self.levels])
        return levels


class FeaturePyramid(nn.Module):
    """Levels from several maps (arXiv 1612.03144): 1x1 laterals, a top-down sum, 3x3 convolutions.

    Args:
        n_in: Channels of every map, finest first; strides double from map to map.
        n_channels: Channels of every level.
        n_extra: Further levels on top, each of half the size.
    """

    def __init__(self, n_in: Sequence[int], n_channels: int, *, n_extra: int = N_EXTRA) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(n, n_channels, 1) for n in n_in)
        self.smooth = nn.ModuleList(nn.Conv2d(n_channels, n_channels, 3, padding=1) for _ in n_in)
        self.extra = ExtraLevels(n_channels, n_extra)
        self.n_channels, self.n_levels, self.n_extra = n_channels, len(n_in) + n_extra, n_extra

    def strides(self, map_strides: Sequence[float]) -> tuple[float, ...]:
        """Return the stride of every level from those of the maps.

        Raises:
            ValueError: If strides do not double from map to map.
        """
        if any(b != 2 * a for a, b in pairwise(map_strides)):
            raise ValueError(f"strides of the maps must double, got {tuple(map_strides)}")
        return (*map_strides, *(map_strides[-1] * 2 ** (i + 1) for i in range(self.n_extra)))

    def forward(
        self, maps: Sequence[Float[torch.Tensor, "b d h w"]]
    ) -> list[Float[torch.Tensor, "b c h2 w2"]]:
        """Return the levels, finest first."""
        levels = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + functional.interpolate(levels[i], size=levels[i - 1].shape[2:])
        out: list[torch.Tensor] = self.extra([conv(x) for conv, x in zip(self.smooth, levels, strict=True)])
        return out


def build_pyramid(
    n_in: Sequence[int],
    n_channels: int,
    *,
    scales: Sequence[float] = SCALES,
    n_extra: int = N_EXTRA,
) -> SimplePyramid | FeaturePyramid:
    """Return the pyramid for a backbone: simple for one map (which alone uses ``scales``), top-down for several."""
    if len(n_in) == 1:
        return SimplePyramid(n_in[0], n_channels, scales=scales, n_extra=n_extra)
    return FeaturePyramid(n_in, n_channels, n_extra=n_extra)


def _resize(n_in: int, scale: float) -> list[nn.Module]:
    if scale == 4:
        return [
            nn.ConvTranspose2d(n_in, n_in // 2, 2, stride=2),
            ChannelNorm(n_in // 2),
            nn.GELU(),
            nn.ConvTranspose2d(n_in // 2, n_in // 4, 2, stride=2),
        ]
    if scale == 2:
        return [nn.ConvTranspose2d(n_in, n_in // 2, 2, stride=2)]
    if scale == 1:
        return []
    if scale in (0.5, 0.25):
        window = round(1 / scale)
        return [nn.MaxPool2d(window, window, ceil_mode=True)]
    raise ValueError(f"scale {scale} is not one of 4, 2, 1, 0.5, 0.25")


def _width(n_in: int, scale: float) -> int:
    return n_in if scale <= 1 else n_in // round(scale)
