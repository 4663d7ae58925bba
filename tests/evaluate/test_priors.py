import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deblora.errors import DataError
from deblora.evaluate.priors import resampled_indices

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
