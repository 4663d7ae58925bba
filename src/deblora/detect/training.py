"""The detector as an objective of ``train.loop.train``, and its weights as a file."""

import math
from collections.abc import Callable, Sequence
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
from deblora.detect.samples import MapLayout, Tile
from deblora.errors import ArtifactError
from deblora.files import write_atomic

FINEST_STRIDE = 8  # FCOS
N_LOOKED_AT = 200  # tiles


class Detect(nn.Module):
    """Loss of a batch of tiles with padded boxes.

    Tiles of small images are not square; each batch is computed in parts of equal size.
    """

    def __init__(self, detector: OrientedFCOS) -> None:
        super().__init__()
        self.detector = detector

    def forward(
        self,
        pixels: Float[torch.Tensor, "b c t t"],
        boxes: Float[torch.Tensor, "b m 5"],
        labels: Int[torch.Tensor, "b m"],
        extents: Int[torch.Tensor, "b 2"],
    ) -> dict[str, Float[torch.Tensor, ""]]:
        """Return the loss; a label of -1 marks padding, ``extents`` are the rows and columns that are no padding."""

        def outputs(extent: tuple[int, int], rows: Int[torch.Tensor, " k"]) -> list[Level]:
            levels: list[Level] = self.detector(pixels[rows, :, : extent[0], : extent[1]])
            return levels

        return _loss(self.detector, outputs, boxes, labels, extents)


class DetectOnMaps(nn.Module):
    """The same loss from the maps of a frozen extractor, which has no part in the step.

    Args:
        detector: Its extractor is not called.
        layout: Of the maps in a row.
    """

    def __init__(self, detector: OrientedFCOS, layout: MapLayout) -> None:
        super().__init__()
        self.detector, self._layout = detector, layout

    def forward(
        self,
        maps: Float[torch.Tensor, "b n"],
        boxes: Float[torch.Tensor, "b m 5"],
        labels: Int[torch.Tensor, "b m"],
        extents: Int[torch.Tensor, "b 2"],
    ) -> dict[str, Float[torch.Tensor, ""]]:
        """Return the loss; see :class:`Detect`."""

        def outputs(extent: tuple[int, int], rows: Int[torch.Tensor, " k"]) -> list[Level]:
            levels, start = [], 0
            for shape in self._layout.shapes(extent):
                end = start + math.prod(shape)
                levels.append(maps[rows, start:end].reshape(-1, *shape))
                start = end
            return self.detector.from_maps(levels, self._layout.strides, extent)

        return _loss(self.detector, outputs, boxes, labels, extents)


def _loss(
    detector: OrientedFCOS,
    outputs: Callable[[tuple[int, int], torch.Tensor], list[Level]],
    boxes: Float[torch.Tensor, "b m 5"],
    labels: Int[torch.Tensor, "b m"],
    extents: Int[torch.Tensor, "b 2"],
) -> dict[str, Float[torch.Tensor, ""]]:
    sizes = [(int(rows), int(columns)) for rows, columns in extents.tolist()]
    parts = []
    for size in dict.fromkeys(sizes):
        rows = torch.tensor([i for i, own in enumerate(sizes) if own == size], device=labels.device)
        levels = outputs(size, rows)
        real = [labels[i] >= 0 for i in rows.tolist()]
        targets = detector.targets(
            levels,
            [boxes[i][keep] for i, keep in zip(rows.tolist(), real, strict=True)],
            [labels[i][keep] for i, keep in zip(rows.tolist(), real, strict=True)],
        )
        parts.append((levels, targets))
    return {"loss": detector.loss(parts)["loss"]}


def scales_for(stride: int) -> tuple[float, ...]:
    """Return the scales of a simple pyramid whose finest level is about 8 px (at most x4), down to x1/2."""
    first = 2.0 ** min(2, max(-1, round(math.log2(stride / FINEST_STRIDE))))
    scales = [first]
    while scales[-1] > 0.5:
        scales.append(scales[-1] / 2)
    return tuple(scales)


def measured_background_ratio(tiles: Sequence[Tile], strides: Sequence[float], *, n_classes: int) -> float:
    """Return background per assigned location over all training tiles, without augmentation.

    Args:
        tiles: Training tiles.
        strides: Of every level.
        n_classes: Number of classes.

    Raises:
        DataError: If no location is assigned.
    """
    return background_ratio(
        (
            assign(_points(strides, tile.extent), strides, tile.boxes, tile.labels, n_classes=n_classes)
            for tile in tiles
        ),
        n_classes=n_classes,
    )


def unassigned(
    tiles: Sequence[Tile], strides: Sequence[float], *, n_classes: int
) -> tuple[Int[np.ndarray, " c"], Int[np.ndarray, " c"]]:
    """Return how many objects of each class were looked at, and how many of these no location learns.

    FCOS learns an object only from locations inside it, so objects narrower than the finest stride may teach nothing.
    Looks at most at 200 tiles, evenly spaced.

    Args:
        tiles: Training tiles.
        strides: Of every level.
        n_classes: Number of classes.
    """
    n_seen, n_lost = np.zeros(n_classes, dtype=np.int64), np.zeros(n_classes, dtype=np.int64)
    for number in np.unique(np.linspace(0, len(tiles) - 1, N_LOOKED_AT).round().astype(np.int64)).tolist():
        boxes, labels = tiles[number].boxes, tiles[number].labels.numpy()
        own = torch.arange(len(boxes))
        points = _points(strides, tiles[number].extent)
        learned = assign(points, strides, boxes, own, n_classes=len(boxes)).labels
        lost = ~torch.isin(own, learned).numpy()
        np.add.at(n_seen, labels, 1)
        np.add.at(n_lost, labels, lost)
    return n_seen, n_lost


def _points(strides: Sequence[float], extent: tuple[int, int]) -> list[Float[torch.Tensor, "p 2"]]:
    """Return the locations inside a tile with these rows and columns."""
    end = torch.tensor(extent[::-1])
    grids = [
        grid_points(math.ceil(extent[0] / stride), math.ceil(extent[1] / stride), stride)
        for stride in strides
    ]
    return [points[(points < end).all(dim=1)] for points in grids]


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
