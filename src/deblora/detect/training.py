"""The detector as an objective of ``train.loop.train``, and its weights as a file."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from deblora.detect.fcos.assign import assign, background_ratio, grid_points
from deblora.detect.fcos.detector import OrientedFCOS
from deblora.detect.fcos.head import Level
from deblora.detect.samples import Tile
from deblora.errors import ArtifactError
from deblora.files import write_atomic

FINEST_STRIDE = 8  # FCOS
N_LOOKED_AT = 200  # tiles


class Detect(nn.Module):
    """Loss of a batch of tiles with padded boxes."""

    def __init__(self, detector: OrientedFCOS) -> None:
        super().__init__()
        self.detector = detector

    def forward(
        self,
        pixels: Float[torch.Tensor, "b c t t"],
        boxes: Float[torch.Tensor, "b m 5"],
        labels: Int[torch.Tensor, "b m"],
    ) -> dict[str, Float[torch.Tensor, ""]]:
        """Return the loss; a label of -1 marks padding."""
        return {"loss": _loss(self.detector, self.detector(pixels), boxes, labels)}


class DetectOnMaps(nn.Module):
    """The same loss from the maps of a frozen extractor, which has no part in the step.

    Args:
        detector: Its extractor is not called.
        shapes: Of every map, finest first.
        tile: Side of a tile, pixels.
    """

    def __init__(self, detector: OrientedFCOS, shapes: Sequence[tuple[int, ...]], *, tile: int) -> None:
        super().__init__()
        self.detector, self._shapes = detector, [torch.Size(shape) for shape in shapes]
        self._strides = [tile // shape[-1] for shape in shapes]

    def forward(
        self,
        maps: Float[torch.Tensor, "b n"],
        boxes: Float[torch.Tensor, "b m 5"],
        labels: Int[torch.Tensor, "b m"],
    ) -> dict[str, Float[torch.Tensor, ""]]:
        """Return the loss; a label of -1 marks padding."""
        levels, start = [], 0
        for shape in self._shapes:
            levels.append(maps[:, start : start + shape.numel()].reshape(-1, *shape))
            start += shape.numel()
        return {"loss": _loss(self.detector, self.detector.from_maps(levels, self._strides), boxes, labels)}


def _loss(
    detector: OrientedFCOS, outputs: list[Level], boxes: torch.Tensor, labels: torch.Tensor
) -> Float[torch.Tensor, ""]:
    real = labels >= 0
    targets = detector.targets(
        outputs,
        [rows[keep] for rows, keep in zip(boxes, real, strict=True)],
        [rows[keep] for rows, keep in zip(labels, real, strict=True)],
    )
    return detector.loss(outputs, targets)["loss"]


def scales_for(stride: int) -> tuple[float, ...]:
    """Return the scales of a simple pyramid whose finest level is about 8 px (at most x4), down to x1/2."""
    first = 2.0 ** min(2, max(-1, round(math.log2(stride / FINEST_STRIDE))))
    scales = [first]
    while scales[-1] > 0.5:
        scales.append(scales[-1] / 2)
    return tuple(scales)


def measured_background_ratio(
    tiles: Sequence[Tile], strides: Sequence[float], *, tile: int, n_classes: int
) -> float:
    """Return background per assigned location over all training tiles, without augmentation.

    Args:
        tiles: Training tiles.
        strides: Of every level.
        tile: Side of a tile.
        n_classes: Number of classes.

    Raises:
        DataError: If no location is assigned.
    """
    points = _points(strides, tile)
    return background_ratio(
        (assign(points, strides, entry.boxes, entry.labels, n_classes=n_classes) for entry in tiles),
        n_classes=n_classes,
    )


def unassigned(
    tiles: Sequence[Tile], strides: Sequence[float], *, tile: int, n_classes: int
) -> tuple[Int[np.ndarray, " c"], Int[np.ndarray, " c"]]:
    """Return how many objects of each class were looked at, and how many of these no location learns.

    FCOS learns an object only from locations inside it, so objects narrower than the finest stride may teach nothing.
    Looks at most at 200 tiles, evenly spaced.

    Args:
        tiles: Training tiles.
        strides: Of every level.
        tile: Side of a tile.
        n_classes: Number of classes.
    """
    points = _points(strides, tile)
    n_seen, n_lost = np.zeros(n_classes, dtype=np.int64), np.zeros(n_classes, dtype=np.int64)
    for number in np.unique(np.linspace(0, len(tiles) - 1, N_LOOKED_AT).round().astype(np.int64)).tolist():
        boxes, labels = tiles[number].boxes, tiles[number].labels.numpy()
        own = torch.arange(len(boxes))
        learned = assign(points, strides, boxes, own, n_classes=len(boxes)).labels
        lost = ~torch.isin(own, learned).numpy()
        np.add.at(n_seen, labels, 1)
        np.add.at(n_lost, labels, lost)
    return n_seen, n_lost


def _points(strides: Sequence[float], tile: int) -> list[Float[torch.Tensor, "p 2"]]:
    cells = [math.ceil(tile / stride) for stride in strides]
    return [grid_points(n, n, stride) for n, stride in zip(cells, strides, strict=True)]


def save_weights(path: Path, detector: OrientedFCOS, *, with_extractor: bool) -> None:
    """Write pyramid, head and scoring, and the whole extractor where it was trained, as safetensors."""
    weights = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in detector.state_dict().items()
        if with_extractor or not name.startswith("extractor.")
    }
    write_atomic(path, save(weights))


def load_weights(path: Path, detector: OrientedFCOS) -> None:
    """Load what :func:`save_weights` wrote.

    Raises:
        ArtifactError: If the file is missing, damaged, or of another detector.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; train the detector first (deblora detect train)")
    try:
        weights = load_file(path)
        found = detector.load_state_dict(weights, strict=False)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"{path} does not fit the detector ({str(error)[:300]}); train it again"
        ) from error
    missing = [name for name in found.missing_keys if not name.startswith("extractor.")]
    if missing or found.unexpected_keys:
        name = (missing or found.unexpected_keys)[0]
        raise ArtifactError(f"{path} does not fit the detector (first difference: {name}); train it again")
