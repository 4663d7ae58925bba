from collections.abc import Iterator

import numpy as np
import pytest

from deblora.data.longtail import Groups
from deblora.errors import DataError
from deblora.evaluate import heads
from deblora.evaluate.heads.head import Head, Standardizer, checked_counts, select


class Fixed:
    """A head that always answers the same."""

    def __init__(self, pred: list[int], n_classes: int = 2) -> None:
        self.answer = np.eye(n_classes)[pred]

    def logits(self, x: np.ndarray) -> np.ndarray:
        return self.answer[: len(x)]


def test_standardizer_gives_the_features_of_the_probe(
    blobs: tuple[np.ndarray, np.ndarray], standardized: np.ndarray
) -> None:
    np.testing.assert_allclose(Standardizer.fit(blobs[0])(blobs[0]), standardized, atol=1e-10)


def test_selection_keeps_the_best_and_counts_trials() -> None:
    x, y = np.zeros((4, 1)), np.array([0, 0, 1, 1])
    candidates = [({"l2": 1.0}, Fixed([0, 0, 0, 0])), ({"l2": 2.0}, Fixed([0, 0, 1, 1]))]
    head, record = select(candidates, x, y)
    assert head is candidates[1][1]
    assert record == {"l2": 2.0, "macro_f1": 1.0, "n_trials": 2}


def test_ties_go_to_the_first_and_a_generator_is_enough() -> None:
    def trials() -> Iterator[tuple[dict[str, str], Fixed]]:
        for name in ("a", "b"):
            yield {"name": name}, Fixed([0, 1])

    _, record = select(trials(), np.zeros((2, 1)), np.array([0, 1]))
    assert record["name"] == "a"
    assert record["n_trials"] == 2


def test_selection_refuses_nothing_to_choose() -> None:
    with pytest.raises(ValueError, match="no candidate"):
        select([], np.zeros((1, 1)), np.array([0]))
    with pytest.raises(DataError, match="validation set is empty"):
        select([({}, Fixed([0]))], np.zeros((0, 1)), np.array([], dtype=int))


def fitted(name: str, x: np.ndarray, y: np.ndarray, n_classes: int) -> Head:
    groups = Groups((0,), tuple(range(1, n_classes - 1)), (n_classes - 1,))
    settings = {
        "fit_reslt": {"groups": groups},
        "fit_tau_normalized": {"tau": 0.5},
        "fit_distribution_calibrated": {"rng": np.random.default_rng(0)},
        "fit_reweighted": {"class_weights": np.ones(n_classes)},
    }.get(name, {})
    if name not in ("fit_nearest_mean_cosine", "fit_nearest_mean_euclidean", "fit_ldam_drw", "fit_lift"):
        settings = {**settings, "l2": 0.01}
    return getattr(heads, name)(x, y, n_classes, **settings)


FITS = sorted(name for name in heads.__all__ if name.startswith("fit_") and name != "fit_shared_gaussians")
NEED_ALL_CLASSES = [name for name in FITS if name not in ("fit_cross_entropy", "fit_tau_normalized")]


@pytest.mark.parametrize("name", FITS)
def test_every_head_separates_classes_that_are_apart(name: str, rng: np.random.Generator) -> None:
    y = np.repeat([0, 1, 2], [40, 20, 6])
    x = (5 * np.eye(3, 8)[y] + rng.normal(scale=0.3, size=(66, 8))).astype(np.float32)
    head = fitted(name, x, y, 3)
    assert head.logits(x).shape == (66, 3)
    assert (head.logits(x).argmax(axis=1) == y).all()
    assert head.logits(x[:0]).shape == (0, 3)
    np.testing.assert_array_equal(head.logits(x), fitted(name, x, y, 3).logits(x))


@pytest.mark.parametrize("name", FITS)
def test_bad_input_is_refused_with_one_message(name: str, blobs: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = blobs
    with pytest.raises(ValueError, match="labels"):
        fitted(name, x, y[:-1], 4)
    with pytest.raises(ValueError, match="label 3"):
        fitted(name, x, y, 3)
    with pytest.raises(DataError, match="not finite"):
        fitted(name, np.where(np.arange(10) == 3, np.nan, x), y, 4)
    with pytest.raises(DataError, match="the same"):
        fitted(name, np.ones_like(x), y, 4)
    with pytest.raises(ValueError, match="fitted on size 10"):
        fitted(name, x, y, 4).logits(x[:, :5])


@pytest.mark.parametrize("name", NEED_ALL_CLASSES)
def test_a_class_without_samples_is_a_data_error(name: str, blobs: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(DataError, match="class 4 has no training sample"):
        fitted(name, *blobs, 5)


@pytest.mark.parametrize("name", [name for name in FITS if "nearest" not in name])
def test_numbers_out_of_range_are_refused(name: str, blobs: tuple[np.ndarray, np.ndarray]) -> None:
    setting = "scale" if name in ("fit_ldam_drw", "fit_lift") else "l2"
    extra = {
        "fit_reslt": {"groups": Groups((0,), (1,), (2, 3))},
        "fit_tau_normalized": {"tau": 0.5},
        "fit_distribution_calibrated": {"rng": np.random.default_rng(0)},
        "fit_reweighted": {"class_weights": np.ones(4)},
    }.get(name, {})
    with pytest.raises(ValueError, match=f"{setting} must be positive, got 0"):
        getattr(heads, name)(*blobs, 4, **{**extra, setting: 0.0})


def test_counts_of_checked_labels(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    assert checked_counts(*blobs, 4).tolist() == [60, 30, 15, 8]
