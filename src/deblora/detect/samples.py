"""What a training step of the detector sees: tile ``i`` of a seeded order, flipped, turned, with padded boxes.

Flips and turns suit optical images seen from above. In SAR images they change the side from which the sensor looks,
so leave them out there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch.utils.data import Dataset

from deblora.data.scenes.dota import Labels
from deblora.data.scenes.labeled_images import SceneFiles
from deblora.data.scenes.rasters import Scene
from deblora.detect.boxes import boxes_from_quads, flip_horizontal, rotate_90, scale
from deblora.detect.tiling import TileSpec, Window, read_tile, tile_labels
from deblora.errors import DataError
from deblora.files import write_atomic
from deblora.train.samples import training_order

Sample = tuple[Float[torch.Tensor, "c h w"], Float[torch.Tensor, "n 5"]]


class View(NamedTuple):
    """One of the eight ways to lay a square tile: mirrored left and right or not, then turned by quarters."""

    mirrored: bool
    quarters: int


def draw_view(
    generator: torch.Generator, *, flips: float = 0.75, turns: Sequence[int] = (0, 1, 2, 3)
) -> View:
    """Draw a flip and a turn, as one of eight views.

    Args:
        generator: Source of randomness; it is used equally often whatever the options.
        flips: Probability of a flip: horizontal, vertical or both, equally often. .75 as in mmrotate.
        turns: Quarter turns of which one is drawn (ours).
    """
    flip, kind, quarter = torch.rand(3, generator=generator).tolist()
    which = int(kind * 3) if flip < flips else -1
    half = 2 if which > 0 else 0  # a vertical flip is a horizontal one and half a turn; both are half a turn
    return View(which in (0, 1), (turns[int(quarter * len(turns))] + half) % 4)


def lay(pixels: Float[torch.Tensor, "c h w"], boxes: Float[torch.Tensor, "n 5"], view: View) -> Sample:
    """Mirror and turn an image with its boxes; no pixel changes its value."""
    if view.mirrored:
        pixels, boxes = pixels.flip(-1), flip_horizontal(boxes, pixels.shape[-1])
    height, width = pixels.shape[-2:]
    return pixels.rot90(view.quarters, (-2, -1)), rotate_90(boxes, view.quarters, width, height)


Maps = list[Float[torch.Tensor, "d h w"]]
Extract = Callable[[Float[torch.Tensor, "c t t"]], Sequence[Float[torch.Tensor, "d h w"]]]


class MapStore:
    """Maps in half precision, one file per entry; computed where they are not there yet.

    Half precision keeps 11 bits, about three decimal digits. What is computed is rounded too, so training does not
    depend on which entries were there. Files are written atomically: several runs on the same extractor may share a
    folder, at the same time.

    Args:
        folder: Of this extractor and normalization; another extractor needs another folder.
        extract: From pixels of one tile to maps, finest first.
        max_bytes: Entries beyond are computed each time.
    """

    def __init__(self, folder: Path, extract: Extract, *, max_bytes: int) -> None:
        self.folder, self._extract, self._max_bytes = folder, extract, max_bytes
        self._n_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))

    def get(self, name: str, pixels: Callable[[], Float[torch.Tensor, "c t t"]]) -> Maps:
        """Return the maps of an entry; ``pixels`` is called only if they are not stored, or their file is damaged."""
        path = self.folder / f"{name}.safetensors"
        if path.is_file():
            try:
                found = load_file(path)
                return [found[str(i)].float() for i in range(len(found))]
            except (SafetensorError, OSError, KeyError):
                path.unlink(missing_ok=True)
        halves = [level.detach().cpu().half().contiguous() for level in self._extract(pixels())]
        if self._n_bytes < self._max_bytes:
            content = save({str(i): level for i, level in enumerate(halves)})
            self._n_bytes += len(content)
            write_atomic(path, content)
        return [level.float() for level in halves]


MAX_CACHED_BYTES = 1 << 30  # small sets are decoded once


@dataclass(frozen=True)
class Tile:
    """A window of an image and the boxes it sees, in pixels of the tile."""

    image: str
    window: Window
    boxes: Float[torch.Tensor, "n 5"]
    labels: Int[torch.Tensor, " n"]


def plan_tiles(
    sizes: Mapping[str, tuple[int, int]],
    labels: Mapping[str, Labels],
    class_names: Sequence[str],
    spec: TileSpec,
    *,
    min_inside: float = 0.7,
    keep_empty: bool = False,
) -> list[Tile]:
    """Cut images into training tiles; truncated and difficult objects train like all others, as in mmrotate.

    Args:
        sizes: Height and width of every image.
        labels: Of every image; only classes of ``class_names``.
        class_names: A box's label is its position here.
        spec: How tiles are cut.
        min_inside: Least share of an object inside a tile.
        keep_empty: Keep tiles without objects.

    Raises:
        DataError: If no tile holds an object.
    """
    index = {name: i for i, name in enumerate(class_names)}
    tiles = []
    for image, (height, width) in sizes.items():
        for window in spec.windows(height, width):
            seen, _ = tile_labels(labels[image], window, min_inside=min_inside)
            boxes = scale(boxes_from_quads(torch.from_numpy(seen.quads)), 1 / spec.factor).float()
            classes = torch.tensor([index[name] for name in seen.class_names], dtype=torch.int64)
            tiles.append(Tile(image, window, boxes, classes))
    full = [tile for tile in tiles if len(tile.boxes)]
    if not full:
        raise DataError("no training tile holds an object; check that the labels are in pixels of the images")
    return tiles if keep_empty else full


class TileOrder(Dataset[dict[str, torch.Tensor]]):
    """``n_steps * batch_size`` samples: seeded permutations of the tiles, one after the other.

    Boxes are padded to the largest number in any tile; a label of -1 marks padding.

    Args:
        tiles: From :func:`plan_tiles`.
        files: Where the images are.
        spec: How tiles are cut and normalized.
        n_samples: Length of the order.
        seed: Of permutations and augmentation; sample ``i`` does not depend on those before it.
        flips: Probability of a flip.
        turns: Turn by random quarters.
    """

    def __init__(
        self,
        tiles: Sequence[Tile],
        files: SceneFiles,
        spec: TileSpec,
        *,
        n_samples: int,
        seed: int,
        flips: float,
        turns: bool,
    ) -> None:
        self.tiles, self.files, self.spec, self.seed = tiles, files, spec, seed
        self.flips, self.turns = flips, (0, 1, 2, 3) if turns else (0,)
        self.order = training_order(len(tiles), n_samples, seed)
        self.n_boxes = max(len(tile.boxes) for tile in tiles)
        n_bytes = 4 * len(spec.mean) * spec.tile**2 * len(tiles)
        self._cache: dict[int, torch.Tensor] | None = {} if n_bytes <= MAX_CACHED_BYTES else None
        self._last: tuple[str, Scene] | None = None

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        number, view = self.drawn(index)
        pixels, boxes = lay(self.pixels(number), self.tiles[number].boxes, view)
        return {"pixels": pixels.contiguous(), **self.padded(number, boxes)}

    def drawn(self, index: int) -> tuple[int, View]:
        """Return the tile of a sample and how it is laid."""
        entropy = np.random.SeedSequence([self.seed, index]).generate_state(1, np.uint64)[0] >> np.uint64(1)
        generator = torch.Generator().manual_seed(int(entropy))
        return int(self.order[index]), draw_view(generator, flips=self.flips, turns=self.turns)

    def padded(self, number: int, boxes: Float[torch.Tensor, "n 5"]) -> dict[str, torch.Tensor]:
        """Return boxes and labels of a tile with padding."""
        rows = torch.zeros(self.n_boxes, 5)
        rows[: len(boxes)] = boxes
        labels = torch.full((self.n_boxes,), -1, dtype=torch.int64)
        labels[: len(boxes)] = self.tiles[number].labels
        return {"boxes": rows, "labels": labels}

    def pixels(self, number: int) -> Float[torch.Tensor, "c t t"]:
        """Return a tile as it lies in the image."""
        if self._cache is not None and number in self._cache:
            return self._cache[number]
        tile = self.tiles[number]
        if self._last is None or self._last[0] != tile.image:
            self._last = tile.image, self.files.open(tile.image)
        pixels = read_tile(self._last[1], tile.window, self.spec)
        if self._cache is not None:
            self._cache[number] = pixels
        return pixels


class MapOrder(Dataset[dict[str, torch.Tensor]]):
    """The same samples as a :class:`TileOrder`, as feature maps of a frozen extractor instead of pixels.

    The maps of a view are those of the moved pixels, not moved maps: convolutions and position codes know up from
    down. All maps of a sample lie in one row, finest first; their shapes are ``shapes``.
    """

    def __init__(self, tiles: TileOrder, store: MapStore) -> None:
        self.tiles, self.store = tiles, store
        self.shapes = [tuple(level.shape) for level in self._maps(*tiles.drawn(0))]

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        number, view = self.tiles.drawn(index)
        _, boxes = lay(
            torch.empty(0, self.tiles.spec.tile, self.tiles.spec.tile), self.tiles.tiles[number].boxes, view
        )
        maps = torch.cat([level.flatten() for level in self._maps(number, view)])
        return {"maps": maps, **self.tiles.padded(number, boxes)}

    def _maps(self, number: int, view: View) -> list[torch.Tensor]:
        tile = self.tiles.tiles[number]
        name = f"{tile.image}-{tile.window.x}-{tile.window.y}-{int(view.mirrored)}{view.quarters}"

        def pixels() -> torch.Tensor:
            return lay(self.tiles.pixels(number), tile.boxes, view)[0].contiguous()

        return self.store.get(name, pixels)
