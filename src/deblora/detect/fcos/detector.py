"""The detector: feature maps of a backbone, pyramid, head; targets, loss and detections of a batch."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import nn

from deblora.detect.fcos.assign import AngleCoding, Targets, assign
from deblora.detect.fcos.class_loss import Scoring
from deblora.detect.fcos.head import (
    MAX_DETECTIONS,
    N_CONVS,
    NMS_THRESHOLD,
    SCALES,
    SCORE_THRESHOLD,
    Detections,
    FCOSHead,
    FeaturePyramid,
    Level,
    SimplePyramid,
    build_pyramid,
    decode,
)
from deblora.detect.fcos.loss import BoxLoss, detection_losses
from deblora.models.backbone import Backbone
from deblora.models.maps import feature_maps, fill_up, map_channels, map_strides, size_multiple

N_CHANNELS = 256  # of the levels: FCOS, mmrotate


class OrientedFCOS(nn.Module):
    """Oriented FCOS on any extractor of feature maps.

    Args:
        extractor: The backbone; what is trainable in it is decided outside.
        pyramid: From its maps to levels.
        head: From levels to raw outputs.
        scoring: Meaning and loss of the class channels.
        angle: Coding of boxes and angles; the one of the head.
        box_loss: ``riou`` or ``kld``.
        maps: Turns extractor and pixels into maps, finest first.
        multiple: Pixels of which height and width of what the extractor sees must be multiples.
    """

    def __init__(
        self,
        extractor: nn.Module,
        pyramid: SimplePyramid | FeaturePyramid,
        head: FCOSHead,
        scoring: Scoring,
        *,
        angle: AngleCoding = "vector",
        box_loss: BoxLoss = "riou",
        maps: Callable[..., list[torch.Tensor]] = feature_maps,
        multiple: int = 1,
    ) -> None:
        super().__init__()
        self.extractor, self.pyramid, self.head, self.scoring = extractor, pyramid, head, scoring
        self.angle, self.box_loss, self._maps, self._multiple = angle, box_loss, maps, multiple

    def forward(self, pixels: Float[torch.Tensor, "b c h w"]) -> list[Level]:
        """Return the raw outputs of every level, finest first, of images of any size."""
        filled = fill_up(pixels, self._multiple)
        maps = self._maps(self.extractor, filled)
        return self.from_maps(maps, map_strides(filled, maps), (pixels.shape[2], pixels.shape[3]))

    def from_maps(
        self,
        maps: Sequence[Float[torch.Tensor, "b d h2 w2"]],
        strides: Sequence[float],
        extent: tuple[int, int],
    ) -> list[Level]:
        """Return the raw outputs of every level from maps, their strides, and the rows and columns of the images."""
        levels: list[Level] = self.head(self.pyramid(maps), self.pyramid.strides(strides), extent)
        return levels

    def targets(
        self,
        outputs: Sequence[Level],
        boxes: Sequence[Float[torch.Tensor, "n 5"]],
        labels: Sequence[Int[torch.Tensor, " n"]],
    ) -> list[Targets]:
        """Return what the locations of every image learn; ``boxes`` and ``labels`` have one entry per image."""
        points, strides = [level.points for level in outputs], [level.stride for level in outputs]
        return [
            assign(
                points,
                strides,
                of_image.to(points[0]),
                classes.to(points[0].device),
                n_classes=self.scoring.n_classes,
            )
            for of_image, classes in zip(boxes, labels, strict=True)
        ]

    def loss(self, parts: Sequence[tuple[Sequence[Level], Sequence[Targets]]]) -> dict[str, torch.Tensor]:
        """Return the parts of the loss and their sum, see :func:`deblora.detect.fcos.loss.detection_losses`."""
        return detection_losses(parts, self.scoring, coding=self.angle, box_loss=self.box_loss)

    def decode(
        self,
        outputs: Sequence[Level],
        *,
        score_threshold: float = SCORE_THRESHOLD,
        nms_threshold: float = NMS_THRESHOLD,
        max_detections: int = MAX_DETECTIONS,
    ) -> list[Detections]:
        """Return the detections of every image, see :func:`deblora.detect.fcos.head.decode`."""
        return decode(
            outputs,
            self.scoring,
            coding=self.angle,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
            max_detections=max_detections,
        )


def build_detector(
    backbone: Backbone,
    scoring: Scoring,
    *,
    seed: int,
    n_channels: int = N_CHANNELS,
    n_convs: int = N_CONVS,
    scales: Sequence[float] = SCALES,
    angle: AngleCoding = "vector",
    box_loss: BoxLoss = "riou",
) -> OrientedFCOS:
    """Return a detector with a fresh pyramid and head; the same seed gives the same ones for equal backbones.

    Args:
        backbone: Loaded backbone, with or without adapters.
        scoring: Meaning and loss of the class channels.
        seed: Of the fresh weights; the global generator is left alone.
        n_channels: Channels of the levels.
        n_convs: Convolutions per tower.
        scales: For backbones with one map, see :class:`deblora.detect.fcos.head.SimplePyramid`; choose them so that
            the finest stride is 8 px or the size of the smallest objects.
        angle: Coding of boxes and angles.
        box_loss: ``riou`` or ``kld``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pyramid = build_pyramid(map_channels(backbone), n_channels, scales=scales)
        head = FCOSHead(n_channels, pyramid.n_levels, bias=scoring.bias, angle=angle, n_convs=n_convs)
    multiple = size_multiple(backbone)
    return OrientedFCOS(backbone, pyramid, head, scoring, angle=angle, box_loss=box_loss, multiple=multiple)


FRESH_STD = 0.02  # of class tokens and position codes, as ViTs start


def used_parameters(backbone: Backbone) -> list[nn.Parameter]:
    """Return the parameters that feature maps depend on: a classifier on top of them does not count.

    Found by asking for the gradient of the maps of one blank image.
    """
    parameters = list(backbone.encoder.parameters())
    was = [parameter.requires_grad for parameter in parameters]
    size = 2 * size_multiple(backbone)
    try:
        backbone.encoder.requires_grad_(True)
        blank = torch.zeros(1, backbone.spec.n_bands, size, size, device=parameters[0].device)
        total = torch.stack([level.float().sum() for level in feature_maps(backbone, blank)]).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    finally:
        for parameter, flag in zip(parameters, was, strict=True):
            parameter.requires_grad_(flag)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


def n_parameters(backbone: Backbone) -> tuple[int, int]:
    """Return how many numbers of the extractor take part, and how many of these are trained."""
    used = used_parameters(backbone)
    return sum(p.numel() for p in used), sum(p.numel() for p in used if p.requires_grad)


def train_all(backbone: Backbone) -> None:
    """Make every parameter trainable that feature maps depend on. Batch-norm statistics stay as they are."""
    for parameter in used_parameters(backbone):
        parameter.requires_grad_(True)


@torch.no_grad()
def start_afresh(backbone: Backbone, *, seed: int, pixels: Float[torch.Tensor, "b c h w"]) -> None:
    """Replace all weights by random ones: the start of the row "from scratch".

    Layers draw as PyTorch initializes them, other parameters (tokens, position codes) from a normal distribution of
    deviation .02. Because statistics of batch norm stay fixed in training here, they are set once from ``pixels``.

    Args:
        backbone: Changed in place.
        seed: Of the weights; the global generator is left alone.
        pixels: Normalized training images.
    """
    owned: set[int] = set()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in backbone.encoder.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                owned.update(id(parameter) for parameter in module.parameters())
        for parameter in backbone.encoder.parameters():
            if id(parameter) not in owned:
                parameter.normal_(std=FRESH_STD)
    norms = [module for module in backbone.encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        feature_maps(backbone, pixels)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
