"""Shared Gaussians with unlabeled features: closed forms, what unlabeled samples are good for, bad input."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import f1_score

from deblora.data.longtail import Groups
from deblora.errors import DataError
from deblora.evaluate.classifiers.classifier import Standardizer
from deblora.evaluate.classifiers.linear import fit_linear, log_prior
from deblora.evaluate.classifiers.search import Samples
from deblora.evaluate.classifiers.semi_supervised import (
    SHARPENING,
    TEACHER_SHRINKAGE,
    TEACHER_TEMPERATURE,
    Start,
    _principal,
    fit_pseudo_labeled,
    fit_semi_supervised,
    fit_shared_gaussians,
    fit_transductive,
    held_out_predictions,
    n_short,
    scaled_to_shares,
    soft_labels,
)

Blobs = tuple[np.ndarray, np.ndarray]
N_CLASSES = 4


def gaussian_logits(z: np.ndarray, means: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    inverse = np.linalg.inv(covariance)
    return np.array([[-0.5 * (row - m) @ inverse @ (row - m) for m in means] for row in z])


def contrasts(logits: np.ndarray) -> np.ndarray:
    """Return logits without what all classes share."""
    return logits - logits[:, :1]


def test_without_rounds_it_is_linear_discriminant_analysis(
    blobs: Blobs, others: Blobs, standardized: np.ndarray
) -> None:
    x, y = blobs
    start = Start.of(x, y, N_CLASSES, others[0])
    head = fit_shared_gaussians(start, shrinkage=0.1, temperature=1.0, n_rounds=0)
    means = np.stack([standardized[y == c].mean(axis=0) for c in range(N_CLASSES)])
    inside = standardized - means[y]
    u = head.standardizer(others[0])
    ridge = 0.1 * np.vstack([standardized, u]).var(axis=0).mean()
    covariance = inside.T @ inside / (len(x) - N_CLASSES) + ridge * np.eye(x.shape[1])
    np.testing.assert_allclose(
        contrasts(head.logits(others[0])), contrasts(gaussian_logits(u, means, covariance)), rtol=1e-7
    )


def test_one_round_by_hand(blobs: Blobs, others: Blobs, standardized: np.ndarray) -> None:
    x, y = blobs
    start = Start.of(x, y, N_CLASSES, others[0])
    head = fit_shared_gaussians(start, shrinkage=0.1, trust=2.0, temperature=3.0, n_rounds=1)
    u = head.standardizer(others[0])
    p = np.exp(start.guess) / np.exp(start.guess).sum(axis=1, keepdims=True)
    for _ in range(20):
        p = p / p.sum(axis=0) * len(u) / N_CLASSES
        p = p / p.sum(axis=1, keepdims=True)
    means = np.stack(
        [
            (2 * standardized[y == c].sum(axis=0) + p[:, c] @ u) / (2 * (y == c).sum() + p[:, c].sum())
            for c in range(N_CLASSES)
        ]
    )
    scatter = sum(np.outer(row - means[c], row - means[c]) for row, c in zip(standardized, y, strict=True))
    for row, shares in zip(u, p, strict=True):
        scatter = scatter + sum(
            shares[c] * np.outer(row - means[c], row - means[c]) for c in range(N_CLASSES)
        )
    ridge = 0.1 * np.vstack([standardized, u]).var(axis=0).mean()
    covariance = scatter / (len(x) + len(u)) + ridge * np.eye(x.shape[1])
    np.testing.assert_allclose(
        contrasts(head.logits(x)), contrasts(gaussian_logits(standardized, means, covariance)) / 3, rtol=1e-6
    )


def test_shares_are_kept() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([0.5, 0.3, 0.2])
    owned = scaled_to_shares(rng.normal(size=(60, 3)), shares, n_iterations=500)
    np.testing.assert_allclose(owned.sum(axis=1), 1)
    np.testing.assert_allclose(owned.sum(axis=0), 60 * shares, rtol=1e-6)


def test_unlabeled_samples_mend_collapsed_training_features() -> None:
    """Training samples vary in the wrong directions only; the scatter that hides the classes is never seen."""
    rng = np.random.default_rng(5)
    means = np.zeros((3, 12))
    means[:, :3] = 3 * np.eye(3)
    spread = np.ones(12)
    spread[3:6] = 4.0  # what unseen chips vary in
    y = np.repeat([0, 1, 2], (60, 20, 3))
    x = 8 + means[y] + 0.3 * rng.normal(size=(len(y), 12))
    x[-3:, 3:6] += 3.0  # three rare chips that happen to look alike
    y_new = np.repeat([0, 1, 2], 60)
    new = 8 + means[y_new] + spread * rng.normal(size=(len(y_new), 12)) * 0.6
    start = Start.of(x, y, 3, new)
    hits = [
        (fit_shared_gaussians(start, n_rounds=n).logits(new).argmax(axis=1) == y_new).mean() for n in (0, 8)
    ]
    assert hits[1] > hits[0] + 0.05 and hits[1] > 0.85


def test_order_and_length_of_unlabeled_samples_do_not_matter(blobs: Blobs, others: Blobs) -> None:
    x, y = blobs
    rng = np.random.default_rng(1)
    shuffled = (others[0] * rng.uniform(0.5, 2, size=(len(others[0]), 1)))[rng.permutation(len(others[0]))]
    heads = [fit_shared_gaussians(Start.of(x, y, N_CLASSES, u)) for u in (others[0], shuffled)]
    np.testing.assert_allclose(heads[0].logits(x), heads[1].logits(x), rtol=1e-5, atol=1e-5)


def test_both_ways_to_the_principal_directions_agree() -> None:
    z = np.random.default_rng(2).normal(size=(12, 30))
    wide = _principal(z, 8)
    _, _, reference = np.linalg.svd(z, full_matrices=False)
    np.testing.assert_allclose(wide @ wide.T, reference[:8].T @ reference[:8], atol=1e-8)
    tall = _principal(z.T, 8)
    np.testing.assert_allclose(tall.T @ tall, np.eye(8), atol=1e-10)


@pytest.fixture
def samples(blobs: Blobs, others: Blobs) -> Samples:
    x, y = blobs
    return Samples(x, y, *others, N_CLASSES, Groups((0,), (1,), (2, 3)), x, 0)


def test_the_chosen_settings_carry_over_to_the_test_features(samples: Samples, others: Blobs) -> None:
    chosen = fit_semi_supervised(samples)
    assert chosen.record["n_trials"] == 8
    moved = fit_transductive(samples, chosen, others[0][::2])
    assert moved.record == chosen.record
    expected = fit_shared_gaussians(
        Start.of(samples.x, samples.y, N_CLASSES, others[0][::2]),
        shrinkage=float(chosen.record["shrinkage"]),
        temperature=float(chosen.record["temperature"]),
    )
    np.testing.assert_array_equal(moved.classifier.logits(samples.x), expected.logits(samples.x))


def test_the_held_out_score_is_that_of_five_folds_fitted_apart(samples: Samples) -> None:
    unseen = held_out_predictions(samples, shrinkage=0.1, temperature=2.0)
    score = f1_score(samples.y_val, unseen, average="macro")
    order = np.random.default_rng(0).permutation(len(samples.y_val))
    order = order[np.argsort(samples.y_val[order], kind="stable")]
    true, guessed = [], []
    for k in range(5):
        kept = order[k::5]
        seen = np.setdiff1d(order, kept)
        start = Start.of(samples.x, samples.y, N_CLASSES, samples.x_val[seen])
        head = fit_shared_gaussians(start, shrinkage=0.1, temperature=2.0)  # 32 of each class: equal shares
        assert np.bincount(samples.y_val[seen]).tolist() == [32] * N_CLASSES
        true.append(samples.y_val[kept])
        guessed.append(head.logits(samples.x_val[kept]).argmax(axis=1))
    reference = f1_score(np.concatenate(true), np.concatenate(guessed), average="macro")
    assert score == pytest.approx(reference)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_validation_chips_make_as_many_folds(samples: Samples, n: int) -> None:
    few = replace(samples, x_val=samples.x_val[:n], y_val=samples.y_val[:n])
    unseen = held_out_predictions(few, shrinkage=0.1, temperature=2.0)
    assert unseen.shape == (n,)
    assert n > 1 or unseen.tolist() == [0]


def test_a_class_that_validation_lacks_keeps_a_small_share(samples: Samples) -> None:
    kept = samples.y_val != 3
    short = replace(samples, x_val=samples.x_val[kept], y_val=samples.y_val[kept])
    assert np.isfinite(fit_semi_supervised(short).classifier.logits(samples.x)).all()
    assert (n_short(short.y_val, 4), n_short(samples.y_val, 4)) == (1, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shrinkage": 0.0}, "shrinkage must be positive"),
        ({"trust": -1.0}, "trust must be positive"),
        ({"temperature": np.inf}, "temperature must be positive"),
        ({"n_rounds": -1}, "n_rounds must be at least 0"),
        ({"shares": np.array([0.5, 0.5])}, "shares must be 4 positive numbers"),
        ({"shares": np.array([1.0, 0.0, 0.0, 0.0])}, "shares must be 4 positive numbers"),
    ],
)
def test_bad_settings_are_named(
    blobs: Blobs, others: Blobs, settings: dict[str, object], message: str
) -> None:
    start = Start.of(*blobs, N_CLASSES, others[0])
    with pytest.raises(ValueError, match=message):
        fit_shared_gaussians(start, **settings)


def test_bad_features_are_named(blobs: Blobs, others: Blobs) -> None:
    x, y = blobs
    with pytest.raises(DataError, match="there is no unlabeled feature"):
        Start.of(x, y, N_CLASSES, others[0][:0])
    with pytest.raises(DataError, match="not finite"):
        Start.of(x, y, N_CLASSES, np.full((3, 10), np.nan))
    with pytest.raises(ValueError, match="x has feature size 10"):
        Start.of(x, y, N_CLASSES, others[0][:, :4])


# Soft labels.

ADAPTED = 6


def test_every_class_owns_the_same_share(blobs: Blobs, others: Blobs) -> None:
    soft = soft_labels(*blobs, N_CLASSES, others[0], adapted_size=ADAPTED)
    np.testing.assert_allclose(soft.sum(axis=1), 1)
    np.testing.assert_allclose(soft.sum(axis=0), len(others[0]) / N_CLASSES, rtol=1e-2)


def test_they_are_the_mean_of_two_fits_scaled_by_hand(blobs: Blobs, others: Blobs) -> None:
    x, y = blobs
    u = others[0]
    fits = (
        (slice(0, ADAPTED), [ADAPTED]),
        (slice(None), [ADAPTED, x.shape[1] - ADAPTED]),
    )
    logits = []
    for columns, sizes in fits:
        start = Start.of(x[:, columns], y, N_CLASSES, u[:, columns], sizes=sizes)
        head = fit_shared_gaussians(start, shrinkage=TEACHER_SHRINKAGE, temperature=TEACHER_TEMPERATURE)
        logits.append(head.logits(u[:, columns]))
    p = softmax(SHARPENING * np.mean(logits, axis=0), axis=1)
    for _ in range(20):
        p *= len(u) / N_CLASSES / p.sum(axis=0)
        p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(soft_labels(x, y, N_CLASSES, u, adapted_size=ADAPTED), p, atol=1e-9)


def test_the_order_of_unlabeled_features_does_not_matter(blobs: Blobs, others: Blobs) -> None:
    order = np.random.default_rng(0).permutation(len(others[0]))
    one = soft_labels(*blobs, N_CLASSES, others[0], adapted_size=ADAPTED)
    other = soft_labels(*blobs, N_CLASSES, others[0][order], adapted_size=ADAPTED)
    np.testing.assert_allclose(one[order], other, atol=1e-6)


def test_the_probe_takes_them_as_classes(blobs: Blobs, others: Blobs) -> None:
    x, y = blobs
    soft = soft_labels(x, y, N_CLASSES, others[0], adapted_size=ADAPTED)
    found = fit_pseudo_labeled(x, y, N_CLASSES, others[0], soft, l2=0.1)
    both, classes = np.vstack([x, others[0]]), np.concatenate([y, soft.argmax(axis=1)])
    plain = fit_linear(both, classes, N_CLASSES, l2=0.1, standardizer=Standardizer.fit(both, ()))
    np.testing.assert_array_equal(found.logits(x), plain.adjusted(log_prior(classes, N_CLASSES)).logits(x))
    with pytest.raises(ValueError, match="soft has shape"):
        fit_pseudo_labeled(x, y, N_CLASSES, others[0], soft[:-1])


@pytest.mark.parametrize("size", [0, 10])
def test_both_kinds_of_features_must_be_there(blobs: Blobs, others: Blobs, size: int) -> None:
    with pytest.raises(ValueError, match="adapted_size must be 1 to 9"):
        soft_labels(*blobs, N_CLASSES, others[0], adapted_size=size)
