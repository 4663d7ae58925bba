import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deblora.data.longtail import Groups
from deblora.evaluate.metrics import confusion, filtered_group_f1, group_scores, macro_f1, per_class_f1

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
