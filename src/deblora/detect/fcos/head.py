"""From maps of a backbone to levels of doubling stride, and the oriented FCOS head on them (arXiv 1904.01355)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import nn
from torch.nn import functional

from deblora.detect.boxes import wrap_angle
from deblora.detect.fcos.assign import N_CHANNELS, AngleCoding, decode_boxes, grid_points
from deblora.detect.fcos.class_loss import Scoring
from deblora.detect.overlap import rotated_nms

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
    """Coarser levels by 3x3 convolutions of stride 2 and layer norm on the last level; ReLU before all but the first.

    Without the norm values grow thirtyfold from the finest to the coarsest level (ours, docs/log.md).
    """

    def __init__(self, n_channels: int, n_extra: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(n_channels, n_channels, 3, stride=2, padding=1, bias=False), ChannelNorm(n_channels)
            )
            for _ in range(n_extra)
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
    """Levels from several maps (arXiv 1612.03144): 1x1 laterals, a top-down sum, 3x3 convolutions with layer norm.

    Args:
        n_in: Channels of every map, finest first; strides double from map to map.
        n_channels: Channels of every level.
        n_extra: Further levels on top, each of half the size.
    """

    def __init__(self, n_in: Sequence[int], n_channels: int, *, n_extra: int = N_EXTRA) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(n, n_channels, 1) for n in n_in)
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(n_channels, n_channels, 3, padding=1, bias=False), ChannelNorm(n_channels)
            )
            for _ in n_in
        )
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


# The reference recipe: mmrotate's rotated FCOS on DOTA.
N_CONVS, INIT_STD = 4, 0.01
SCORE_THRESHOLD, NMS_THRESHOLD, MAX_DETECTIONS, TOP_K = 0.05, 0.1, 2000, 2000
# Ours: boxes start two strides wide around their point. At 0, the reference's start, a length that is clamped has no
# gradient, and an empty box has no overlap to grow from.
FIRST_LENGTHS: dict[AngleCoding, tuple[float, ...]] = {"vector": (0.0, 0.0, 2.0, 2.0), "raw": (1.0,) * 4}
N_FREE = {"vector": 2, "raw": 0}  # lengths that may be negative: the offset of the center


@dataclass(frozen=True)
class Level:
    """Raw outputs of one level.

    Attributes:
        logits: Class channels.
        lengths: Four lengths in pixels, see :func:`deblora.detect.fcos.assign.encode`.
        angle: Angle channels.
        centerness: Logit.
        points: Location of every row in pixels.
        stride: Pixels between neighboring locations.
        inside: Whether the location lies in the image: not in what it is filled up with.
    """

    logits: Float[torch.Tensor, "b p k"]
    lengths: Float[torch.Tensor, "b p 4"]
    angle: Float[torch.Tensor, "b p a"]
    centerness: Float[torch.Tensor, "b p"]
    points: Float[torch.Tensor, "p 2"]
    stride: float
    inside: Bool[torch.Tensor, " p"]


@dataclass(frozen=True)
class Detections:
    """Detections of one image by falling score; ``w`` may be shorter than ``h``, theta is in ``[-pi/2, pi/2)``."""

    boxes: Float[torch.Tensor, "n 5"]
    scores: Float[torch.Tensor, " n"]
    labels: Int[torch.Tensor, " n"]


class FCOSHead(nn.Module):
    """Two towers of 3x3 convolutions, layer norm and ReLU, shared by all levels.

    The norm is over the channels of a cell, not over groups of channels and the whole map as in FCOS: what a cell says
    then does not depend on how much of a scene is seen at once (ours, docs/log.md).

    The classification tower gives the class channels; the regression tower the four lengths (in strides, times a
    learnable scale per level; sides are clamped at 0), the angle channels (times one learnable scale) and the
    centerness.

    Args:
        n_channels: Channels of the levels and of the towers.
        n_levels: Number of levels.
        bias: First bias of the class channels; its length is their number.
        angle: Coding of boxes and angles.
        n_convs: Convolutions per tower.
    """

    def __init__(
        self,
        n_channels: int,
        n_levels: int,
        *,
        bias: Float[torch.Tensor, " k"],
        angle: AngleCoding = "vector",
        n_convs: int = N_CONVS,
    ) -> None:
        super().__init__()
        self.n_free = N_FREE[angle]
        self.classify, self.regress = _tower(n_channels, n_convs), _tower(n_channels, n_convs)
        self.logits = nn.Conv2d(n_channels, len(bias), 3, padding=1)
        self.lengths = nn.Conv2d(n_channels, 4, 3, padding=1)
        self.angle = nn.Conv2d(n_channels, N_CHANNELS[angle], 3, padding=1)
        self.centerness = nn.Conv2d(n_channels, 1, 3, padding=1)
        self.length_scales = nn.Parameter(torch.ones(n_levels))
        self.angle_scale = nn.Parameter(torch.ones(()))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.logits.bias.copy_(bias)  # type: ignore[union-attr]
            self.lengths.bias.copy_(torch.tensor(FIRST_LENGTHS[angle]))  # type: ignore[union-attr]

    def forward(
        self,
        levels: Sequence[Float[torch.Tensor, "b c h w"]],
        strides: Sequence[float],
        extent: tuple[int, int],
    ) -> list[Level]:
        """Return the raw outputs of every level of images with these rows and columns."""
        return [
            self._level(x, scale, stride, extent)
            for x, scale, stride in zip(levels, self.length_scales, strides, strict=True)
        ]

    def _level(
        self, x: Float[torch.Tensor, "b c h w"], scale: torch.Tensor, stride: float, extent: tuple[int, int]
    ) -> Level:
        points = grid_points(x.shape[2], x.shape[3], stride, device=x.device)
        of_class, of_box = self.classify(x), self.regress(x)
        lengths = _rows(self.lengths(of_box) * scale)
        lengths = torch.cat([lengths[..., : self.n_free], lengths[..., self.n_free :].clamp(min=0)], dim=-1)
        return Level(
            logits=_rows(self.logits(of_class)),
            lengths=lengths * stride,
            angle=_rows(self.angle(of_box) * self.angle_scale),
            centerness=_rows(self.centerness(of_box))[..., 0],
            points=points,
            stride=stride,
            inside=(points < points.new_tensor(extent[::-1])).all(dim=1),
        )


@torch.no_grad()
def decode(
    levels: Sequence[Level],
    scoring: Scoring,
    *,
    coding: AngleCoding = "vector",
    score_threshold: float = SCORE_THRESHOLD,
    nms_threshold: float = NMS_THRESHOLD,
    max_detections: int = MAX_DETECTIONS,
    top_k: int = TOP_K,
) -> list[Detections]:
    """Return the detections of every image of a batch.

    Candidates are pairs of a location and a class whose class score is above ``score_threshold``. They are ranked by
    class score times centerness; the ``top_k`` best locations of each level go into class-wise rotated NMS.

    Args:
        levels: Raw outputs.
        scoring: Turns logits into class scores.
        coding: Coding of boxes and angles.
        score_threshold: On the class score alone, in [0, 1); .05 as in mmrotate.
        nms_threshold: Largest IoU of two detections of one class; .1 as in mmrotate.
        max_detections: Per image, 2,000 as in mmrotate.
        top_k: Locations per level before NMS, 2,000 as in mmrotate.
    """
    n_images = len(levels[0].logits)
    return [
        _decode_image(
            [_candidates(level, i, scoring, coding, score_threshold, top_k) for level in levels],
            nms_threshold,
            max_detections,
        )
        for i in range(n_images)
    ]


def _candidates(
    level: Level, image: int, scoring: Scoring, coding: AngleCoding, threshold: float, top_k: int
) -> Detections:
    scores = scoring.scores(level.logits[image])
    ranks = scores * level.centerness[image].sigmoid()[:, None]
    ranks = torch.where((scores > threshold) & level.inside[:, None], ranks, -1.0)
    best = ranks.amax(dim=1)
    place = best.argsort(descending=True, stable=True)[:top_k]
    place = place[best[place] >= 0]
    row, label = (ranks[place] >= 0).nonzero(as_tuple=True)
    place = place[row]
    boxes = decode_boxes(level.points[place], level.lengths[image, place], level.angle[image, place], coding)
    boxes = torch.cat([boxes[:, :4], wrap_angle(boxes[:, 4:])], dim=1)
    usable = boxes.isfinite().all(dim=1) & (boxes[:, 2:4] > 0).all(dim=1)
    return Detections(boxes[usable], ranks[place, label][usable], label[usable])


def _decode_image(parts: Sequence[Detections], nms_threshold: float, max_detections: int) -> Detections:
    boxes = torch.cat([part.boxes for part in parts])
    scores = torch.cat([part.scores for part in parts])
    labels = torch.cat([part.labels for part in parts])
    keep = rotated_nms(boxes, scores, nms_threshold, classes=labels, max_keep=max_detections)
    return Detections(boxes[keep], scores[keep], labels[keep])


def _tower(n_channels: int, n_convs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(n_convs):
        layers += [
            nn.Conv2d(n_channels, n_channels, 3, padding=1, bias=False),
            ChannelNorm(n_channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def _rows(x: Float[torch.Tensor, "b k h w"]) -> Float[torch.Tensor, "b p k"]:
    """Lay cells out row by row, in full precision also where the network computes in half."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).to(torch.promote_types(x.dtype, torch.float32))
