"""Soft labels of unlabeled features: shares, agreement with the fits they are made of, and the probe they teach."""

import numpy as np
import pytest
from scipy.special import softmax

from deblora.evaluate.heads.semi_supervised import Start, fit_shared_gaussians
from deblora.evaluate.heads.teacher import SHARPENING, SHRINKAGE, TEMPERATURE, fit_pseudo_labeled, soft_labels
from deblora.evaluate.probe import fit_probe

Blobs = tuple[np.ndarray, np.ndarray]
C, ADAPTED = 4, 6


def test_every_class_owns_the_same_share(blobs: Blobs, others: Blobs) -> None:
    soft = soft_labels(*blobs, C, others[0], adapted_size=ADAPTED)
    np.testing.assert_allclose(soft.sum(axis=1), 1)
    np.testing.assert_allclose(soft.sum(axis=0), len(others[0]) / C, rtol=1e-2)


def test_they_are_the_mean_of_two_fits_scaled_by_hand(blobs: Blobs, others: Blobs) -> None:
    x, y = blobs
    u = others[0]
    fits = (
        (slice(0, ADAPTED), [ADAPTED]),
        (slice(None), [ADAPTED, x.shape[1] - ADAPTED]),
    )
    logits = []
    for columns, sizes in fits:
        start = Start.of(x[:, columns], y, C, u[:, columns], sizes=sizes)
        head = fit_shared_gaussians(start, shrinkage=SHRINKAGE, temperature=TEMPERATURE)
        logits.append(head.logits(u[:, columns]))
    p = softmax(SHARPENING * np.mean(logits, axis=0), axis=1)
    for _ in range(20):
        p *= len(u) / C / p.sum(axis=0)
        p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(soft_labels(x, y, C, u, adapted_size=ADAPTED), p, atol=1e-9)


def test_the_order_of_unlabeled_features_does_not_matter(blobs: Blobs, others: Blobs) -> None:
    order = np.random.default_rng(0).permutation(len(others[0]))
    one = soft_labels(*blobs, C, others[0], adapted_size=ADAPTED)
    other = soft_labels(*blobs, C, others[0][order], adapted_size=ADAPTED)
    np.testing.assert_allclose(one[order], other, atol=1e-6)


def test_the_probe_takes_them_as_classes(blobs: Blobs, others: Blobs) -> None:
    x, y = blobs
    soft = soft_labels(x, y, C, others[0], adapted_size=ADAPTED)
    found = fit_pseudo_labeled(x, y, C, others[0], soft, l2=0.1)
    both, classes = np.vstack([x, others[0]]), np.concatenate([y, soft.argmax(axis=1)])
    expected = fit_probe(both, classes, C, loss="balanced_softmax", l2=0.1, l2_normalize=False)
    np.testing.assert_array_equal(found.logits(x), expected.logits(x))
    with pytest.raises(ValueError, match="soft has shape"):
        fit_pseudo_labeled(x, y, C, others[0], soft[:-1])


@pytest.mark.parametrize("size", [0, 10])
def test_both_kinds_of_features_must_be_there(blobs: Blobs, others: Blobs, size: int) -> None:
    with pytest.raises(ValueError, match="adapted_size must be 1 to 9"):
        soft_labels(*blobs, C, others[0], adapted_size=size)
