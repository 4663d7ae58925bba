import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deblora.data.longtail import (
    class_counts,
    groups_by_counts,
    groups_by_names,
    groups_by_thirds,
    imbalance_ratios,
    long_tailed_indices,
    long_tailed_quotas,
)
from deblora.errors import DataError


def test_counts_and_ratios() -> None:
    counts = class_counts(np.array([0, 2, 0, 0]), 3)
    assert counts.tolist() == [3, 0, 1]
    assert imbalance_ratios(counts).tolist() == [1.0, np.inf, 3.0]
    with pytest.raises(ValueError, match="n_classes is 2"):
        class_counts(np.array([0, 2]), 2)
    with pytest.raises(ValueError, match="all zero"):
        imbalance_ratios(np.array([0, 0]))


@pytest.mark.parametrize(
    ("n_classes", "sizes"),
    [(1, (0, 1, 0)), (2, (1, 0, 1)), (4, (1, 2, 1)), (10, (3, 4, 3)), (30, (10, 10, 10))],
)
def test_thirds_have_rounded_sizes_and_cover_all_classes(n_classes: int, sizes: tuple[int, ...]) -> None:
    groups = groups_by_thirds(np.arange(n_classes))
    assert tuple(len(group) for group in groups.named().values()) == sizes
    assert sorted(groups.head + groups.middle + groups.tail) == list(range(n_classes))


def test_thirds_put_frequent_classes_in_the_head_and_ties_in_class_order() -> None:
    groups = groups_by_thirds(np.array([5, 50, 5, 9, 1, 9]))
    assert (groups.head, groups.middle, groups.tail) == ((1, 3), (0, 5), (2, 4))


def test_groups_by_counts_has_exclusive_thresholds() -> None:
    groups = groups_by_counts(np.array([101, 100, 20, 19]), head_above=100, tail_below=20)
    assert (groups.head, groups.middle, groups.tail) == ((0,), (1, 2), (3,))
    with pytest.raises(ValueError, match="overlap"):
        groups_by_counts(np.array([1]), head_above=10, tail_below=12)


def test_groups_by_names() -> None:
    groups = groups_by_names(("a", "b", "c"), ["c"], ["a"])
    assert (groups.head, groups.middle, groups.tail) == ((2,), (1,), (0,))
    with pytest.raises(DataError, match="class d"):
        groups_by_names(("a", "b"), ["d"], [])
    with pytest.raises(DataError, match="class a is in head and tail"):
        groups_by_names(("a", "b"), ["a"], ["a"])


@pytest.mark.parametrize(
    ("n_classes", "largest", "factor", "total", "smallest"),
    [(30, 100, 50, 779, 2), (30, 150, 50, 1168, 3), (30, 150, 100, 1012, 2), (10, 180, 50, 505, 4)],
)
def test_quotas_give_the_known_profiles(
    n_classes: int, largest: int, factor: float, total: int, smallest: int
) -> None:
    quotas = long_tailed_quotas(n_classes, largest=largest, imbalance_factor=factor, seed=3)
    assert (int(quotas.sum()), int(quotas.max()), int(quotas.min())) == (total, largest, smallest)


def test_the_seed_decides_which_classes_are_the_tail() -> None:
    orders = {
        tuple(np.argsort(-long_tailed_quotas(6, largest=64, imbalance_factor=32, seed=seed)))
        for seed in range(8)
    }
    assert len(orders) > 4


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 39), st.floats(1, 60), st.integers(0, 99))
def test_selections_are_nested_without_repeats_and_meet_the_quotas(
    largest: int, factor: float, seed: int
) -> None:
    labels = np.random.default_rng(5).permutation(np.repeat(np.arange(4), 40))
    rule = {"n_classes": 4, "imbalance_factor": factor, "seed": seed}
    small = long_tailed_indices(labels, largest=largest, **rule)
    large = long_tailed_indices(labels, largest=largest + 1, **rule)
    assert set(small.tolist()) <= set(large.tolist())
    assert len(np.unique(small)) == len(small)
    quotas = long_tailed_quotas(4, largest=largest, imbalance_factor=factor, seed=seed)
    assert class_counts(labels[small], 4).tolist() == quotas.tolist()


def test_a_class_with_too_few_chips_is_named() -> None:
    labels = np.repeat(np.arange(3), (20, 20, 4))
    rule = {"n_classes": 3, "largest": 10, "imbalance_factor": 1.0, "seed": 0}
    with pytest.raises(DataError, match="class tug needs 10 training chips and has 4"):
        long_tailed_indices(labels, class_names=("cargo", "tanker", "tug"), **rule)
    with pytest.raises(DataError, match="with index 2"):
        long_tailed_indices(labels, **rule)


@pytest.mark.parametrize("bad", [{"largest": 0}, {"imbalance_factor": 0.5}, {"imbalance_factor": np.inf}])
def test_impossible_arguments_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        long_tailed_quotas(3, **{"largest": 5, "imbalance_factor": 2.0, "seed": 0, **bad})
