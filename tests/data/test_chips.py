import numpy as np
import pytest

from deblora.data.chips import ArrayPixels, ChipSet, as_chip
from deblora.errors import DataError


def small_set() -> ChipSet:
    arrays = [np.full((2, 3), i, dtype=np.uint8) for i in range(4)]
    ids = ("a", "b", "c", "d")
    return ChipSet(
        ids, np.array([0, 1, 0, 1]), ("train", "val", "train", ""), ("x", "y"), ArrayPixels(arrays, ids)
    )


def test_subset_of_subset_keeps_chips_and_their_pixels_together() -> None:
    chips = small_set().subset(np.array([3, 1, 0])).subset(np.array([2, 0]))
    assert chips.ids == ("a", "d")
    assert chips.labels.tolist() == [0, 1]
    assert chips.splits == ("train", "")
    assert [int(chips.pixels.read(i)[0, 0, 0]) for i in range(2)] == [0, 3]


def test_split_selects_by_name_and_may_be_empty() -> None:
    chips = small_set()
    assert chips.split("train").ids == ("a", "c")
    assert len(chips.split("test")) == 0
    assert chips.split("test").n_classes == 2
    with pytest.raises(ValueError, match="'dev'"):
        chips.split("dev")


def test_inconsistent_parts_are_refused() -> None:
    chips = small_set()
    with pytest.raises(ValueError, match="differ in length"):
        ChipSet(chips.ids[:3], chips.labels, chips.splits, chips.class_names, chips.pixels)
    with pytest.raises(ValueError, match="1 classes"):
        ChipSet(chips.ids, chips.labels, chips.splits, ("x",), chips.pixels)
    with pytest.raises(ValueError, match="dev"):
        ChipSet(chips.ids, chips.labels, ("dev",) * 4, chips.class_names, chips.pixels)
    with pytest.raises(ValueError, match="index -1"):
        chips.subset(np.array([0, -1]))
    with pytest.raises(ValueError, match="differ in length"):
        ArrayPixels([np.zeros((1, 1))], ["a", "b"])


def test_as_chip_converts_what_is_safe_and_names_what_is_not() -> None:
    assert as_chip(np.zeros((2, 3), dtype=np.uint16), "a").shape == (2, 3, 1)
    assert as_chip(np.zeros((2, 3, 4)), "a").dtype == np.float32
    assert as_chip(np.ones((2, 3), dtype=bool), "a").dtype == np.uint8
    bad = [np.zeros(3), np.zeros((0, 3)), np.zeros((2, 2), dtype=np.int64), np.full((2, 2), np.nan)]
    for array in bad:
        with pytest.raises(DataError, match="chip-7"):
            as_chip(array, "chip-7")
