"""F1 per class and group, and test sets with other class frequencies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deblora.data.longtail import Groups
from deblora.errors import DataError
from deblora.evaluate.metrics import (
    confusion,
    filtered_group_f1,
    group_scores,
    macro_f1,
    per_class_f1,
    resampled_indices,
)

LONG_TAILED = np.repeat([0, 1, 2, 3], [500, 50, 50, 50])
HEAD_AND_TAIL = Groups(head=(0,), middle=(), tail=(1, 2, 3))


def one_tail_sample_called_head() -> np.ndarray:
    pred = LONG_TAILED.copy()
    pred[500] = 0
    return pred


def hundred_head_samples_called_tail() -> np.ndarray:
    pred = LONG_TAILED.copy()
    pred[:100] = 1
    return pred


@pytest.mark.parametrize(
    ("pred", "tail", "filtered"),
    [
        (one_tail_sample_called_head(), (98 / 99 + 2) / 3, (98 / 99 + 2) / 4),
        (hundred_head_samples_called_tail(), (100 / 200 + 2) / 3, 1.0),
    ],
)
def test_tail_f1_counts_all_predictions(pred: np.ndarray, tail: float, filtered: float) -> None:
    scores = group_scores(per_class_f1(LONG_TAILED, pred, 4), HEAD_AND_TAIL)
    assert scores["tail"] == pytest.approx(tail)
    authors = filtered_group_f1(LONG_TAILED, pred, HEAD_AND_TAIL, 4)
    assert authors["tail"] == pytest.approx(filtered)


def test_empty_group_is_nan_and_all_is_the_mean_over_classes() -> None:
    scores = group_scores(np.array([1.0, 0.5, 0.0]), Groups(head=(0,), middle=(), tail=(1, 2)))
    assert np.isnan(scores.pop("middle"))
    assert scores == pytest.approx({"head": 1.0, "tail": 0.25, "all": 0.5})
    assert np.isnan(filtered_group_f1(LONG_TAILED, LONG_TAILED, HEAD_AND_TAIL, 4)["middle"])


def test_class_without_true_samples_is_left_out_even_when_predicted() -> None:
    y, pred = np.array([0, 0, 1]), np.array([0, 2, 1])
    f1 = per_class_f1(y, pred, 3)
    np.testing.assert_allclose(f1, [2 / 3, 1.0, np.nan])
    assert macro_f1(y, pred, 3) == pytest.approx(5 / 6)


def test_confusion_has_true_classes_in_rows() -> None:
    table = confusion(np.array([0, 0, 1]), np.array([1, 0, 1]), 2)
    np.testing.assert_array_equal(table, [[1, 1], [0, 1]])


@given(seed=st.integers(0, 1000), n_classes=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_scores_do_not_depend_on_sample_order_or_class_names(seed: int, n_classes: int) -> None:
    rng = np.random.default_rng(seed)
    y, pred = rng.integers(n_classes, size=(2, 40))
    order, rename = rng.permutation(40), rng.permutation(n_classes)
    f1 = per_class_f1(y, pred, n_classes)
    np.testing.assert_array_equal(per_class_f1(y[order], pred[order], n_classes), f1)
    np.testing.assert_array_equal(per_class_f1(rename[y], rename[pred], n_classes)[rename], f1)
    defined = f1[~np.isnan(f1)]
    assert ((defined >= 0) & (defined <= 1)).all()


@pytest.mark.parametrize(
    ("y", "pred", "message"),
    [
        (np.array([0, 3]), np.array([0, 1]), "label 3"),
        (np.array([0, 1]), np.array([-1, 1]), "label -1"),
        (np.array([0, 1]), np.array([0]), "2 samples"),
        (np.array([0.0, 1.0]), np.array([0, 1]), "float64"),
    ],
)
def test_wrong_labels_are_refused(y: np.ndarray, pred: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion(y, pred, 3)


def test_filtered_scores_refuse_other_lengths() -> None:
    with pytest.raises(ValueError, match="650 samples"):
        filtered_group_f1(LONG_TAILED, LONG_TAILED[:-1], HEAD_AND_TAIL, 4)


def test_group_of_unknown_class_is_refused() -> None:
    with pytest.raises(ValueError, match="group tail"):
        group_scores(np.ones(2), Groups(head=(0,), middle=(), tail=(2,)))


Y = np.tile(np.arange(3), 100)
UNEVEN = np.concatenate([Y[:180], np.full(40, 2), np.full(7, 0)])
TRAIN = np.array([5, 90, 30])


def counts(prior: str, factor: float = 100.0) -> list[int]:
    chosen = resampled_indices(Y, TRAIN, prior=prior, imbalance_factor=factor, seed=0)
    assert len(np.unique(chosen)) == len(chosen)
    assert (np.diff(chosen) > 0).all()
    return np.bincount(Y[chosen], minlength=3).tolist()


def test_counts_by_hand() -> None:
    assert counts("forward") == [1, 100, 10]
    assert counts("backward") == [100, 1, 10]
    assert counts("uniform") == [100, 100, 100]
    assert counts("forward", 4.0) == [25, 100, 50]


def test_imbalance_one_is_uniform_in_every_direction() -> None:
    assert counts("forward", 1.0) == counts("backward", 1.0) == counts("uniform", 1.0)


def test_ties_in_training_follow_the_class_index() -> None:
    chosen = resampled_indices(Y, np.array([7, 7, 7]), prior="forward", imbalance_factor=100.0, seed=0)
    assert np.bincount(Y[chosen]).tolist() == [100, 10, 1]


@given(st.integers(0, 50), st.floats(1, 200), st.sampled_from(["forward", "backward"]))
def test_tails_are_subsets_of_the_uniform_set(seed: int, factor: float, prior: str) -> None:
    arguments = {"imbalance_factor": factor, "seed": seed}
    uniform = resampled_indices(UNEVEN, TRAIN, prior="uniform", **arguments)
    tailed = resampled_indices(UNEVEN, TRAIN, prior=prior, **arguments)
    assert np.isin(tailed, uniform).all()
    np.testing.assert_array_equal(tailed, resampled_indices(UNEVEN, TRAIN, prior=prior, **arguments))
    assert set(UNEVEN[tailed]) == {0, 1, 2}


def test_seed_changes_the_draw() -> None:
    first, second = (
        resampled_indices(UNEVEN, TRAIN, prior="uniform", imbalance_factor=1.0, seed=seed) for seed in (0, 1)
    )
    assert (first != second).any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"prior": "sideways"}, ValueError, "'sideways'"),
        ({"imbalance_factor": 0.5}, ValueError, "imbalance_factor must be at least 1, got 0.5"),
        ({"y": Y[Y != 2]}, DataError, "class 2 has no test sample"),
        ({"train_counts": TRAIN[:2]}, ValueError, "label 2"),
    ],
)
def test_bad_input_is_refused(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {
        "y": Y,
        "train_counts": TRAIN,
        "prior": "forward",
        "imbalance_factor": 10.0,
        "seed": 0,
        **change,
    }
    with pytest.raises(error, match=message):
        resampled_indices(**arguments)
