import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestCentroid

from deblora.evaluate.heads.nearest_mean import fit_nearest_mean_cosine, fit_nearest_mean_euclidean


def test_euclidean_head_is_sklearns_nearest_centroid(
    rng: np.random.Generator, blobs: tuple[np.ndarray, np.ndarray], standardized: np.ndarray
) -> None:
    x, y = blobs
    head = fit_nearest_mean_euclidean(x, y, 4)
    reference = NearestCentroid().fit(standardized, y)
    x_test = rng.normal(size=(200, 10))
    np.testing.assert_array_equal(
        head.logits(x_test).argmax(axis=1), reference.predict(head.standardizer(x_test))
    )
    np.testing.assert_allclose(head.means, reference.centroids_, atol=1e-10)


def test_logits_are_cosines_and_negative_squared_distances(
    blobs: tuple[np.ndarray, np.ndarray], standardized: np.ndarray
) -> None:
    x, y = blobs
    means = np.stack([standardized[y == c].mean(axis=0) for c in range(4)])
    distances = np.sum((standardized[:, None] - means) ** 2, axis=2)
    np.testing.assert_allclose(fit_nearest_mean_euclidean(x, y, 4).logits(x), -distances, atol=1e-9)
    np.testing.assert_allclose(
        fit_nearest_mean_cosine(x, y, 4).logits(x), cosine_similarity(standardized, means), atol=1e-9
    )


@pytest.mark.parametrize("fit", [fit_nearest_mean_cosine, fit_nearest_mean_euclidean])
def test_order_and_length_of_samples_do_not_matter(
    rng: np.random.Generator, blobs: tuple[np.ndarray, np.ndarray], fit: object
) -> None:
    x, y = blobs
    order = rng.permutation(len(y))
    shuffled = fit((x * rng.uniform(0.5, 2.0, size=(len(y), 1)))[order], y[order], 4)
    np.testing.assert_allclose(shuffled.logits(x), fit(x, y, 4).logits(x), atol=1e-9)
