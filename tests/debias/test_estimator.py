import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from deblora.debias import Debiaser, SizeConstrainedKMeans, alpha_from_imbalance, contract, debiased_centers
from deblora.debias.kmeans.estimator import cluster_features
from deblora.errors import DataError

NAMES = np.array(["cargo", "fishing", "tanker"])
Table = tuple[np.ndarray, np.ndarray]
COUNTS = (120, 40, 6)


@pytest.fixture
def table(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(3), COUNTS)
    return rng.normal(size=(len(labels), 4)) + labels[:, None], NAMES[labels]


def test_fit_equals_the_steps(table: Table) -> None:
    features, names = table
    model = Debiaser(n_clusters=5, random_state=1).fit(features, names)
    labels = np.searchsorted(NAMES, names)
    assignments, centers, _, _ = cluster_features(features, n_clusters=5, rho=10, seed=1)
    center, _ = debiased_centers(centers, assignments, labels, [2])
    alpha = alpha_from_imbalance(np.array(COUNTS))
    expected = contract(features, labels, center, np.array([2]), alpha)
    assert model.moved_classes_.tolist() == ["tanker"]
    np.testing.assert_allclose(model.alpha_, [1.0, 1.0, 0.5])
    np.testing.assert_allclose(model.centers_, center)
    np.testing.assert_allclose(model.calibrated_, expected)


@pytest.mark.parametrize("center", ["kernel_neighbors", "class_mean", "global_mean", "random_head_mean"])
@pytest.mark.parametrize("alpha", ["imbalance", "kappa", 0.5])
def test_head_rows_stay_for_every_center(table: Table, center: str, alpha: float | str) -> None:
    features, names = table
    model = Debiaser("shift", center=center, alpha=alpha, tail_classes=["tanker"]).fit(features, names)
    assert np.array_equal(model.calibrated_[names != "tanker"], features[names != "tanker"])
    assert np.isfinite(model.calibrated_).all()


def test_clone_keeps_parameters() -> None:
    model = Debiaser("shift", center="kernel_neighbors", alpha=0.3)
    assert clone(model).get_params() == model.get_params()
    clusters = SizeConstrainedKMeans(4, min_size=2)
    assert clone(clusters).get_params() == clusters.get_params()


def test_pipeline_trains_on_calibrated_and_predicts_on_plain_features(table: Table) -> None:
    features, names = table
    debiaser = Debiaser("shift", center="global_mean", l2_normalize=True)
    pipeline = make_pipeline(debiaser, LogisticRegression()).fit(features, names)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(debiaser.transform(features), unit)
    by_hand = LogisticRegression().fit(debiaser.calibrated_, names)
    assert np.array_equal(pipeline.predict(features), by_hand.predict(unit))


def test_unknown_class_and_settings_are_refused(table: Table) -> None:
    with pytest.raises(DataError, match="dredger"):
        Debiaser(tail_classes=["dredger"]).fit(*table)
    with pytest.raises(ValueError, match="pull"):
        Debiaser("pull").fit(*table)
    with pytest.raises(ValueError, match="not fitted"):
        Debiaser().transform(table[0])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", None, "b"], r"row 1 is missing \(None\)"),
        (["a", float("nan"), "b"], r"row 1 is missing \(nan\)"),
        (np.array([0.0, 1.0, np.nan]), r"row 2 is missing"),
        (np.array(["2024-01-01", "NaT", "2024-01-02"], dtype="datetime64[D]"), "row 1 is missing"),
        (["a", "a", 1], "row 0 is str, row 2 is a number"),
        (np.array([1, "a", 2], dtype=object), "row 0 is a number, row 1 is str"),
        ([["a"], ["b"], ["c"]], "vector"),
    ],
)
def test_missing_and_mixed_labels_are_refused(labels: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Debiaser(center="global_mean").fit(np.eye(3), labels)


@pytest.mark.parametrize(
    "labels",
    [[1, 2.5, 2.5], np.array([True, False, True]), np.array(["a", "b", "b"], dtype=object), ("b", "a", "a")],
)
def test_labels_of_one_kind_are_taken(labels: object) -> None:
    model = Debiaser(center="global_mean", tail_classes=[]).fit(np.eye(3), labels)
    assert len(model.classes_) == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "center", ["debiased", "kernel_neighbors", "class_mean", "global_mean", "random_head_mean"]
)
@pytest.mark.parametrize("l2_normalize", [False, True])
def test_values_that_are_not_finite_are_refused_for_every_center(
    value: float, center: str, l2_normalize: bool, rng: np.random.Generator
) -> None:
    x, y = rng.normal(size=(100, 4)), np.repeat([0, 1, 2], [70, 20, 10])
    fitted = Debiaser(center=center, n_clusters=4, l2_normalize=l2_normalize).fit(x, y)  # type: ignore[arg-type]
    x[3, 1] = value
    for call in (fitted.transform, lambda rows: Debiaser(center=center, n_clusters=4).fit(rows, y)):  # type: ignore[arg-type]
        with pytest.raises(DataError, match="NaN or infinite values, first in row 3"):
            call(x)
