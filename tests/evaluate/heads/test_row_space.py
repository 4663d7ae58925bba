"""The row space: norms and inner products stay, and so do the logits of linear heads and heads on class means."""

from collections.abc import Callable

import numpy as np
import pytest

from deblora.evaluate.heads import (
    Head,
    fit_balanced_softmax,
    fit_crt,
    fit_lift,
    fit_nearest_mean_cosine,
    fit_nearest_mean_euclidean,
    fit_sade,
)
from deblora.evaluate.heads.row_space import RowSpace, RowSpaceHead
from deblora.evaluate.heads.search import Samples


def space_of(x: np.ndarray) -> RowSpace:
    space = RowSpace.fit(x)
    assert space is not None
    return space


def test_norms_and_products_with_training_rows_stay(samples: Samples) -> None:
    space = space_of(samples.x)
    x, x_val = space(samples.x), space(samples.x_val)
    assert x.shape == (len(samples.x), len(samples.x) + 1)
    np.testing.assert_allclose(x[:, -1], 0, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(x_val, axis=1), np.linalg.norm(samples.x_val, axis=1))
    np.testing.assert_allclose(x_val @ x.T, samples.x_val @ samples.x.T)


@pytest.mark.parametrize(
    "fit",
    [
        lambda x, y, c: fit_balanced_softmax(x, y, c, l2=1e-2),
        lambda x, y, c: fit_crt(x, y, c, l2=1e-2),
        lambda x, y, c: fit_sade(x, y, c, l2=1e-2),
        lambda x, y, c: fit_lift(x, y, c, scale=20.0, n_iterations=5),
        fit_nearest_mean_cosine,
        fit_nearest_mean_euclidean,
    ],
)
def test_a_head_fitted_there_gives_the_same_logits(
    fit: Callable[[np.ndarray, np.ndarray, int], Head], samples: Samples
) -> None:
    space = space_of(samples.x)
    direct = fit(samples.x, samples.y, samples.n_classes).logits(samples.x_val)
    reduced = RowSpaceHead(space, fit(space(samples.x), samples.y, samples.n_classes)).logits(samples.x_val)
    np.testing.assert_allclose(reduced, direct, atol=2e-3 * np.abs(direct).max())


def test_nothing_is_reduced_where_nothing_is_gained(rng: np.random.Generator) -> None:
    assert RowSpace.fit(rng.normal(size=(9, 10))) is None
    assert RowSpace.fit(rng.normal(size=(8, 10))) is not None


def test_repeated_rows_do_no_harm(samples: Samples) -> None:
    twice = np.concatenate([samples.x[:20], samples.x[:20]])
    found = space_of(twice)(samples.x_val)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(samples.x_val, axis=1))
