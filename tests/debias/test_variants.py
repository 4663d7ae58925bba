"""Variants of the calibration: who moves, what stays, and the parts they are put together from."""

from collections.abc import Callable

import numpy as np
import pytest

from deblora.debias import alpha_from_imbalance, contract, debiased_centers
from deblora.debias.kmeans.estimator import cluster_features
from deblora.debias.spaces import unit_rows
from deblora.debias.variants import VARIANTS, Moved, centers_of, moved_classes, moved_features
from deblora.evaluate.classifiers.search import Samples

CONTRACTED = tuple(name for name, variant in VARIANTS.items() if variant.mode == "contract")
Move = Callable[[str], Moved]


@pytest.fixture
def move(samples: Samples) -> Move:
    assignments, centers, _, _ = cluster_features(samples.x, n_clusters=4, rho=3.0, seed=0)

    def moved(name: str) -> Moved:
        return moved_features(
            name, samples.x, samples.y, samples.groups, clusters=(assignments, centers), numerator=4
        )

    return moved


@pytest.mark.parametrize("name", CONTRACTED)
def test_contraction_moves_tail_classes_only(name: str, samples: Samples, move: Move) -> None:
    found = move(name)
    tail = np.isin(samples.y, samples.groups.tail)
    np.testing.assert_array_equal(found.features[~tail], samples.x[~tail])
    assert np.abs(found.features[tail] - samples.x[tail]).max() > 0.1
    assert np.flatnonzero(found.alpha < 1).tolist() == list(samples.groups.tail)


def test_the_shift_keeps_length_1_and_classes_without_donors(samples: Samples, move: Move) -> None:
    found = move("shift")
    np.testing.assert_allclose(np.linalg.norm(found.features, axis=1), 1)
    largest = samples.y == 0
    np.testing.assert_allclose(found.features[largest], unit_rows(samples.x)[largest])
    assert found.kappa >= 0 and found.alpha[0] == 1


def test_the_class_mean_keeps_the_mean(samples: Samples, move: Move) -> None:
    rare = samples.y == samples.groups.tail[0]
    moved = move("contract-class-mean").features
    np.testing.assert_allclose(moved[rare].mean(axis=0), samples.x[rare].mean(axis=0), atol=1e-5)


def test_the_calibration_by_its_parts(samples: Samples, move: Move) -> None:
    assignments, clusters, _, _ = cluster_features(samples.x, n_clusters=4, rho=3.0, seed=0)
    tail = moved_classes(samples.groups, "tail")
    centers, _ = debiased_centers(clusters, assignments, samples.y, tail)
    alpha = alpha_from_imbalance(np.bincount(samples.y), numerator=4)
    expected = contract(samples.x, samples.y, centers, tail, alpha)
    np.testing.assert_allclose(move("contract").features, expected)


def test_which_classes_move(samples: Samples) -> None:
    assert moved_classes(samples.groups, "tail+middle").tolist() == [2, 3, 4, 5]
    assert moved_classes(samples.groups, "all").tolist() == [0, 1, 2, 3, 4, 5]


def test_unknown_centers_and_missing_clusters_are_refused(samples: Samples) -> None:
    tail = np.array([4, 5])
    with pytest.raises(ValueError, match="need clusters"):
        centers_of("debiased", samples.x, samples.y, 6, tail)
    with pytest.raises(ValueError, match="unknown center"):
        centers_of("nearest", samples.x, samples.y, 6, tail)  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        moved_features("contract-nearest", samples.x, samples.y, samples.groups)
