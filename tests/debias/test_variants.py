"""Moved rows: who moves, what stays, and which settings a row depends on."""

import numpy as np
import pytest

from deblora.debias.spaces import unit_rows
from deblora.debias.variants import CONTRACTED, MOVED, SHIFTED, Training, moved_features, moved_settings
from deblora.evaluate.heads.search import Samples
from deblora.recipe.classify import Recipe, recipe_from


@pytest.fixture
def training(samples: Samples) -> Training:
    return Training(samples.x.astype(np.float32), samples.y, samples.n_classes, samples.groups)


@pytest.fixture
def recipe() -> Recipe:
    return recipe_from(
        {"data": {"source": "x"}, "cluster": {"n_clusters": 4, "rho": 3.0}, "calibrate": {"numerator": 4}}
    )


@pytest.mark.parametrize("name", CONTRACTED)
def test_contraction_moves_tail_classes_only(name: str, training: Training, recipe: Recipe) -> None:
    moved = moved_features(name, training, recipe)
    tail = np.isin(training.labels, training.groups.tail)
    np.testing.assert_array_equal(moved[~tail], training.features[~tail])
    assert np.abs(moved[tail] - training.features[tail]).max() > 0.1


@pytest.mark.parametrize("name", SHIFTED)
def test_shifted_rows_are_unit_rows_and_classes_without_donors_stay(
    name: str, training: Training, recipe: Recipe
) -> None:
    moved = moved_features(name, training, recipe)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1)
    largest = training.labels == 0
    np.testing.assert_allclose(moved[largest], unit_rows(training.features.astype(np.float64))[largest])


def test_the_class_mean_keeps_the_mean(training: Training, recipe: Recipe) -> None:
    moved = moved_features("contract-class-mean", training, recipe)
    rare = training.labels == training.groups.tail[0]
    np.testing.assert_allclose(moved[rare].mean(axis=0), training.features[rare].mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("name", MOVED)
def test_rows_do_not_depend_on_unrelated_settings(name: str) -> None:
    base = {"data": {"source": "x"}}
    before, after = (recipe_from({**base, "cluster": {"n_clusters": k}, "lora": {"rank": k}}) for k in (4, 8))
    assert (moved_settings(name, before) == moved_settings(name, after)) == (
        "debiased" not in name and name != "shift-united"
    )
