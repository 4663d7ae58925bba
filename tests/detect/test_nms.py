import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deblora.detect.boxes import corners
from deblora.detect.overlap import rotated_nms

shapely = pytest.importorskip("shapely")


def scene(n: int, rng: np.random.Generator, span: float) -> tuple[Tensor, Tensor]:
    center, sides = rng.uniform(0, span, (n, 2)), rng.uniform(5, 60, (n, 2))
    boxes = np.column_stack([center, sides, rng.uniform(-1.5, 1.5, n)])
    return torch.from_numpy(boxes), torch.from_numpy(rng.random(n).round(2))


def greedy(boxes: Tensor, scores: Tensor, threshold: float, classes: Tensor | None = None) -> list[int]:
    """Plain greedy suppression, one box at a time."""
    polygons = shapely.polygons(corners(boxes).numpy())
    areas = shapely.area(polygons)
    labels = np.zeros(len(boxes)) if classes is None else classes.numpy()
    kept: list[int] = []
    for i in np.argsort(-scores.numpy(), kind="stable").tolist():
        others = np.array([k for k in kept if labels[k] == labels[i]], dtype=int)
        shared = shapely.area(shapely.intersection(polygons[i], polygons[others]))
        if not (shared / (areas[i] + areas[others] - shared) > threshold).any():
            kept.append(i)
    return kept


@pytest.mark.parametrize("span", [60, 300, 2000])
@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_equals_plain_greedy(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, span: float, threshold: float
) -> None:
    monkeypatch.setattr("deblora.detect.overlap._FIRST_BLOCK", 20)
    monkeypatch.setattr("deblora.detect.overlap._LARGEST_BLOCK", 64)
    boxes, scores = scene(300, rng, span)
    assert rotated_nms(boxes, scores, threshold).tolist() == greedy(boxes, scores, threshold)
    classes = torch.from_numpy(rng.integers(0, 4, 300) * 7)
    kept = rotated_nms(boxes, scores, threshold, classes=classes).tolist()
    assert kept == greedy(boxes, scores, threshold, classes)


@given(st.integers(0, 2**20), st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_block_size_does_not_matter(seed: int, block: int) -> None:
    boxes, scores = scene(40, np.random.default_rng(seed), 150)
    expected = greedy(boxes, scores, 0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deblora.detect.overlap._FIRST_BLOCK", block)
        patch.setattr("deblora.detect.overlap._LARGEST_BLOCK", 4)
        assert rotated_nms(boxes, scores, 0.2).tolist() == expected


@given(st.integers(0, 2**20), st.floats(-3, 3), st.floats(0.1, 50))
@settings(max_examples=25, deadline=None)
def test_motion_scale_and_order_do_not_matter(seed: int, turn: float, factor: float) -> None:
    rng = np.random.default_rng(seed)
    boxes, _ = scene(40, rng, 150)
    scores = torch.from_numpy(rng.permutation(40) / 40)
    before = rotated_nms(boxes, scores, 0.2)
    x, y = boxes[:, 0], boxes[:, 1]
    cos, sin = math.cos(turn), math.sin(turn)
    center = torch.stack([x * cos - y * sin, x * sin + y * cos], dim=1) + 1000
    moved = torch.cat([center * factor, boxes[:, 2:4] * factor, boxes[:, 4:] + turn], dim=1)
    assert torch.equal(rotated_nms(moved, scores, 0.2), before)
    order = torch.from_numpy(rng.permutation(40))
    assert torch.equal(order[rotated_nms(boxes[order], scores[order], 0.2)], before)


def test_a_dropped_box_does_not_suppress() -> None:
    """Of a chain in which neighbors overlap every other box stays."""
    chain = torch.tensor([[4.0 * i, 0.0, 10.0, 4.0, 0.0] for i in range(9)])
    scores = torch.linspace(1, 0.5, 9)
    assert rotated_nms(chain, scores, 0.4).tolist() == [0, 2, 4, 6, 8]


def test_ties_go_by_index_and_equality_is_not_above() -> None:
    boxes = torch.tensor([[0.0, 0.0, 20.0, 10.0, 0.0], [-5.0, 0.0, 10.0, 10.0, 0.0]])
    scores = torch.tensor([0.5, 0.5])
    assert rotated_nms(boxes, scores, 0.5).tolist() == [0, 1]
    assert rotated_nms(boxes, scores, 0.499).tolist() == [0]
    assert rotated_nms(boxes.flip(0), scores, 0.499).tolist() == [0]


def test_far_classes_in_single_precision_stay_exact() -> None:
    """Classes are kept apart without moving the boxes that are compared."""
    box = torch.tensor([[60000.0, 60000.0, 12.0, 5.0, 0.4]])
    boxes = torch.cat([box, box, box])
    classes = torch.tensor([900, 3, 900])
    assert rotated_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.1, classes=classes).tolist() == [0, 1]


def test_limits_and_empty_input() -> None:
    boxes, scores = scene(100, np.random.default_rng(0), 5000)
    assert (
        rotated_nms(boxes, scores, 0.1, max_keep=7).tolist() == rotated_nms(boxes, scores, 0.1)[:7].tolist()
    )
    assert rotated_nms(boxes, scores, 0.1, max_keep=0).tolist() == []
    empty = rotated_nms(torch.zeros((0, 5)), torch.zeros(0), 0.1, classes=torch.zeros(0, dtype=torch.int64))
    assert empty.dtype == torch.int64
    assert empty.tolist() == []
    points = torch.zeros((3, 5))
    assert rotated_nms(points, torch.ones(3), 0.0).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 1.5}, "threshold must be in"),
        ({"scores": torch.zeros(2)}, "3 boxes, but scores"),
        ({"classes": torch.zeros(4)}, "3 boxes, but scores"),
        ({"scores": torch.tensor([0.1, math.nan, 0.2])}, "not finite"),
        ({"boxes": torch.full((3, 5), math.inf)}, "not finite"),
        ({"boxes": torch.zeros((3, 4))}, "shape \\(n, 5\\)"),
    ],
)
def test_bad_arguments(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"boxes": torch.ones((3, 5)), "scores": torch.ones(3), "threshold": 0.1}
    with pytest.raises(ValueError, match=message):
        rotated_nms(**(arguments | change))  # type: ignore[arg-type]
