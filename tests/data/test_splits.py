from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from deblora.data.chips import ArrayPixels, ChipSet, choose_classes
from deblora.data.splits import note_shared_units, stratified_split, unit_split, val_as_test
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


def test_classes_of_one_or_two_chips_train_and_are_named() -> None:
    given = chip_set([0] * 9 + [1] * 2 + [2] * 3 + [3], [""] * 15)
    chips = stratified_split(given, val_fraction=0.1, test_fraction=0.1, seed=0)
    assert [chips.splits[i] for i in (9, 10, 14)] == ["train"] * 3
    assert sorted(chips.splits[11:14]) == ["test", "train", "val"]
    assert chips.notes == ("2 classes of one or two chips train and are not judged: class1, class3",)
    many = chip_set([label for label in range(13) for _ in range(9 if label == 0 else 2)], [""] * 33)
    (note,) = stratified_split(many, val_fraction=0.1, test_fraction=0.1, seed=0).notes
    assert note.startswith("12 classes") and "class10 ..." in note


def test_a_class_with_fewer_chips_than_are_asked_for_is_named() -> None:
    given = chip_set([0] * 60 + [1] * 20 + [2] * 4, [""] * 84)
    with pytest.raises(DataError) as caught:
        stratified_split(given, val_fraction=0.1, test_fraction=0.1, val_per_class=30, seed=0)
    assert "in 2 classes: class1 has 20 of 33, class2 has 4 of 32; add chips" in str(caught.value)
    assert "data.ignore: [class1, class2]" in str(caught.value)


@pytest.mark.parametrize(
    "bad", [{"val_fraction": 1.0}, {"test_fraction": -0.1}, {"val_fraction": 0.6, "test_fraction": 0.6}]
)
def test_impossible_fractions_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="0 to 1"):
        stratified_split(chip_set([0], [""]), **{"val_fraction": 0.1, "test_fraction": 0.1, "seed": 0, **bad})
    with pytest.raises(ValueError, match="-1"):
        stratified_split(chip_set([0], [""]), val_fraction=0.1, test_fraction=0.1, val_per_class=-1, seed=0)


def unit_set(labels: list[int], units: list[str], splits: list[str] | None = None) -> ChipSet:
    ids = [str(i) for i in range(len(labels))]
    arrays = [np.zeros((2, 2), dtype=np.uint8)] * len(labels)
    names = tuple(f"c{i}" for i in range(max(labels) + 1))
    return ChipSet(
        tuple(ids),
        np.array(labels),
        tuple(splits or [""] * len(ids)),
        names,
        ArrayPixels(arrays, ids),
        units=tuple(units),
    )


@pytest.mark.parametrize("seed", range(8))
def test_no_unit_is_parted_and_every_class_keeps_training_chips(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, size=600, p=[0.6, 0.25, 0.1, 0.05])
    units = rng.integers(0, 40, size=600).astype(str)
    chips = unit_split(
        unit_set(labels.tolist(), units.tolist()), val_fraction=0.2, test_fraction=0.2, seed=seed
    )
    splits = np.array(chips.splits)
    assert all(len(set(splits[units == unit])) == 1 for unit in np.unique(units))
    shares = np.array([np.bincount(labels[splits == s], minlength=4) for s in ("train", "val", "test")])
    assert shares[0].min() >= 1 and (shares[1:] > 0).all() and not chips.notes
    overall = shares.sum(axis=1) / 600
    assert abs(overall[1] - 0.16) < 0.09 and abs(overall[2] - 0.2) < 0.09  # val comes from what test leaves


def test_a_class_in_one_unit_stays_in_train_and_is_named() -> None:
    labels = [0] * 20 + [1] * 5
    units = [f"u{i % 5}" for i in range(20)] + ["u0"] * 5
    chips = unit_split(unit_set(labels, units), val_fraction=0.2, test_fraction=0.2, seed=0)
    assert {chips.splits[i] for i in range(20, 25)} == {"train"}
    assert [note.startswith("1 classes are in too few units") for note in chips.notes] == [True, True]
    with pytest.raises(DataError, match="can be spared for test"):
        unit_split(unit_set([0, 0, 1, 1], ["a", "a", "b", "b"]), val_fraction=0.2, test_fraction=0.2, seed=0)
    with pytest.raises(ValueError, match="no units"):
        unit_split(replace(chips, units=()), val_fraction=0.2, test_fraction=0.2, seed=0)


def test_given_splits_stay_and_seeds_decide() -> None:
    labels, units = [i % 2 for i in range(60)], [f"u{i // 3}" for i in range(60)]
    splits = ["train"] * 45 + ["test"] * 15
    chips = unit_set(labels, units, splits)
    drawn = [unit_split(chips, val_fraction=0.2, test_fraction=0.2, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0].splits == drawn[1].splits != drawn[2].splits
    assert drawn[0].splits[45:] == ("test",) * 15 and "val" in drawn[0].splits
    few = unit_split(chips, val_fraction=0.2, test_fraction=0.2, val_per_class=2, seed=0)
    assert few.splits.count("val") == 6  # two scenes of three chips: at least two of each class


def test_one_large_unit_does_not_swallow_a_split() -> None:
    """Three scenes with one rare chip each and one with twenty: the rest is not worth the large one."""
    labels = [1] * 23 + [0] * 60
    units = ["a", "b", "c", *(["big"] * 20), *(f"u{i % 6}" for i in range(60))]
    chips = unit_split(unit_set(labels, units), val_fraction=0.2, test_fraction=0.2, seed=3)
    assert "test" not in {chips.splits[i] for i in range(3, 23)}


def test_validation_is_the_test_only_where_there_is_none() -> None:
    labels, units = [0, 1, 0], ["a", "b", "c"]
    assert val_as_test(unit_set(labels, units, ["train", "train", "val"])).splits == (
        "train",
        "train",
        "test",
    )
    for splits in (["train", "val", "test"], ["", "", "val"], ["train", "train", "test"]):
        assert val_as_test(unit_set(labels, units, splits)).splits == tuple(splits)


def test_classes_are_chosen_by_name() -> None:
    chips = unit_set([0, 1, 2, 2, 0], list("abcde"))
    kept = choose_classes(chips, keep=["c2", "c0"])
    assert kept.class_names == ("c0", "c2") and kept.labels.tolist() == [0, 1, 1, 0]
    assert (
        kept.units == ("a", "c", "d", "e") and "1 chips left out as asked, of the classes c1" in kept.notes[0]
    )
    assert choose_classes(chips, ignore=["c1"]).labels.tolist() == [0, 1, 1, 0]
    assert choose_classes(chips) is chips
    with pytest.raises(DataError, match="names 'c9'"):
        choose_classes(chips, keep=["c9"])
    with pytest.raises(DataError, match="leave no class"):
        choose_classes(chips, keep=["c1"], ignore=["c1"])


def test_units_on_both_sides_are_noted() -> None:
    chips = unit_set([0, 0, 1, 1], ["a", "b", "a", "c"], ["train", "test", "test", "val"])
    assert note_shared_units(chips).notes == (
        "chips of 1 images or scenes stand in training and in the test: scores say little about new images",
    )
    apart = unit_set([0, 0, 1, 1], ["a", "b", "a", "c"], ["train", "test", "train", "val"])
    assert note_shared_units(apart) is apart
    assert note_shared_units(replace(chips, units=())).notes == ()
