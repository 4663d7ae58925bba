"""Training tiles: boxes stay on their pixels, the order is fixed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deblora.data.scenes.labeled_images import read_detection_set
from deblora.data.scenes.rasters import ArrayScene
from deblora.detect.fcos.assign import grid_points, sides_from_boxes
from deblora.detect.samples import MapOrder, MapStore, TileOrder, plan_tiles
from deblora.detect.tiling import TileSpec, read_tile
from deblora.detect.training import scales_for
from deblora.errors import DataError
from toy_scenes import NAMES


def spec(tile: int = 64, zoom: float = 1.0) -> TileSpec:
    return TileSpec(tile, 16, zoom, (0.0,) * 3, (1.0,) * 3, 255.0)


def order(scenes: Path, *, tile: int = 64, zoom: float = 1.0, seed: int = 0) -> TileOrder:
    found = read_detection_set(scenes / "train")
    sizes = dict.fromkeys(found.names, (64, 64))
    tiles = plan_tiles(sizes, found.labels, NAMES, spec(tile, zoom))
    return TileOrder(tiles, found.files, spec(tile, zoom), n_samples=20, seed=seed, flips=0.75, turns=True)


@pytest.mark.parametrize(("tile", "zoom"), [(64, 1.0), (48, 1.0), (128, 2.0), (96, 1.0)])
def test_boxes_stay_on_their_pixels(scenes: Path, tile: int, zoom: float) -> None:
    samples = order(scenes, tile=tile, zoom=zoom)
    n_boxes = 0
    for i in range(len(samples)):
        sample = samples[i]
        for box, label in zip(sample["boxes"], sample["labels"], strict=True):
            if label < 0:
                assert (box == 0).all()
                continue
            n_boxes += 1
            inside = sides_from_boxes(grid_points(tile, tile, 1), box[None]).amin(dim=1) > 1.5 * zoom
            assert sample["pixels"][int(label)].flatten()[inside].mean() > 0.85
    assert n_boxes >= 20


def test_the_order_does_not_depend_on_what_was_asked_before(scenes: Path) -> None:
    one, other = order(scenes), order(scenes)
    for i in (7, 3, 19):
        other[i]
    for i in range(20):
        assert all(torch.equal(one[i][key], other[i][key]) for key in one[i])
    assert not all(torch.equal(one[i]["pixels"], order(scenes, seed=1)[i]["pixels"]) for i in range(5))
    assert sorted(set(one.order[:9].tolist())) == list(range(9))


def test_labels_that_meet_no_tile_are_reported(scenes: Path) -> None:
    found = read_detection_set(scenes / "train")
    far = {name: entry.select(np.zeros(0, dtype=np.int64)) for name, entry in found.labels.items()}
    with pytest.raises(DataError, match="no training tile"):
        plan_tiles(dict.fromkeys(found.names, (64, 64)), far, NAMES, spec())


def test_a_tile_ends_where_the_scene_ends() -> None:
    scene = ArrayScene(np.full((30, 20, 1), 200, dtype=np.uint8))
    settings = TileSpec(64, 16, 1.0, (0.5, 0.5), (0.5, 0.5), 255.0)
    (window,) = settings.windows(30, 20)
    tile = read_tile(scene, window, settings)
    assert tile.shape == (2, 30, 20) and (tile > 0.5).all()
    zoomed = TileSpec(64, 16, 2.0, (0.5,), (0.5,), 255.0)
    (window,) = zoomed.windows(30, 20)
    tile = read_tile(scene, window, zoomed)
    assert tile.shape == (1, 60, 40) and (tile[:, :-2, :-2] > 0.5).all()
    with pytest.raises(DataError, match="4 bands"):
        read_tile(ArrayScene(np.zeros((30, 20, 4), dtype=np.uint8)), window, settings)


def test_a_turned_tile_of_a_small_image_keeps_its_pixels_and_its_boxes(scenes: Path) -> None:
    found = read_detection_set(scenes / "train")
    wide = TileSpec(96, 16, 1.0, (0.0,) * 3, (1.0,) * 3, 255.0)  # images are 64 x 64
    tiles = plan_tiles(dict.fromkeys(found.names, (64, 64)), found.labels, NAMES, wide)
    assert {tile.extent for tile in tiles} == {(64, 64)}
    low = [replace(tile, extent=(40, 64)) for tile in tiles]
    samples = TileOrder(low, found.files, wide, n_samples=12, seed=0, flips=0.5, turns=True)
    samples.pixels = lambda number: torch.full((3, 40, 64), 1.0 + number)  # type: ignore[method-assign]
    seen = set()
    for i in range(12):
        sample, (number, _) = samples[i], samples.drawn(i)
        rows, columns = sample["extents"].tolist()
        seen.add((rows, columns))
        assert sample["pixels"].shape == (3, 96, 96)
        assert (sample["pixels"][:, :rows, :columns] == 1 + number).all()
        assert sample["pixels"].sum() == 3 * 40 * 64 * (1 + number)
    assert seen == {(40, 64), (64, 40)}


def test_the_finest_level_is_about_eight_pixels() -> None:
    assert scales_for(8) == (1.0, 0.5)
    assert scales_for(16) == (2.0, 1.0, 0.5)
    assert scales_for(14) == (2.0, 1.0, 0.5)
    assert scales_for(32) == (4.0, 2.0, 1.0, 0.5)
    assert scales_for(4) == (0.5,)


def toy_extract(pixels: torch.Tensor) -> list[torch.Tensor]:
    """Two maps that know up from down."""
    ramp = torch.linspace(0, 1, pixels.shape[-1])[:, None]
    small = torch.nn.functional.avg_pool2d(pixels * ramp, 8)
    return [small, small[:, ::2, ::2]]


def test_stored_maps_are_those_of_the_moved_pixels(scenes: Path, tmp_path: Path) -> None:
    samples, calls = order(scenes), []

    def extract(pixels: torch.Tensor) -> list[torch.Tensor]:
        calls.append(1)
        return toy_extract(pixels)

    maps = MapOrder(samples, MapStore(tmp_path, extract, max_bytes=10**9), multiple=8)
    first = [maps[i] for i in range(len(maps))]
    n_calls = len(calls)
    assert n_calls == len({samples.drawn(i) for i in range(len(samples))})
    for i, entry in enumerate(first):
        sample = samples[i]
        assert torch.equal(entry["boxes"], sample["boxes"]) and torch.equal(entry["labels"], sample["labels"])
        expected = torch.cat([level.flatten() for level in toy_extract(sample["pixels"])])
        torch.testing.assert_close(entry["maps"], expected, rtol=2e-3, atol=1e-4)
    assert maps.layout.shapes((64, 64)) == [(3, 8, 8), (3, 4, 4)]
    assert maps.layout.shapes((60, 33)) == [(3, 8, 5), (3, 4, 2)]
    again = MapOrder(order(scenes), MapStore(tmp_path, extract, max_bytes=10**9), multiple=8)
    assert all(torch.equal(again[i]["maps"], first[i]["maps"]) for i in range(len(again)))
    assert len(calls) == n_calls


def test_a_full_or_damaged_store_gives_the_same_maps(scenes: Path, tmp_path: Path) -> None:
    full = MapOrder(order(scenes), MapStore(tmp_path / "a", toy_extract, max_bytes=0), multiple=8)
    assert not list((tmp_path / "a").glob("*"))
    stored = MapOrder(order(scenes), MapStore(tmp_path / "b", toy_extract, max_bytes=10**9), multiple=8)
    wanted = stored[3]["maps"]
    for path in (tmp_path / "b").glob("*"):
        path.write_bytes(b"cut off")
    assert torch.equal(stored[3]["maps"], wanted) and torch.equal(full[3]["maps"], wanted)
