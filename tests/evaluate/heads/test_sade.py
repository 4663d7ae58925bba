from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics.pairwise import cosine_similarity

from deblora.errors import DataError
from deblora.evaluate.heads.sade import (
    SadeHead,
    agreement,
    dropout_views,
    fit_sade,
    inverse_log_prior,
    stable_weights,
)
from deblora.evaluate.probe import Probe, fit_probe, log_prior
from deblora.evaluate.softmax import fit_cross_entropy


def test_reversed_prior_by_hand() -> None:
    y = np.repeat([0, 1, 2], [1, 6, 3])
    np.testing.assert_allclose(np.exp(inverse_log_prior(y, 3)), [0.6, 0.1, 0.3])


def test_tied_classes_share_their_reversed_prior() -> None:
    y = np.repeat([0, 1, 2, 3], [2, 2, 10, 6])
    np.testing.assert_allclose(np.exp(inverse_log_prior(y, 4)), [0.4, 0.4, 0.1, 0.1])
    balanced = np.repeat([0, 1, 2], 5)
    np.testing.assert_allclose(inverse_log_prior(balanced, 3), log_prior(balanced, 3))


def test_reversed_prior_needs_every_class() -> None:
    with pytest.raises(ValueError, match=r"classes \[1\]"):
        inverse_log_prior(np.array([0, 2]), 3)


def test_experts_are_fitted_with_their_offsets(
    blobs: tuple[np.ndarray, np.ndarray], standardized: np.ndarray
) -> None:
    x, y = blobs
    head = fit_sade(x, y, 4, l2=0.05, tau=2.0)
    for expert, loss in zip(head.experts, ("cross_entropy", "balanced_softmax"), strict=False):
        expected = fit_probe(x, y, 4, loss=loss, l2=0.05)
        np.testing.assert_allclose(expert.logits(x), expected.logits(x), atol=5e-3)
    counts = np.array([60, 30, 15, 8])
    offset = np.log(counts / 113) - 2 * np.log(counts[::-1] / 113)
    start = np.vstack([np.zeros((standardized.shape[1], 4)), -offset])
    equal = np.full(len(y), 1 / len(y))
    fitted = fit_cross_entropy(standardized, y, equal, offset, 0.05, start, max_iter=500)
    np.testing.assert_allclose(head.experts[2].weights, fitted[:-1], atol=1e-4)
    np.testing.assert_allclose(head.experts[2].bias, fitted[-1], atol=1e-3)


def test_without_reversed_prior_expert_3_is_expert_2(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    head = fit_sade(*blobs, 4, l2=0.05, tau=0.0)
    np.testing.assert_allclose(head.experts[2].logits(blobs[0]), head.experts[1].logits(blobs[0]))


def test_equal_weights_are_the_default(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = blobs
    head = fit_sade(x, y, 4, l2=0.05)
    np.testing.assert_allclose(head.logits(x), np.mean([e.logits(x) for e in head.experts], axis=0))
    only_second = head.with_weights((0.0, 1.0, 0.0))
    np.testing.assert_allclose(only_second.logits(x), head.experts[1].logits(x))


def test_agreement_is_the_mean_cosine_of_probabilities(rng: np.random.Generator) -> None:
    a, b, weights = rng.normal(size=(3, 7, 4)), rng.normal(size=(3, 7, 4)), np.array([0.2, 0.5, 0.3])
    p, q = (softmax(np.einsum("k,knc->nc", weights, s), axis=1) for s in (a, b))
    assert agreement(a, b, weights) == pytest.approx(np.diagonal(cosine_similarity(p, q)).mean())
    assert agreement(a, a, weights) == pytest.approx(1.0)


def expert(row: int, size: int) -> Probe:
    """Reads two entries of a feature as the logits of two classes."""
    weights = np.zeros((size, 2))
    weights[2 * row, 0] = weights[2 * row + 1, 1] = 3.0
    return Probe(weights, np.zeros(2), np.zeros(size), 1.0, False)


@pytest.mark.parametrize("stable", [0, 1, 2])
def test_weight_goes_to_the_only_expert_that_agrees_with_itself(
    rng: np.random.Generator, stable: int
) -> None:
    head = SadeHead((expert(0, 6), expert(1, 6), expert(2, 6)))
    a, b = rng.normal(size=(2, 300, 6))
    b[:, 2 * stable : 2 * stable + 2] = a[:, 2 * stable : 2 * stable + 2]
    expected = np.full(3, 0.05)
    expected[stable] = 0.9
    np.testing.assert_allclose(stable_weights(head, a, b), expected, atol=1e-3)
    np.testing.assert_allclose(stable_weights(head, a, b, floor=0.0)[stable], 1.0, atol=1e-3)


def test_views_that_are_equal_keep_equal_weights(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = blobs
    head = fit_sade(x, y, 4, l2=0.05)
    np.testing.assert_allclose(stable_weights(head, x, x), 1 / 3, atol=1e-6)
    np.testing.assert_allclose(stable_weights(head, x, x[::-1], floor=1 / 3), 1 / 3, atol=1e-6)
    other = replace(head, weights=(0.0, 0.0, 1.0))
    assert stable_weights(other, x, x[::-1]) == stable_weights(head, x, x[::-1])


def test_views_drop_the_stated_share(rng: np.random.Generator) -> None:
    x = rng.uniform(1.0, 2.0, size=(200, 100))
    first, second = dropout_views(x, rng=rng, rate=0.25)
    for view in (first, second):
        assert np.isin(view[view != x], 0.0).all()
        assert (view == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert (first != second).any()
    again = dropout_views(x, rng=np.random.default_rng(4))[0]
    np.testing.assert_array_equal(again, dropout_views(x, rng=np.random.default_rng(4))[0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"view_b": np.ones((4, 6))}, ValueError, r"\(5, 6\) and \(4, 6\)"),
        ({"view_a": np.ones((0, 6)), "view_b": np.ones((0, 6))}, DataError, "no sample to aggregate"),
        ({"floor": 0.4}, ValueError, "floor must be in"),
    ],
)
def test_aggregation_refuses(change: dict[str, object], error: type[Exception], message: str) -> None:
    head = SadeHead((expert(0, 6), expert(1, 6), expert(2, 6)))
    with pytest.raises(error, match=message):
        stable_weights(head, **{"view_a": np.ones((5, 6)), "view_b": np.ones((5, 6)), **change})


def test_settings_out_of_range(blobs: tuple[np.ndarray, np.ndarray], rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="tau must not be negative"):
        fit_sade(*blobs, 4, l2=0.05, tau=-1.0)
    with pytest.raises(ValueError, match="rate must be in"):
        dropout_views(blobs[0], rng=rng, rate=1.0)
    head = SadeHead((expert(0, 6), expert(1, 6), expert(2, 6)))
    for weights in ((0.5, 0.5), (0.5, 0.6, -0.1), (0.5, 0.5, 0.5)):
        with pytest.raises(ValueError, match="sum to 1"):
            head.with_weights(weights)
