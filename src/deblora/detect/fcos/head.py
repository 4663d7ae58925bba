"""The oriented FCOS head, and the boxes its outputs stand for (arXiv 1904.01355, with an angle)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import nn

from deblora.detect.boxes.convert import wrap_angle
from deblora.detect.boxes.nms import rotated_nms
from deblora.detect.fcos.class_loss import Scoring
from deblora.detect.fcos.coding import N_CHANNELS, AngleCoding, decode_boxes, grid_points

# The reference recipe: mmrotate's rotated FCOS on DOTA.
N_CONVS, CHANNELS_PER_GROUP, INIT_STD = 4, 8, 0.01  # 32 groups of 256 channels
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
        lengths: Four lengths in pixels, see :func:`deblora.detect.fcos.coding.encode`.
        angle: Angle channels.
        centerness: Logit.
        points: Location of every row in pixels.
        stride: Pixels between neighboring locations.
    """

    logits: Float[torch.Tensor, "b p k"]
    lengths: Float[torch.Tensor, "b p 4"]
    angle: Float[torch.Tensor, "b p a"]
    centerness: Float[torch.Tensor, "b p"]
    points: Float[torch.Tensor, "p 2"]
    stride: float


@dataclass(frozen=True)
class Detections:
    """Detections of one image by falling score; ``w`` may be shorter than ``h``, theta is in ``[-pi/2, pi/2)``."""

    boxes: Float[torch.Tensor, "n 5"]
    scores: Float[torch.Tensor, " n"]
    labels: Int[torch.Tensor, " n"]


class FCOSHead(nn.Module):
    """Two towers of 3x3 convolutions, group norm and ReLU, shared by all levels.

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
        self, levels: Sequence[Float[torch.Tensor, "b c h w"]], strides: Sequence[float]
    ) -> list[Level]:
        """Return the raw outputs of every level."""
        return [
            self._level(x, scale, stride)
            for x, scale, stride in zip(levels, self.length_scales, strides, strict=True)
        ]

    def _level(self, x: Float[torch.Tensor, "b c h w"], scale: torch.Tensor, stride: float) -> Level:
        of_class, of_box = self.classify(x), self.regress(x)
        lengths = _rows(self.lengths(of_box) * scale)
        lengths = torch.cat([lengths[..., : self.n_free], lengths[..., self.n_free :].clamp(min=0)], dim=-1)
        return Level(
            logits=_rows(self.logits(of_class)),
            lengths=lengths * stride,
            angle=_rows(self.angle(of_box) * self.angle_scale),
            centerness=_rows(self.centerness(of_box))[..., 0],
            points=grid_points(x.shape[2], x.shape[3], stride, device=x.device),
            stride=stride,
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
    ranks = torch.where(scores > threshold, ranks, -1.0)
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
    # Not one channel per group: narrow towers could not normalize a level of a single cell.
    n_groups = n_channels // math.gcd(n_channels, CHANNELS_PER_GROUP)
    layers: list[nn.Module] = []
    for _ in range(n_convs):
        layers += [
            nn.Conv2d(n_channels, n_channels, 3, padding=1, bias=False),
            nn.GroupNorm(n_groups, n_channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def _rows(x: Float[torch.Tensor, "b k h w"]) -> Float[torch.Tensor, "b p k"]:
    """Lay cells out row by row, in full precision also where the network computes in half."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).to(torch.promote_types(x.dtype, torch.float32))
