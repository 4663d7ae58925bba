"""Levels have the strides they claim, whatever the backbone gives."""

import pytest
import torch

from deblora.detect.fcos.head import FeaturePyramid, SimplePyramid, build_pyramid


def shapes(levels: list[torch.Tensor]) -> list[tuple[int, ...]]:
    return [tuple(level.shape[1:]) for level in levels]


def test_one_map_gives_five_levels() -> None:
    pyramid = build_pyramid([32], 16)
    assert isinstance(pyramid, SimplePyramid)
    levels = pyramid([torch.randn(2, 32, 8, 12)])  # 128 x 192 px at stride 16
    assert shapes(levels) == [(16, 16, 24), (16, 8, 12), (16, 4, 6), (16, 2, 3), (16, 1, 2)]
    assert pyramid.strides([16]) == (8, 16, 32, 64, 128)
    assert pyramid.strides([14]) == (7, 14, 28, 56, 112)


def test_scales_can_be_chosen() -> None:
    pyramid = SimplePyramid(32, 8, scales=(4, 2, 1, 0.5, 0.25), n_extra=0)
    levels = pyramid([torch.randn(1, 32, 4, 4)])
    assert shapes(levels) == [(8, 16, 16), (8, 8, 8), (8, 4, 4), (8, 2, 2), (8, 1, 1)]
    assert pyramid.strides([8]) == (2, 4, 8, 16, 32)
    assert SimplePyramid(32, 8, scales=(1, 0.5), n_extra=1).strides([8]) == (8, 16, 32)


def test_several_maps_give_their_strides_and_two_more() -> None:
    pyramid = build_pyramid([4, 6, 8], 16)
    assert isinstance(pyramid, FeaturePyramid)
    maps = [torch.randn(1, 4, 8, 12), torch.randn(1, 6, 4, 6), torch.randn(1, 8, 2, 3)]
    assert shapes(pyramid(maps)) == [(16, 8, 12), (16, 4, 6), (16, 2, 3), (16, 1, 2), (16, 1, 1)]
    assert pyramid.strides([8, 16, 32]) == (8, 16, 32, 64, 128)


def test_the_top_reaches_the_finest_level_and_not_the_other_way_round() -> None:
    torch.manual_seed(0)
    pyramid = FeaturePyramid([4, 4], 8, n_extra=0)
    maps = [torch.randn(1, 4, 8, 8), torch.randn(1, 4, 4, 4)]
    before = pyramid(maps)
    coarse = pyramid([maps[0], maps[1] + 1])
    fine = pyramid([maps[0] + 1, maps[1]])
    assert not torch.allclose(coarse[0], before[0])
    torch.testing.assert_close(fine[1], before[1])


def test_odd_sizes_are_rounded_up() -> None:
    """So every pixel lies in a cell of every level."""
    levels = SimplePyramid(8, 8)([torch.randn(1, 8, 7, 5)])
    assert shapes(levels) == [(8, 14, 10), (8, 7, 5), (8, 4, 3), (8, 2, 2), (8, 1, 1)]
    maps = [torch.randn(1, 4, 7, 5), torch.randn(1, 4, 4, 3)]
    assert shapes(FeaturePyramid([4, 4], 8, n_extra=0)(maps)) == [(8, 7, 5), (8, 4, 3)]


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="halve"):
        SimplePyramid(8, 8, scales=(2, 0.5))
    with pytest.raises(ValueError, match="not one of"):
        SimplePyramid(8, 8, scales=(8, 4))
    with pytest.raises(ValueError, match="double"):
        FeaturePyramid([4, 4], 8).strides([8, 32])
