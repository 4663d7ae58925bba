from collections import Counter

import numpy as np
import pytest

from deblora.data.chips import ArrayPixels, ChipSet
from deblora.data.splits import stratified_split
from deblora.errors import DataError


def chip_set(labels: list[int], splits: list[str]) -> ChipSet:
    ids = tuple(f"chip{i}" for i in range(len(labels)))
    pixels = ArrayPixels([np.zeros((1, 1), np.uint8)] * len(ids), ids)
    names = tuple(f"class{i}" for i in range(max(labels) + 1))
    return ChipSet(ids, np.array(labels), tuple(splits), names, pixels)


def counts(chips: ChipSet) -> Counter:
    return Counter(zip(chips.labels.tolist(), chips.splits, strict=True))


def test_fractions_hold_in_each_class_and_small_classes_give_one() -> None:
    chips = stratified_split(
        chip_set([0] * 20 + [1] * 3, [""] * 23), val_fraction=0.1, test_fraction=0.25, seed=1
    )
    assert counts(chips) == {
        (0, "val"): 2,
        (0, "test"): 5,
        (0, "train"): 13,
        (1, "val"): 1,
        (1, "test"): 1,
        (1, "train"): 1,
    }


def test_seed_decides_and_ids_keep_their_order() -> None:
    given = chip_set([0] * 30, [""] * 30)
    first = stratified_split(given, val_fraction=0.3, test_fraction=0.3, seed=1)
    assert first.splits == stratified_split(given, val_fraction=0.3, test_fraction=0.3, seed=1).splits
    assert first.splits != stratified_split(given, val_fraction=0.3, test_fraction=0.3, seed=2).splits
    assert first.ids == given.ids


def test_val_is_carved_from_train_and_test_is_left_alone() -> None:
    given = chip_set([0] * 10 + [1] * 8, (["train"] * 6 + ["test"] * 4) + (["train"] * 5 + ["test"] * 3))
    chips = stratified_split(given, val_fraction=0.5, test_fraction=0.2, val_per_class=2, seed=0)
    assert counts(chips) == {
        (0, "train"): 4,
        (0, "val"): 2,
        (0, "test"): 4,
        (1, "train"): 3,
        (1, "val"): 2,
        (1, "test"): 3,
    }
    assert chips.split("test").ids == given.split("test").ids


def test_existing_splits_are_kept() -> None:
    given = chip_set([0] * 6, ["train", "train", "val", "test", "", ""])
    chips = stratified_split(given, val_fraction=0.3, test_fraction=0.3, seed=0)
    assert chips.splits == ("train", "train", "val", "test", "train", "train")


def test_chips_marked_train_never_become_test() -> None:
    given = chip_set([0] * 8, ["train"] * 4 + [""] * 4)
    for seed in range(10):
        chips = stratified_split(given, val_fraction=0.1, test_fraction=0.5, seed=seed)
        assert "test" not in chips.splits[:4]
        assert chips.splits.count("test") == 2


def test_nothing_is_asked_nothing_is_taken() -> None:
    chips = stratified_split(chip_set([0, 1], ["", ""]), val_fraction=0.0, test_fraction=0.0, seed=0)
    assert chips.splits == ("train", "train")


def test_a_class_with_too_few_chips_is_named() -> None:
    given = chip_set([0] * 9 + [1] * 2 + [2] * 3 + [3], [""] * 15)
    with pytest.raises(DataError) as caught:
        stratified_split(given, val_fraction=0.1, test_fraction=0.1, seed=0)
    assert "in 2 classes: class1 has 2 of 3, class3 has 1 of 3; add chips" in str(caught.value)
    assert "data.ignore: [class1, class3]" in str(caught.value)
    many = chip_set([label for label in range(13) for _ in range(9 if label == 0 else 2)], [""] * 33)
    with pytest.raises(DataError, match="class10 has 2 of 3 and 2 more; add chips"):
        stratified_split(many, val_fraction=0.1, test_fraction=0.1, seed=0)


@pytest.mark.parametrize(
    "bad", [{"val_fraction": 1.0}, {"test_fraction": -0.1}, {"val_fraction": 0.6, "test_fraction": 0.6}]
)
def test_impossible_fractions_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="0 to 1"):
        stratified_split(chip_set([0], [""]), **{"val_fraction": 0.1, "test_fraction": 0.1, "seed": 0, **bad})
    with pytest.raises(ValueError, match="-1"):
        stratified_split(chip_set([0], [""]), val_fraction=0.1, test_fraction=0.1, val_per_class=-1, seed=0)
