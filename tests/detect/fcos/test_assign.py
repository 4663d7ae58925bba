"""Which location learns which box: small grids by hand, invariances, bad labels."""

import math

import pytest
import torch

from deblora.detect.fcos.assign import (
    Targets,
    assign,
    background_ratio,
    centerness,
    grid_points,
    level_ranges,
    sides_from_boxes,
)
from deblora.detect.samples import Tile
from deblora.detect.tiling import Window
from deblora.detect.training import unassigned
from deblora.errors import DataError

ALL = [(0.0, math.inf)]


def on_grid(boxes: list[list[float]], labels: list[int], **options: object) -> Targets:
    """One level of 8 x 8 cells of stride 8."""
    return assign(
        [grid_points(8, 8, 8)],
        [8],
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 5),
        torch.tensor(labels, dtype=torch.int64),
        n_classes=3,
        **{"ranges": ALL, **options},  # type: ignore[arg-type]
    )


def cells(targets: Targets, label: int) -> list[tuple[int, int]]:
    """Row and column of the cells of a class."""
    return [divmod(int(i), 8) for i in (targets.labels == label).nonzero()[:, 0]]


def test_ranges_follow_the_strides() -> None:
    inf = math.inf
    assert level_ranges([8, 16, 32, 64, 128]) == [(0, 64), (64, 128), (128, 256), (256, 512), (512, inf)]
    assert level_ranges([7, 14]) == [(0, 56), (56, inf)]
    with pytest.raises(ValueError, match="grow"):
        level_ranges([8, 8])
    with pytest.raises(ValueError, match="grow"):
        level_ranges([])


def test_the_middle_of_a_large_box_is_positive() -> None:
    # Center at the corner of four cells; |offset| < 12 px takes cells at 4 px, not those at 12 px.
    targets = on_grid([[32, 32, 60, 60, 0]], [2])
    assert cells(targets, 2) == [(3, 3), (3, 4), (4, 3), (4, 4)]
    # Center in a cell: offsets 0 and 8 px.
    targets = on_grid([[36, 36, 60, 60, 0]], [2])
    assert cells(targets, 2) == [(r, c) for r in (3, 4, 5) for c in (3, 4, 5)]
    assert targets.boxes[36].tolist() == [36, 36, 60, 60, 0]
    assert float(targets.centerness[36]) == 1.0
    assert float(targets.centerness[27]) == pytest.approx((30 - 8) / (30 + 8))


def test_the_center_region_is_a_square_of_the_box_not_of_the_image() -> None:
    # A diagonal box of 60 x 12: along it two diagonal neighbors (11.3 px) are within 12 px.
    targets = on_grid([[36, 36, 60, 12, math.pi / 4]], [0])
    assert cells(targets, 0) == [(3, 3), (3, 4), (4, 3), (4, 4), (4, 5), (5, 4), (5, 5)]


def test_a_thin_box_takes_only_the_cells_inside() -> None:
    assert cells(on_grid([[36, 36, 40, 4, 0]], [1]), 1) == [(4, 3), (4, 4), (4, 5)]
    assert cells(on_grid([[36, 36, 40, 4, -math.pi / 2]], [1]), 1) == [(3, 4), (4, 4), (5, 4)]
    assert cells(on_grid([[32, 32, 40, 4, 0]], [1]), 1) == []  # between two rows of cells
    assert cells(on_grid([[36, 36, 40, 4, 0]], [1], center_radius=0.5), 1) == [(4, 4)]


def test_the_smaller_of_two_boxes_wins_wherever_it_may() -> None:
    targets = on_grid([[36, 36, 60, 60, 0], [36, 28, 20, 6, 0]], [0, 1])
    assert cells(targets, 1) == [(3, 3), (3, 4), (3, 5)]
    assert cells(targets, 0) == [(r, c) for r in (4, 5) for c in (3, 4, 5)]


def test_every_size_has_its_level() -> None:
    strides = [8, 16, 32]
    points = [grid_points(128 // s, 128 // s, s) for s in strides]
    n = [len(p) for p in points]
    for side, level in ((40, 0), (100, 0), (150, 1), (200, 1), (400, 2)):
        box = torch.tensor([[64.0, 64, side, side / 2, 0]])
        targets = assign(points, strides, box, torch.tensor([0]), n_classes=1)
        per_level = [int((part == 0).sum()) for part in targets.labels.split(n)]
        assert [count > 0 for count in per_level] == [i == level for i in range(3)], side


def test_a_location_at_a_bound_belongs_to_one_level() -> None:
    points = [torch.tensor([[64.0, 64]]), torch.tensor([[64.0, 64]])]
    box = torch.tensor([[64.0, 64, 128, 20, 0]])  # its largest side is exactly 64 px
    targets = assign(points, [8, 16], box, torch.tensor([0]), n_classes=1)
    assert targets.labels.tolist() == [0, 1]


def test_without_boxes_all_is_background() -> None:
    targets = on_grid([], [])
    assert (targets.labels == 3).all()
    assert not targets.boxes.any()
    assert not targets.centerness.any()


def crowd(seed: int, n: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    boxes = torch.rand(n, 5, generator=g)
    boxes[:, :2] *= 128
    # Rows of equal objects: many ties of area.
    sizes = torch.tensor([[40.0, 12], [24.0, 20], [70.0, 50]])
    boxes[:, 2:4] = sizes[torch.randint(3, (n,), generator=g)]
    boxes[:, 4] = (boxes[:, 4] - 0.5) * math.pi
    return boxes, torch.randint(4, (n,), generator=g)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_boxes_does_not_matter(seed: int) -> None:
    boxes, labels = crowd(seed)
    points = [grid_points(16, 16, 8), grid_points(8, 8, 16)]
    first = assign(points, [8, 16], boxes, labels, n_classes=4)
    order = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(seed))
    second = assign(points, [8, 16], boxes[order], labels[order], n_classes=4)
    for name in ("labels", "boxes", "centerness"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert (first.labels < 4).sum() > 20


@pytest.mark.parametrize("seed", range(3))
def test_the_rule_location_by_location(seed: int) -> None:
    boxes, labels = crowd(seed, 12)
    points, strides = [grid_points(16, 16, 8), grid_points(8, 8, 16)], [8, 16]
    found = assign(points, strides, boxes, labels, n_classes=4)
    row = 0
    for place, stride, (low, high) in zip(points, strides, level_ranges(strides), strict=True):
        for point in place:
            fits = []
            for box, label in zip(boxes, labels, strict=True):
                left, top, right, bottom = sides_from_boxes(point[None], box[None])[0].tolist()
                inside = min(left, top, right, bottom) > 0
                near = abs(left - right) / 2 < 1.5 * stride and abs(top - bottom) / 2 < 1.5 * stride
                if inside and near and low < max(left, top, right, bottom) <= high:
                    fits.append((float(box[2] * box[3]), box, int(label)))
            if not fits:
                assert found.labels[row] == 4
            else:
                area, box, label = min(fits, key=lambda fit: fit[0])
                assert float(found.boxes[row, 2] * found.boxes[row, 3]) == area
                if [fit[0] for fit in fits].count(area) == 1:
                    assert torch.equal(found.boxes[row], box)
                    assert found.labels[row] == label
                sides = sides_from_boxes(point[None], found.boxes[row][None])
                torch.testing.assert_close(found.centerness[row], centerness(sides)[0])
            row += 1
    assert row == len(found.labels)


def test_chunks_do_not_change_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, labels = crowd(0)
    points = [grid_points(16, 16, 8)]
    whole = assign(points, [8], boxes, labels, n_classes=4)
    monkeypatch.setattr("deblora.detect.fcos.assign.CHUNK", 100)
    assert torch.equal(assign(points, [8], boxes, labels, n_classes=4).boxes, whole.boxes)


def test_background_ratio_counts_locations() -> None:
    targets = [on_grid([[36, 36, 60, 60, 0]], [2]), on_grid([], [])]
    assert background_ratio(targets, n_classes=3) == pytest.approx((128 - 9) / 9)
    with pytest.raises(DataError, match="no location"):
        background_ratio([on_grid([], [])], n_classes=3)


@pytest.mark.parametrize(
    ("box", "label", "error", "message"),
    [
        ([1, 1, math.nan, 1, 0], 0, DataError, "box 1 is"),
        ([1, 1, 0, 1, 0], 0, DataError, "sides positive"),
        ([1, 1, 2, -1, 0], 0, DataError, "mend or remove"),
        ([1, 1, 2, 1, 0], 3, ValueError, "n_classes"),
        ([1, 1, 2, 1, 0], -1, ValueError, "n_classes"),
    ],
)
def test_bad_labels_are_named(box: list[float], label: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        on_grid([[9.0, 9, 8, 4, 0], box], [0, label])


def test_lengths_must_match() -> None:
    with pytest.raises(ValueError, match="do not match"):
        on_grid([[9.0, 9, 8, 4, 0]], [0, 1])
    with pytest.raises(ValueError, match="levels"):
        on_grid([[9.0, 9, 8, 4, 0]], [0], ranges=ALL * 2)


def test_objects_between_locations_are_counted() -> None:
    window = Window(0, 0, 64, 64, core=(0.0, 0.0, 64.0, 64.0))
    between = torch.tensor([[16.0, 16, 30, 3, 0.0], [20.0, 20, 30, 12, 0.0], [48.0, 48, 3, 3, 0.0]])
    tiles = [Tile("a", window, between, torch.tensor([0, 0, 1]), (64, 64))]
    n_seen, n_lost = unassigned(tiles, (8.0, 16.0), n_classes=3)
    assert n_seen.tolist() == [2, 1, 0] and n_lost.tolist() == [1, 1, 0]
    n_seen, n_lost = unassigned(tiles, (2.0, 4.0), n_classes=3)
    assert n_lost.tolist() == [0, 0, 0]
