import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from deblora.evaluate.heads.linear import (
    effective_number_weights,
    fit_crt,
    fit_effective_number,
    fit_inverse_frequency,
    fit_reweighted,
    inverse_frequency_weights,
)
from deblora.evaluate.probe import fit_probe

COUNTS = st.lists(st.integers(1, 5000), min_size=2, max_size=8).map(np.array)


@pytest.mark.parametrize("l2", [1e-2, 0.3])
def test_inverse_frequency_is_sklearns_balanced_regression(
    blobs: tuple[np.ndarray, np.ndarray], standardized: np.ndarray, l2: float
) -> None:
    x, y = blobs
    head = fit_inverse_frequency(x, y, 4, l2=l2)
    reference = LogisticRegression(C=1 / (len(y) * l2), class_weight="balanced", tol=1e-9, max_iter=20_000)
    reference.fit(standardized, y)
    np.testing.assert_allclose(head.weights, reference.coef_.T, atol=2e-3)
    logits = head.logits(x)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        odds / odds.sum(axis=1, keepdims=True), reference.predict_proba(standardized), atol=1e-4
    )


def test_crt_is_the_limit_of_class_balanced_sampling(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    """Repeating samples until all classes are equally large is class-balanced sampling without chance."""
    x, y = blobs
    repeats = np.array([2, 4, 8, 15])[y]
    repeated = fit_probe(
        np.repeat(x, repeats, axis=0),
        np.repeat(y, repeats),
        4,
        loss="cross_entropy",
        l2=0.05,
        statistics_of=x,
    )
    np.testing.assert_allclose(fit_crt(x, y, 4, l2=0.05).logits(x), repeated.logits(x), atol=2e-2)


def test_equal_weights_are_the_plain_probe_and_their_scale_does_not_matter(
    blobs: tuple[np.ndarray, np.ndarray],
) -> None:
    x, y = blobs
    plain = fit_probe(x, y, 4, loss="cross_entropy", l2=0.05).logits(x)
    for scale in (1.0, 7.0):
        head = fit_reweighted(x, y, 4, class_weights=np.full(4, scale), l2=0.05)
        np.testing.assert_allclose(head.logits(x), plain, atol=5e-3)
    np.testing.assert_allclose(fit_effective_number(x, y, 4, l2=0.05, beta=0.0).logits(x), plain, atol=5e-3)


def test_weights_by_hand() -> None:
    np.testing.assert_allclose(inverse_frequency_weights(np.array([1, 3])), [1.5, 0.5])
    # (1 - .5) / (1 - .5^n) for n = 1, 2 is 1 and 2/3.
    np.testing.assert_allclose(effective_number_weights(np.array([1, 2]), beta=0.5), [1.2, 0.8])
    np.testing.assert_array_equal(effective_number_weights(np.array([1, 90]), beta=0.0), [1.0, 1.0])


@given(COUNTS, st.sampled_from([0.0, 0.5, 0.99, 0.9999, 1 - 1e-12]))
def test_weights_have_mean_one_and_fall_with_the_count(counts: np.ndarray, beta: float) -> None:
    for weights in (inverse_frequency_weights(counts), effective_number_weights(counts, beta=beta)):
        assert weights.mean() == pytest.approx(1.0)
        order = np.argsort(counts, kind="stable")
        assert (np.diff(weights[order]) <= 1e-12).all()


@given(COUNTS)
def test_effective_number_tends_to_inverse_frequency(counts: np.ndarray) -> None:
    near_one = effective_number_weights(counts, beta=1 - 1e-10)
    np.testing.assert_allclose(near_one, inverse_frequency_weights(counts), rtol=1e-5)


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_beta_out_of_range(beta: float) -> None:
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\)"):
        effective_number_weights(np.array([3, 4]), beta=beta)


def test_counts_below_one_are_refused() -> None:
    for weights in (inverse_frequency_weights, effective_number_weights):
        with pytest.raises(ValueError, match="at least 1"):
            weights(np.array([3, 0]))
