import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deblora.detect import overlap
from deblora.detect.boxes import corners, to_xyxy
from deblora.detect.overlap import (
    aligned_iou,
    pairwise_iou,
    touching_pairs,
)

shapely = pytest.importorskip("shapely")


def boxes_of(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)


def random_boxes(n: int, rng: np.random.Generator, span: float = 60.0) -> Tensor:
    center = rng.uniform(0, span, (n, 2))
    sides = rng.uniform(1, 40, (n, 2))
    return torch.from_numpy(np.column_stack([center, sides, rng.uniform(-4, 4, n)]))


def shapely_iou(a: Tensor, b: Tensor) -> np.ndarray:
    """IoU of aligned boxes by polygon clipping, near the origin so that the oracle is precise."""
    a, b = a.clone(), b.clone()
    a[:, :2] -= b[:, :2]
    b[:, :2] = 0
    first, second = shapely.polygons(corners(a).numpy()), shapely.polygons(corners(b).numpy())
    shared = shapely.area(shapely.intersection(first, second))
    union = (a[:, 2] * a[:, 3] + b[:, 2] * b[:, 3]).numpy() - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def adversarial_pairs(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """All pairs of boxes on a small grid, turned by little or by right angles, large, thin and far off."""
    sides = [(2.0, 2.0), (4.0, 2.0), (1e3, 1e-3), (1e3, 3.0), (1e-3, 1e-3)]
    angles = [0.0, 1e-15, 1e-9, -1e-7, math.pi / 2, -math.pi / 2, math.pi / 4, math.pi, 0.3]
    centers = [(0.0, 0.0), (1.0, 0.0), (2.0, 1.0), (4.0, 0.0), (1e-9, 0.0)]
    rows = [(*c, *s, t) for c, s, t in itertools.product(centers, sides, angles)]
    first, second = rng.integers(len(rows), size=(2, 4000))
    a, b = boxes_of(*rows)[first], boxes_of(*rows)[second]
    far = torch.from_numpy(rng.choice([0.0, 2.0**16, -(2.0**20)], size=(4000, 1)))
    shift = torch.cat([far, far], dim=1)
    a[:, :2] = a[:, :2].round() + shift
    b[:, :2] = b[:, :2].round() + shift
    return a, b


def test_agrees_with_shapely_on_random_pairs(rng: np.random.Generator) -> None:
    a, b = random_boxes(3000, rng), random_boxes(3000, rng)
    np.testing.assert_allclose(aligned_iou(a, b).numpy(), shapely_iou(a, b), rtol=0, atol=1e-12)


def test_agrees_with_shapely_on_adversarial_pairs(rng: np.random.Generator) -> None:
    a, b = adversarial_pairs(rng)
    np.testing.assert_allclose(aligned_iou(a, b).numpy(), shapely_iou(a, b), rtol=0, atol=1e-9)
    identical = aligned_iou(a, a).numpy()
    np.testing.assert_allclose(identical, 1.0, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        ((0, 0, 4, 2, 0.3), (0, 0, 4, 2, 0.3), 1.0),
        ((0, 0, 4, 2, 0.0), (0, 0, 2, 4, math.pi / 2), 1.0),
        ((0, 0, 10, 10, 0), (0, 0, 20, 10, 0), 0.5),
        ((0, 0, 4, 4, 0), (0, 0, 2, 2, 0.7), 0.25),
        ((0, 0, 2, 2, 0), (2, 0, 2, 2, 0), 0.0),
        ((0, 0, 2, 2, 0), (1, 0, 2, 2, 0), 1 / 3),
        ((0, 0, 2, 2, 0), (9, 9, 2, 2, 0.4), 0.0),
        ((0, 0, 2, 2, 0), (0, 0, 2, 2, math.pi / 4), 1 / math.sqrt(2)),
        ((0, 0, 0, 0, 0), (0, 0, 2, 2, 0), 0.0),
        ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0), 0.0),
        ((1e6, -1e6, 4, 2, 0.3), (1e6, -1e6, 4, 2, 0.3), 1.0),
    ],
)
def test_closed_forms(a: tuple[float, ...], b: tuple[float, ...], iou: float) -> None:
    for first, second in ((a, b), (b, a)):
        assert aligned_iou(boxes_of(first), boxes_of(second)).item() == pytest.approx(iou, abs=1e-14)


def test_half_is_exactly_half() -> None:
    """Decisions at a strict threshold must not depend on rounding."""
    big, half = boxes_of((7, 3, 20, 10, 0)), boxes_of((2, 3, 10, 10, 0))
    assert aligned_iou(half, big).item() == 0.5
    assert pairwise_iou(big, half).item() == 0.5


@given(st.integers(0, 2**20), st.floats(-4, 4), st.floats(-1e3, 1e3), st.floats(1e-2, 1e2))
@settings(max_examples=50, deadline=None)
def test_iou_is_invariant_under_joint_motion_and_scale(
    seed: int, turn: float, shift: float, factor: float
) -> None:
    rng = np.random.default_rng(seed)
    a, b = random_boxes(8, rng), random_boxes(8, rng)
    before = aligned_iou(a, b)
    moved = []
    for boxes in (a, b):
        x, y = boxes[:, 0], boxes[:, 1]
        cos, sin = math.cos(turn), math.sin(turn)
        center = torch.stack([x * cos - y * sin + shift, x * sin + y * cos - shift], dim=1)
        moved.append(torch.cat([center * factor, boxes[:, 2:4] * factor, boxes[:, 4:] + turn], dim=1))
    torch.testing.assert_close(aligned_iou(*moved), before, rtol=0, atol=1e-9)
    torch.testing.assert_close(aligned_iou(b, a), before, rtol=0, atol=1e-12)


@given(st.integers(0, 2**20))
@settings(max_examples=25, deadline=None)
def test_permuting_boxes_permutes_the_matrix(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = random_boxes(12, rng), random_boxes(9, rng)
    rows, columns = torch.from_numpy(rng.permutation(12)), torch.from_numpy(rng.permutation(9))
    torch.testing.assert_close(
        pairwise_iou(a[rows], b[columns]), pairwise_iou(a, b)[rows][:, columns], rtol=0, atol=1e-14
    )


def test_matrix_equals_aligned_values_whatever_the_chunks(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = random_boxes(60, rng, 150), random_boxes(45, rng, 150)
    every = torch.cartesian_prod(torch.arange(60), torch.arange(45))
    expected = aligned_iou(a[every[:, 0]], b[every[:, 1]]).reshape(60, 45)
    for limit in (7, 1 << 20):
        monkeypatch.setattr(overlap, "PAIRS_PER_CHUNK", limit)
        monkeypatch.setattr("deblora.detect.overlap._PAIRS_PER_STEP", limit)
        torch.testing.assert_close(pairwise_iou(a, b), expected, rtol=0, atol=1e-13)
    assert pairwise_iou(a[:0], b).shape == (0, 45)
    assert pairwise_iou(a, b[:0]).shape == (60, 0)


def test_candidates_are_exactly_the_overlapping_hulls(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deblora.detect.overlap._PAIRS_PER_STEP", 50)
    a, b = to_xyxy(random_boxes(80, rng, 300)), to_xyxy(random_boxes(70, rng, 300))
    found = torch.cat([torch.stack(pair) for pair in touching_pairs(a, b)], dim=1).T.tolist()
    x = (a[:, None, 0] < b[None, :, 2]) & (b[None, :, 0] < a[:, None, 2])
    y = (a[:, None, 1] < b[None, :, 3]) & (b[None, :, 1] < a[:, None, 3])
    assert sorted(map(tuple, found)) == sorted(map(tuple, (x & y).nonzero().tolist()))
    assert [row for row, _ in found] == sorted(row for row, _ in found)


def test_gradients_match_differences(rng: np.random.Generator) -> None:
    a, b = random_boxes(12, rng, 20).requires_grad_(), random_boxes(12, rng, 20).requires_grad_()
    assert torch.autograd.gradcheck(aligned_iou, (a, b), atol=1e-6)
    assert torch.autograd.gradcheck(pairwise_iou, (a[:3], b[:3]), atol=1e-6)


def test_gradients_at_parallel_sides_match_differences() -> None:
    """Vertical and level edges: the closed form divides by zero there, the derivative exists."""
    a = boxes_of((1, 0.5, 6, 4, 0), (0, 0, 3, 2, 0), (2, 1, 6, 4, 0.3)).requires_grad_()
    b = boxes_of((0, 0, 5, 6, 0), (0.1, 0, 8, 7, 0), (0, 0, 5, 6, 0.3)).requires_grad_()
    assert torch.autograd.gradcheck(aligned_iou, (a, b), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_in_degenerate_pairs(dtype: torch.dtype) -> None:
    rows = [(0, 0, 4, 2, 0), (2, 0, 4, 2, 0), (4, 0, 4, 2, 0), (0, 0, 0, 0, 0), (0, 0, 4, 0, 0.1)]
    rows += [(0, 0, 4, 2, math.pi / 2), (50, 0, 4, 2, 1), (0, 0, 2, 1, 1e-20), (6e4, 6e4, 4, 2, 0)]
    boxes = boxes_of(*rows).to(dtype)
    every = torch.cartesian_prod(torch.arange(len(rows)), torch.arange(len(rows)))
    a, b = boxes[every[:, 0]].requires_grad_(), boxes[every[:, 1]].requires_grad_()
    aligned_iou(a, b).sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    assert torch.isfinite(a.grad).all()
    assert torch.isfinite(b.grad).all()


def test_values_with_and_without_gradients_are_the_same(rng: np.random.Generator) -> None:
    a, b = adversarial_pairs(rng)
    torch.testing.assert_close(
        aligned_iou(a.clone().requires_grad_(), b).detach(), aligned_iou(a, b), rtol=0, atol=1e-12
    )


def test_precision_follows_the_input(rng: np.random.Generator) -> None:
    a, b = random_boxes(200, rng), random_boxes(200, rng)
    exact = aligned_iou(a, b)
    single = aligned_iou(a.float(), b.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=2e-5)
    half = aligned_iou(a.bfloat16(), b.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.isfinite(half).all()


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        aligned_iou(torch.zeros((2, 5)), torch.zeros((3, 5)))
    with pytest.raises(ValueError, match="shape \\(n, 5\\)"):
        pairwise_iou(torch.zeros((2, 4)), torch.zeros((3, 5)))
