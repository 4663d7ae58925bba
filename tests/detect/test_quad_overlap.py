import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deblora.detect.boxes import corners
from deblora.detect.overlap import aligned_iou, quad_areas, quad_intersection, quad_iou

shapely = pytest.importorskip("shapely")

SQUARE = [[0, 0], [4, 0], [4, 4], [0, 4]]
DART = [[0, 0], [2, 1], [4, 0], [2, 4]]


def quads_of(*rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def star_quads(n: int, rng: np.random.Generator, shift: float = 0.0) -> Tensor:
    """Simple quads, many concave: points at rising angles and any distance."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, (n, 4)), axis=1)
    radius = rng.uniform(0.1, 10, (n, 4))
    center = rng.uniform(-shift, shift, (n, 1, 2))
    return torch.from_numpy(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1) + center)


def shapely_iou(a: Tensor, b: Tensor) -> tuple[np.ndarray, np.ndarray]:
    first, second = shapely.polygons(a.numpy()), shapely.polygons(b.numpy())
    valid = shapely.is_valid(first) & shapely.is_valid(second)
    shared = shapely.area(shapely.intersection(first[valid], second[valid]))
    union = shapely.area(first[valid]) + shapely.area(second[valid]) - shared
    return shared / union, valid


def test_agrees_with_shapely_on_convex_and_concave_quads(rng: np.random.Generator) -> None:
    a, b = star_quads(6000, rng, 4), star_quads(6000, rng, 4)
    expected, valid = shapely_iou(a, b)
    assert valid.sum() > 3000
    np.testing.assert_allclose(quad_iou(a, b).numpy()[valid], expected, rtol=0, atol=1e-11)


def test_agrees_with_shapely_on_an_integer_grid(rng: np.random.Generator) -> None:
    """Shared edges, shared vertices and vertical edges are frequent here."""
    a = torch.from_numpy(rng.integers(0, 4, (6000, 4, 2)).astype(np.float64))
    b = torch.from_numpy(rng.integers(0, 4, (6000, 4, 2)).astype(np.float64))
    expected, valid = shapely_iou(a, b)
    assert valid.sum() > 500
    np.testing.assert_allclose(quad_iou(a, b).numpy()[valid], expected, rtol=0, atol=1e-11)


def test_rectangles_have_the_iou_of_their_boxes(rng: np.random.Generator) -> None:
    columns = [rng.uniform(0, 40, (2, 500)), rng.uniform(0, 40, (2, 500))]
    columns += [rng.uniform(1, 30, (2, 500)), rng.uniform(1, 30, (2, 500)), rng.uniform(-4, 4, (2, 500))]
    a, b = torch.from_numpy(np.stack(columns, axis=-1))
    torch.testing.assert_close(quad_iou(corners(a), corners(b)), aligned_iou(a, b), rtol=0, atol=1e-12)


def test_closed_forms() -> None:
    square, dart = quads_of(SQUARE), quads_of(DART)
    assert quad_areas(dart).item() == 6.0
    assert quad_intersection(dart, square).item() == 6.0
    assert quad_iou(square, square).item() == 1.0
    assert quad_iou(square, square + torch.tensor([4.0, 0.0])).item() == 0.0
    assert quad_iou(square, square.flip(1)).item() == 1.0
    wide = square * torch.tensor([2.0, 1.0])
    assert quad_iou(square, wide).item() == 0.5
    assert quad_iou(square + 60000, wide + 60000).item() == 0.5
    point = torch.zeros((1, 4, 2), dtype=torch.float64)
    assert quad_iou(point, square).item() == 0.0
    assert quad_iou(point, point).item() == 0.0


@given(st.integers(0, 2**20), st.integers(0, 3), st.booleans())
@settings(max_examples=30, deadline=None)
def test_start_and_direction_of_the_outline_do_not_matter(seed: int, start: int, turn: bool) -> None:
    rng = np.random.default_rng(seed)
    a, b = star_quads(10, rng, 3), star_quads(10, rng, 3)
    other = a.roll(start, dims=1)
    other = other.flip(1) if turn else other
    torch.testing.assert_close(quad_iou(other, b), quad_iou(a, b), rtol=0, atol=1e-11)
    torch.testing.assert_close(quad_iou(b, a), quad_iou(a, b), rtol=0, atol=1e-11)


def test_pieces_do_not_change_a_value(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deblora.detect.overlap._QUADS_PER_CHUNK", 13)
    a, b = star_quads(60, rng, 4), star_quads(60, rng, 4)
    pieces = quad_iou(a, b)
    monkeypatch.undo()
    torch.testing.assert_close(pieces, quad_iou(a, b), rtol=0, atol=0)


def test_gradients_match_differences(rng: np.random.Generator) -> None:
    a, b = star_quads(6, rng, 2).requires_grad_(), star_quads(6, rng, 2).requires_grad_()
    assert torch.autograd.gradcheck(quad_iou, (a, b), atol=1e-5)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        quad_iou(torch.zeros((2, 4, 2)), torch.zeros((3, 4, 2)))
    with pytest.raises(ValueError, match="shape \\(n, 4, 2\\)"):
        quad_intersection(torch.zeros((2, 8)), torch.zeros((2, 4, 2)))
