import numpy as np
import pytest

from deblora.evaluate.heads.linear import TAU_NORM_GRID, fit_cross_entropy, fit_tau_normalized, tau_normalize


def test_tau_zero_is_the_probe_without_its_bias(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = blobs
    probe = fit_cross_entropy(x, y, 4, l2=0.05)
    head = fit_tau_normalized(x, y, 4, l2=0.05, tau=0.0)
    np.testing.assert_allclose(head.logits(x), probe.logits(x) - probe.bias, atol=1e-10)


def test_lengths_are_raised_to_one_minus_tau(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = blobs
    probe = fit_cross_entropy(x, y, 4, l2=0.05)
    lengths = np.linalg.norm(probe.weights, axis=0)
    for tau in TAU_NORM_GRID:
        normalized = tau_normalize(probe, tau)
        np.testing.assert_allclose(np.linalg.norm(normalized.weights, axis=0), lengths ** (1 - tau))
        np.testing.assert_allclose(normalized.weights * lengths**tau, probe.weights, atol=1e-12)
        assert not normalized.bias.any()
    assert TAU_NORM_GRID[0] == 0
    assert TAU_NORM_GRID[-1] == 1


def test_rare_class_gains_predictions(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = blobs
    probe = fit_cross_entropy(x, y, 4, l2=0.3)
    plain, normalized = ((h.logits(x).argmax(axis=1) == 3).sum() for h in (probe, tau_normalize(probe, 1.0)))
    assert normalized > plain


def test_class_without_samples_keeps_a_zero_vector(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    probe = fit_cross_entropy(*blobs, 4, l2=0.05)
    probe.weights[:, 2] = 0.0
    assert np.isfinite(tau_normalize(probe, 1.0).logits(blobs[0])).all()


@pytest.mark.parametrize("tau", [-0.1, float("nan")])
def test_tau_out_of_range(blobs: tuple[np.ndarray, np.ndarray], tau: float) -> None:
    with pytest.raises(ValueError, match="tau must not be negative"):
        fit_tau_normalized(*blobs, 4, l2=0.05, tau=tau)
