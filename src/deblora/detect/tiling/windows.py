"""From windows of a scene to the square, normalized tiles that a detector sees, and back."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch.nn import functional

from deblora.data.scenes.rasters import Scene
from deblora.detect.tiling.tiles import Window, tile_grid
from deblora.errors import DataError


@dataclass(frozen=True)
class TileSpec:
    """How tiles are cut and normalized: ``(x / scale - mean) / std``.

    Attributes:
        tile: Side as the model sees it, pixels.
        overlap: Pixels of the tile that neighbors share at least.
        zoom: Pixels of the tile per pixel of the scene.
        mean: Per band, in units of ``scale``.
        std: Per band, in units of ``scale``.
        scale: What counts as 1.
    """

    tile: int
    overlap: int
    zoom: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float

    @property
    def side(self) -> int:
        """Side of a tile in pixels of the scene, whole."""
        return max(1, round(self.tile / self.zoom))

    @property
    def factor(self) -> float:
        """Pixels of the scene per pixel of the tile, exactly."""
        return self.side / self.tile

    def windows(self, height: int, width: int) -> tuple[Window, ...]:
        """Plan the windows of a scene, in its pixels."""
        overlap = min(self.side - 1, round(self.overlap / self.zoom))
        return tile_grid(height, width, tile=self.side, overlap=overlap)


def read_tile(scene: Scene, window: Window, spec: TileSpec) -> Float[torch.Tensor, "c t t"]:
    """Read a window as a normalized tile; what lies beyond the scene is the mean color (0 after normalization).

    Raises:
        DataError: If the scene has neither one band nor as many as the model.
    """
    width, height = min(window.width, scene.width - window.x), min(window.height, scene.height - window.y)
    pixels = scene.read(window.x, window.y, width, height)
    tile = normalized(pixels, spec)
    tile = functional.pad(tile, (0, window.width - width, 0, window.height - height))
    if tile.shape[1:] != (spec.tile, spec.tile):
        size = (spec.tile, spec.tile)
        tile = functional.interpolate(
            tile[None], size=size, mode="bilinear", antialias=True, align_corners=False
        )[0]
    return tile


def normalized(pixels: Shaped[np.ndarray, "h w b"], spec: TileSpec) -> Float[torch.Tensor, "c h w"]:
    """Return scaled and standardized pixels; one band is repeated, and a value that is missing (NaN) is the mean.

    Raises:
        DataError: If the number of bands does not fit.
    """
    n_bands = len(spec.mean)
    if pixels.shape[2] not in (1, n_bands):
        raise DataError(
            f"the image has {pixels.shape[2]} bands, the backbone takes {n_bands} (or one, repeated); "
            "choose another backbone or convert the images"
        )
    image = torch.from_numpy(np.array(pixels.transpose(2, 0, 1), dtype=np.float32, order="C"))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    return torch.nan_to_num((image / spec.scale - mean) / std, nan=0.0, posinf=0.0, neginf=0.0)
