"""What a training step of the detector sees: tile ``i`` of a seeded order, flipped, turned, with padded boxes.

Flips and turns suit optical images seen from above. In SAR images they change the side from which the sensor looks,
so leave them out there.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch.nn import functional
from torch.utils.data import Dataset

from deblora.data.scenes.dota import Labels
from deblora.data.scenes.labeled_images import SceneFiles
from deblora.data.scenes.rasters import Scene
from deblora.detect.boxes import boxes_from_quads, flip_horizontal, rotate_90, scale
from deblora.detect.tiling import TileSpec, Window, read_tile, tile_labels
from deblora.errors import DataError
from deblora.files import write_atomic
from deblora.models.maps import fill_up
from deblora.train.samples import training_order

Sample = tuple[Float[torch.Tensor, "c h w"], Float[torch.Tensor, "n 5"]]


class View(NamedTuple):
    """One of the eight ways to lay a tile: mirrored left and right or not, then turned by quarters."""

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
Extract = Callable[[Float[torch.Tensor, "c h w"]], Sequence[Float[torch.Tensor, "d h2 w2"]]]


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

    def get(self, name: str, pixels: Callable[[], Float[torch.Tensor, "c h w"]]) -> Maps:
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
    """A window of an image and the boxes it sees, in pixels of the tile; ``extent`` are its rows and columns."""

    image: str
    window: Window
    boxes: Float[torch.Tensor, "n 5"]
    labels: Int[torch.Tensor, " n"]
    extent: tuple[int, int]


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
            tiles.append(Tile(image, window, boxes, classes, spec.extent(window, height, width)))
    full = [tile for tile in tiles if len(tile.boxes)]
    if not full:
        raise DataError("no training tile holds an object; check that the labels are in pixels of the images")
    return tiles if keep_empty else full


class TileOrder(Dataset[dict[str, torch.Tensor]]):
    """``n_steps * batch_size`` samples: seeded permutations of the tiles, one after the other.

    Boxes are padded to the largest number in any tile; a label of -1 marks padding. Tiles of small images are filled
    up to squares, so that they can be stacked; ``extent`` says how many rows and columns are theirs.

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
        square = pixels.new_zeros(len(pixels), self.spec.tile, self.spec.tile)
        square[:, : pixels.shape[1], : pixels.shape[2]] = pixels
        return {"pixels": square, **self.padded(number, boxes, view)}

    def drawn(self, index: int) -> tuple[int, View]:
        """Return the tile of a sample and how it is laid."""
        entropy = np.random.SeedSequence([self.seed, index]).generate_state(1, np.uint64)[0] >> np.uint64(1)
        generator = torch.Generator().manual_seed(int(entropy))
        return int(self.order[index]), draw_view(generator, flips=self.flips, turns=self.turns)

    def padded(self, number: int, boxes: Float[torch.Tensor, "n 5"], view: View) -> dict[str, torch.Tensor]:
        """Return boxes and labels of a tile with padding, and the extent of the tile as it is laid."""
        extent = self.tiles[number].extent
        rows = torch.zeros(self.n_boxes, 5)
        rows[: len(boxes)] = boxes
        labels = torch.full((self.n_boxes,), -1, dtype=torch.int64)
        labels[: len(boxes)] = self.tiles[number].labels
        laid = extent[::-1] if view.quarters % 2 else extent
        return {"boxes": rows, "labels": labels, "extents": torch.tensor(laid)}

    def pixels(self, number: int) -> Float[torch.Tensor, "c h w"]:
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


@dataclass(frozen=True)
class MapLayout:
    """Channels and stride of every map, finest first, and the multiple of pixels that tiles are filled up to."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    multiple: int

    def shapes(self, extent: tuple[int, int]) -> list[tuple[int, int, int]]:
        """Return the shape of every map of a tile with these rows and columns."""
        rows, columns = (side + -side % self.multiple for side in extent)
        return [(n, rows // s, columns // s) for n, s in zip(self.channels, self.strides, strict=True)]


class MapOrder(Dataset[dict[str, torch.Tensor]]):
    """The same samples as a :class:`TileOrder`, as feature maps of a frozen extractor instead of pixels.

    The maps of a view are those of the moved pixels, not moved maps: convolutions and position codes know up from
    down. All maps of a sample lie in one row, finest first, filled up to the length of a whole tile.

    Args:
        tiles: The samples.
        store: Gives the maps of tiles that are filled up to whole multiples.
        multiple: Pixels of which height and width of an image must be multiples.
    """

    def __init__(self, tiles: TileOrder, store: MapStore, *, multiple: int) -> None:
        self.tiles, self.store, self.layout = tiles, store, MapLayout((), (), multiple)
        number, view = tiles.drawn(0)
        maps = self._maps(number, view)
        height = tiles.padded(number, tiles.tiles[number].boxes, view)["extents"][0]
        strides = tuple((int(height) + -int(height) % multiple) // level.shape[1] for level in maps)
        self.layout = MapLayout(tuple(len(level) for level in maps), strides, multiple)
        self._length = sum(map(math.prod, self.layout.shapes((tiles.spec.tile, tiles.spec.tile))))

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        number, view = self.tiles.drawn(index)
        tile = self.tiles.tiles[number]
        _, boxes = lay(torch.empty(0, *tile.extent), tile.boxes, view)
        maps = torch.cat([level.flatten() for level in self._maps(number, view)])
        row = functional.pad(maps, (0, self._length - len(maps)))
        return {"maps": row, **self.tiles.padded(number, boxes, view)}

    def _maps(self, number: int, view: View) -> list[torch.Tensor]:
        tile = self.tiles.tiles[number]
        name = f"{tile.image}-{tile.window.x}-{tile.window.y}-{int(view.mirrored)}{view.quarters}"

        def pixels() -> torch.Tensor:
            laid = lay(self.tiles.pixels(number), tile.boxes, view)[0]
            return fill_up(laid, self.layout.multiple).contiguous()

        return self.store.get(name, pixels)
