"""Centers of the nearest donors: a case by hand, and the limit of the kernel."""

import numpy as np
import pytest

from deblora.debias.neighbors import kernel_neighbor_centers, nearest_donor_centers

MEANS = np.array([[4.0, 0.0], [0.0, 4.0], [-4.0, 0.0], [3.0, 1.0]])
LABELS = np.repeat(np.arange(4), [10, 10, 10, 2])


def test_the_mean_of_the_nearest_donors() -> None:
    centers, has_donors = nearest_donor_centers(MEANS[LABELS], LABELS, 4, n_nearest=2)
    assert has_donors.tolist() == [False, False, False, True]
    np.testing.assert_allclose(centers[3], (MEANS[0] + MEANS[1]) / 2)
    np.testing.assert_allclose(centers[:3], MEANS[:3])


def test_more_than_all_donors_are_all() -> None:
    centers, _ = nearest_donor_centers(MEANS[LABELS], LABELS, 4, n_nearest=9)
    np.testing.assert_allclose(centers[3], MEANS[:3].mean(axis=0))


def test_one_nearest_is_the_limit_of_the_kernel(rng: np.random.Generator) -> None:
    labels = np.repeat(np.arange(5), [30, 25, 20, 4, 3])
    features = rng.normal(size=(5, 6))[labels] + 0.1 * rng.normal(size=(len(labels), 6))
    centers, has_donors = nearest_donor_centers(features, labels, 5, n_nearest=1)
    sharp, _, same = kernel_neighbor_centers(features, labels, 5, temperature=1e-3)
    assert has_donors.tolist() == same.tolist()
    np.testing.assert_allclose(centers, sharp, atol=1e-9)


def test_no_neighbor_is_refused() -> None:
    with pytest.raises(ValueError, match="n_nearest"):
        nearest_donor_centers(MEANS[LABELS], LABELS, 4, n_nearest=0)
