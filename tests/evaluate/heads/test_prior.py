import numpy as np

from deblora.evaluate.heads.linear import (
    adjust_probe,
    fit_balanced_softmax,
    fit_cross_entropy,
    fit_logit_adjusted,
)
from deblora.evaluate.probe import adjust_logits, fit_probe, log_prior


def test_heads_are_the_probes(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = blobs
    for fit, loss in ((fit_cross_entropy, "cross_entropy"), (fit_balanced_softmax, "balanced_softmax")):
        expected = fit_probe(x, y, 4, loss=loss, l2=0.03).logits(x)
        np.testing.assert_array_equal(fit(x, y, 4, l2=0.03).logits(x), expected)


def test_logit_adjustment_shifts_the_bias_only(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = blobs
    probe = fit_cross_entropy(x, y, 4, l2=0.03)
    prior = log_prior(y, 4)
    for tau in (0.0, 1.0, 2.5):
        head = fit_logit_adjusted(x, y, 4, l2=0.03, tau=tau)
        np.testing.assert_allclose(head.logits(x), adjust_logits(probe.logits(x), prior, tau), atol=1e-12)
        np.testing.assert_array_equal(head.weights, probe.weights)
    np.testing.assert_array_equal(adjust_probe(probe, prior, 0.0).bias, probe.bias)
