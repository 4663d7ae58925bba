from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deblora.debias import alpha_from_imbalance, alpha_from_kappa, contract, shift
from deblora.errors import DataError

LABELS = np.array([0, 0, 1, 1, 1])
FEATURES = np.array([[9.0, 9.0], [8.0, 7.0], [0.0, 0.0], [2.0, 0.0], [1.0, 3.0]])
CENTERS = np.array([[5.0, 5.0]])


def test_alpha_laws_by_hand() -> None:
    np.testing.assert_allclose(alpha_from_imbalance(np.array([1000, 100, 10])), [1.0, 1.0, 0.1])
    whole = alpha_from_imbalance(np.array([1000, 100, 10]), imbalance="dataset")
    np.testing.assert_allclose(whole, [0.1, 0.1, 0.1])
    np.testing.assert_allclose(alpha_from_kappa(np.array([9, 1]), 3.0), [0.75, 0.25])
    assert alpha_from_kappa(np.array([5]), 0.0).tolist() == [1.0]


def test_alpha_of_dota_counts_by_hand() -> None:
    alpha = alpha_from_imbalance(np.array([28068, 2047, 630]))
    np.testing.assert_allclose(alpha, [1.0, 0.729, 0.224], atol=5e-4)


def test_empty_class_and_bad_settings_are_refused() -> None:
    with pytest.raises(DataError, match="class 1"):
        alpha_from_imbalance(np.array([3, 0]))
    with pytest.raises(ValueError, match="-1"):
        alpha_from_kappa(np.array([3]), -1.0)
    with pytest.raises(ValueError, match="alpha must"):
        contract(FEATURES, LABELS, CENTERS, np.array([1]), np.array([1.0, 1.5]))


@pytest.mark.parametrize("move", [contract, shift])
def test_other_classes_stay_bit_for_bit_and_alpha_one_is_identity(move: Callable[..., np.ndarray]) -> None:
    moved = move(FEATURES, LABELS, CENTERS, np.array([1]), np.array([0.2, 0.4]))
    assert np.array_equal(moved[:2], FEATURES[:2])
    assert not np.array_equal(moved[2:], FEATURES[2:])
    still = move(FEATURES, LABELS, CENTERS, np.array([1]), np.array([0.2, 1.0]))
    assert np.array_equal(still, FEATURES)


@settings(max_examples=20, deadline=None)
@given(alpha=st.floats(0.0, 0.99))
def test_both_modes_move_the_mean_alike_and_differ_in_scatter(alpha: float) -> None:
    alphas = np.array([1.0, alpha])
    pulled = contract(FEATURES, LABELS, CENTERS, np.array([1]), alphas)[2:]
    shifted = shift(FEATURES, LABELS, CENTERS, np.array([1]), alphas)[2:]
    np.testing.assert_allclose(pulled, alpha * FEATURES[2:] + (1 - alpha) * CENTERS, atol=1e-12)
    np.testing.assert_allclose(pulled.mean(axis=0), shifted.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(np.cov(pulled.T), alpha**2 * np.cov(FEATURES[2:].T), atol=1e-12)
    np.testing.assert_allclose(np.cov(shifted.T), np.cov(FEATURES[2:].T), atol=1e-12)


def test_float32_stays_float32() -> None:
    features = FEATURES.astype(np.float32)
    assert contract(features, LABELS, CENTERS, np.array([1]), np.array([1.0, 0.5])).dtype == np.float32
