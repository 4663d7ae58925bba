import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deblora.data.scenes.dota import Labels, parse_labels
from deblora.detect.average_precision import evaluate_detections
from deblora.detect.task1 import QuadDetections
from deblora.detect.tiling import Window, owned, parse_tile_name, tile_grid, tile_labels, tile_name, to_scene
from deblora.errors import DataError


def labels_of(*quads: list[list[float]]) -> Labels:
    return Labels(
        np.array(quads, dtype=np.float64).reshape(-1, 4, 2), ("ship",) * len(quads), np.zeros(len(quads), int)
    )


def upright(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def test_starts_and_cores_by_hand() -> None:
    windows = tile_grid(1000, 2000, tile=1024, overlap=200)
    inf = float("inf")
    assert windows == (
        Window(0, 0, 1024, 1024, (-inf, -inf, 924.0, inf)),
        Window(824, 0, 1024, 1024, (924.0, -inf, 1412.0, inf)),
        Window(976, 0, 1024, 1024, (1412.0, -inf, inf, inf)),
    )
    assert [w.x for w in tile_grid(10, 1848, tile=1024, overlap=200)] == [0, 824]
    assert [w.x for w in tile_grid(10, 1849, tile=1024, overlap=200)] == [0, 824, 825]
    assert len(tile_grid(1024, 1024)) == 1


@given(
    st.integers(1, 400), st.integers(1, 400), st.integers(1, 120), st.integers(0, 119), st.integers(0, 2**16)
)
@settings(max_examples=60, deadline=None)
def test_windows_cover_and_cores_partition(h: int, w: int, tile: int, overlap: int, seed: int) -> None:
    overlap = min(overlap, tile - 1)
    if (h / (tile - overlap)) * (w / (tile - overlap)) > 2000:
        return
    windows = tile_grid(h, w, tile=tile, overlap=overlap)
    covered = np.zeros((h, w), dtype=bool)
    for window in windows:
        assert window.x >= 0
        assert window.y >= 0
        assert window.x + tile <= max(w, tile)
        assert window.y + tile <= max(h, tile)
        covered[window.y : window.y + tile, window.x : window.x + tile] = True
    assert covered.all()
    points = np.random.default_rng(seed).uniform(-20, [w + 20, h + 20], (200, 2))
    corners = np.array([[x, y] for window in windows for x in window.core[::2] for y in window.core[1::2]])
    points = np.concatenate([points, corners[np.isfinite(corners).all(axis=1)]])
    owners = np.stack([owned(points, window) for window in windows])
    assert (owners.sum(axis=0) == 1).all()
    inside = ((points >= 0) & (points <= [w, h])).all(axis=1)
    for window, mine in zip(windows, owners, strict=True):
        mine_inside = points[mine & inside]
        assert (mine_inside >= [window.x, window.y]).all()
        assert (mine_inside <= [window.x + tile, window.y + tile]).all()


def test_an_object_no_longer_than_the_overlap_is_whole_in_its_owner() -> None:
    rng = np.random.default_rng(0)
    for window in tile_grid(300, 500, tile=100, overlap=30):
        centers = rng.uniform(0, [500, 300], (500, 2))
        mine = centers[owned(centers, window)]
        bounds = np.array([window.x, window.y])
        low, high = np.maximum(mine - 15, 0), np.minimum(mine + 15, [500, 300])
        assert (low >= bounds).all()
        assert (high <= bounds + 100).all()


def test_kept_and_truncated_objects() -> None:
    first, second = tile_grid(100, 180, tile=100, overlap=20)
    labels = labels_of(
        upright(10, 10, 20, 20),  # whole
        upright(90, 10, 110, 20),  # half inside
        upright(93, 10, 103, 20),  # exactly 0.7 inside
        upright(92.9, 10, 103, 20),  # a little more
        upright(93.1, 10, 103, 20),  # a little less
        upright(90, 10, 100, 20),  # touches the edge
    )
    kept, rows = tile_labels(labels, first)
    assert rows.tolist() == [0, 2, 3, 5]
    assert kept.difficult.tolist() == [0, 2, 2, 0]
    kept, rows = tile_labels(labels, second)
    assert rows.tolist() == [1, 2, 3, 4, 5]
    assert kept.quads[0].tolist() == upright(10, 10, 30, 20)
    np.testing.assert_allclose(to_scene(kept.quads, second.x, second.y), labels.quads[rows])


def test_the_border_of_the_scene_truncates_nothing() -> None:
    first, second = tile_grid(100, 180, tile=100, overlap=20)
    labels = labels_of(upright(-9, -9, 1, 1), upright(178, 50, 200, 60))
    for window, row in ((first, 0), (second, 1)):
        kept, rows = tile_labels(labels, window)
        assert rows.tolist() == [row]
        assert kept.difficult.tolist() == [0]


def test_shares_are_exact_for_any_outline() -> None:
    shapely = pytest.importorskip("shapely")
    rng = np.random.default_rng(1)
    angle = np.sort(rng.uniform(0, 2 * np.pi, (400, 4)), axis=1)
    radius = rng.uniform(2, 30, (400, 4, 1))
    outline = radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    quads = outline + rng.uniform(0, 300, (400, 1, 2))
    quads = quads[shapely.is_valid(shapely.polygons(quads))]
    labels = labels_of(*quads.tolist())
    middle = tile_grid(300, 300, tile=100, overlap=0)[4]
    polygons = shapely.polygons(quads)
    window = shapely.box(100, 100, 200, 200)
    share = shapely.area(shapely.intersection(polygons, window)) / shapely.area(polygons)
    for threshold in (0.3, 0.7, 1.0):
        kept, rows = tile_labels(labels, middle, min_inside=threshold)
        whole = shapely.covers(window, polygons)
        np.testing.assert_array_equal(rows, np.flatnonzero(whole | (share >= threshold)))
        np.testing.assert_array_equal(kept.difficult == 2, ~whole[rows])


def test_tiled_and_merged_ground_truth_has_average_precision_one() -> None:
    rng = np.random.default_rng(3)
    n, height, width = 300, 700, 900
    center = rng.uniform(0, [width, height], (n, 1, 2))
    angle = rng.uniform(0, np.pi, (n, 1))
    half = rng.uniform([4, 2], [20, 10], (n, 2))
    along = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)[:, None] * half[:, :1, None]
    across = np.concatenate([-np.sin(angle), np.cos(angle)], axis=1)[:, None] * half[:, 1:, None]
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    labels = labels_of(*(center + along * signs[:, :1] + across * signs[:, 1:]).tolist())
    merged = []
    for window in tile_grid(height, width, tile=200, overlap=50):
        seen, _ = tile_labels(labels, window)
        quads = to_scene(seen.quads, window.x, window.y)
        merged.append(quads[owned(quads.mean(axis=1), window)])
    quads = np.concatenate(merged)
    assert len(quads) == n
    detections = QuadDetections(("scene",) * n, ("ship",) * n, rng.random(n), quads)
    result = evaluate_detections(detections, {"scene": labels}, ["ship"], iou_threshold=0.99)["ship"]
    assert (result.ap, result.n_true, result.n_false) == (1.0, n, 0)


@pytest.mark.shared
def test_real_scene_survives_tiling_and_merging(shared: Callable[[str], Path]) -> None:
    with zipfile.ZipFile(shared("data/dota_sample/dota_sample.zip")) as archive:
        every = parse_labels(archive.read("labelTxt/P0706.txt").decode(), origin="P0706")
    longest = np.ptp(every.quads, axis=1).max(axis=1)
    labels = every.select(np.flatnonzero(longest < 200))
    n = len(labels.class_names)
    assert n == 531  # all ships, no harbor
    merged, names, cut = [], [], 0
    for window in tile_grid(1182, 1111, tile=512, overlap=200):
        seen, _ = tile_labels(labels, window)
        quads = to_scene(seen.quads, window.x, window.y)
        mine = np.flatnonzero(owned(quads.mean(axis=1), window))
        cut += int((seen.difficult[mine] == 2).sum())
        merged.append(quads[mine])
        names += [seen.class_names[row] for row in mine]
    assert (len(names), cut) == (n, 0)
    detections = QuadDetections(("P0706",) * n, tuple(names), np.ones(n), np.concatenate(merged))
    for result in evaluate_detections(detections, {"P0706": labels}, ["ship"]).values():
        assert (result.ap, result.n_false) == (pytest.approx(1.0), 0)


def test_degenerate_labels_and_options() -> None:
    window = tile_grid(180, 180, tile=100, overlap=20)[0]
    kept, rows = tile_labels(labels_of(), window)
    assert kept.quads.shape == (0, 4, 2)
    assert rows.shape == (0,)
    point, line = upright(5, 5, 5, 5), upright(95, 5, 105, 5)
    assert tile_labels(labels_of(point, line), window)[1].tolist() == [0]
    with pytest.raises(ValueError, match="min_inside"):
        tile_labels(labels_of(), window, min_inside=0)


@pytest.mark.parametrize(
    ("height", "width", "tile", "overlap"),
    [(0, 5, 4, 1), (5, 0, 4, 1), (5, 5, 0, 0), (5, 5, 4, 4), (5, 5, 4, -1)],
)
def test_impossible_grids(height: int, width: int, tile: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="cannot be cut"):
        tile_grid(height, width, tile=tile, overlap=overlap)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("P0001__1__824___1648", ("P0001", 1.0, 824, 1648)),
        ("P0001__0.5__0___0", ("P0001", 0.5, 0, 0)),
        ("P0001__1.5__0___7", ("P0001", 1.5, 0, 7)),
        ("P0001__1024__824___1648", ("P0001", 1.0, 824, 1648)),
        ("my__odd___name__2__3___4", ("my__odd___name", 2.0, 3, 4)),
    ],
)
def test_tile_names(name: str, parts: tuple[str, float, int, int]) -> None:
    assert parse_tile_name(name) == parts
    image, rate, x, y = parts
    assert parse_tile_name(tile_name(image, x, y, rate=rate)) == parts


def test_rates_scale_back_to_the_scene() -> None:
    quads = np.array([upright(0, 0, 10, 20)])
    np.testing.assert_array_equal(to_scene(quads, 100, 50, rate=0.5), [upright(200, 100, 220, 140)])


@pytest.mark.parametrize("name", ["P0001", "P0001__1__824__1648", "P0001__0__1___2", "__1__2___3"])
def test_other_tile_names_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="the tile name"):
        parse_tile_name(name)
