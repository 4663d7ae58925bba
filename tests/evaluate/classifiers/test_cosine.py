import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestCentroid
from torch.nn import functional

from deblora.evaluate.classifiers import cosine
from deblora.evaluate.classifiers.cosine import (
    Cosine,
    ProjectedCosine,
    fit_ldam_drw,
    fit_lift,
    fit_nearest_mean_cosine,
    fit_nearest_mean_euclidean,
    ldam_margins,
)
from deblora.evaluate.classifiers.linear import effective_number_weights


def test_margins_by_hand() -> None:
    np.testing.assert_allclose(ldam_margins(np.array([16, 1, 81])), [0.25, 0.5, 0.5 / 3])
    np.testing.assert_allclose(ldam_margins(np.array([32, 2]), max_margin=0.8), [0.4, 0.8])


def ldam_loss(
    directions: torch.Tensor, units: np.ndarray, y: np.ndarray, margins: np.ndarray, weights: np.ndarray
) -> torch.Tensor:
    cosines = torch.tensor(units) @ functional.normalize(directions, dim=1).T
    shifted = cosines - torch.tensor(margins) * functional.one_hot(torch.tensor(y), 4)
    return functional.cross_entropy(30 * shifted, torch.tensor(y), weight=torch.tensor(weights))


@pytest.mark.parametrize("deferred", [0.0, 1.0])
def test_ldam_ends_where_the_loss_written_in_torch_is_flat(
    blobs: tuple[np.ndarray, np.ndarray], standardized: np.ndarray, deferred: float
) -> None:
    x, y = blobs
    counts = np.bincount(y)
    head = fit_ldam_drw(x, y, 4, deferred=deferred, n_iterations=1000)
    weights = np.ones(4) if deferred == 1 else effective_number_weights(counts)
    units = standardized / np.linalg.norm(standardized, axis=1, keepdims=True)
    directions = torch.tensor(head.weights, requires_grad=True)
    loss = ldam_loss(directions, units, y, 0.5 * (counts.min() / counts) ** 0.25, weights)
    loss.backward()
    assert directions.grad is not None
    assert directions.grad.abs().max() < 1e-3
    np.testing.assert_allclose(np.linalg.norm(head.weights, axis=1), 1.0)


def test_lift_ends_where_the_logit_adjusted_loss_is_flat(
    blobs: tuple[np.ndarray, np.ndarray], standardized: np.ndarray
) -> None:
    x, y = blobs
    head = fit_lift(x, y, 4, n_iterations=1000)
    units = standardized / np.linalg.norm(standardized, axis=1, keepdims=True)
    directions = torch.tensor(head.weights, requires_grad=True)
    scores = 25 * torch.tensor(units) @ functional.normalize(directions, dim=1).T
    prior = torch.tensor(np.log(np.bincount(y) / len(y)))
    functional.cross_entropy(scores + prior, torch.tensor(y)).backward()
    assert directions.grad is not None
    assert directions.grad.abs().max() < 1e-3


def test_logits_are_scaled_cosines_without_margin(
    blobs: tuple[np.ndarray, np.ndarray], standardized: np.ndarray
) -> None:
    x, y = blobs
    head = fit_ldam_drw(x, y, 4, scale=12.0)
    units = standardized / np.linalg.norm(standardized, axis=1, keepdims=True)
    np.testing.assert_allclose(head.logits(x), 12.0 * units @ head.weights.T, atol=1e-9)
    assert np.abs(head.logits(x)).max() <= 12.0 + 1e-9


def test_re_weighting_starts_after_the_deferred_share(
    blobs: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[tuple[list[float], int]] = []
    descend = cosine._descend

    def record(*args: object, **settings: object) -> np.ndarray:
        parts.append((settings["class_weights"].tolist(), settings["n_iterations"]))
        return descend(*args, **settings)

    monkeypatch.setattr(cosine, "_descend", record)
    fit_ldam_drw(*blobs, 4, n_iterations=20)
    weights = effective_number_weights(np.array([60, 30, 15, 8])).tolist()
    assert parts == [([1.0] * 4, 16), (weights, 4)]


def test_a_class_mean_at_the_origin_can_still_move() -> None:
    x = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    head = fit_lift(x, np.array([0, 0, 0, 0, 1, 1]), 2)
    assert isinstance(head, Cosine)
    assert np.isfinite(head.logits(x)).all()
    np.testing.assert_allclose(np.linalg.norm(head.weights, axis=1), 1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 0.0}, "scale must be positive, got 0"),
        ({"max_margin": -0.1}, "max_margin must not be negative"),
        ({"beta": 1.0}, "beta must be in"),
        ({"n_iterations": 0}, "n_iterations must be at least 1, got 0"),
        ({"deferred": 1.2}, r"deferred must be in \[0, 1\], got 1.2"),
    ],
)
def test_settings_out_of_range(
    blobs: tuple[np.ndarray, np.ndarray], settings: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_ldam_drw(*blobs, 4, **settings)


def test_margins_need_samples() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ldam_margins(np.array([4, 0]))


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
    np.testing.assert_allclose(head.weights.T / 2, reference.centroids_, atol=1e-10)


def test_logits_are_cosines_and_negative_squared_distances(
    blobs: tuple[np.ndarray, np.ndarray], standardized: np.ndarray
) -> None:
    x, y = blobs
    means = np.stack([standardized[y == c].mean(axis=0) for c in range(4)])
    distances = np.sum((standardized[:, None] - means) ** 2, axis=2)
    shared = np.sum(standardized**2, axis=1, keepdims=True)
    np.testing.assert_allclose(fit_nearest_mean_euclidean(x, y, 4).logits(x) - shared, -distances, atol=1e-9)
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


def test_texts_are_compared_with_projected_features(rng: np.random.Generator) -> None:
    x, projection, texts = rng.normal(size=(7, 5)), rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    found = ProjectedCosine(projection, texts, 14.0).logits(x)
    np.testing.assert_allclose(found, 14.0 * cosine_similarity(x @ projection, texts))
