"""The authors' probe: it learns, it is reproducible, it picks the epoch on validation."""

import numpy as np
import pytest
import torch

from deblora.errors import DataError
from deblora.evaluate.classifiers.sgd_probe import fit_sgd_probe
from deblora.evaluate.metrics import macro_f1


def samples(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    return (4 * np.eye(3)[y] + rng.standard_normal((n, 3))).astype(np.float32), y


def test_one_epoch_in_one_batch_is_the_step_by_hand() -> None:
    x, y = samples(20, 0)
    probe, _ = fit_sgd_probe(x, y, x, y, 3, n_epochs=1, batch_size=20, learning_rate=0.5, seed=1)
    generator = torch.Generator().manual_seed(1)
    bound = 1 / np.sqrt(3)
    weights = ((torch.rand(3, 3, generator=generator) * 2 - 1) * bound).numpy().astype(np.float64)
    bias = ((torch.rand(3, generator=generator) * 2 - 1) * bound).numpy().astype(np.float64)
    scores = np.exp(x @ weights.T + bias)
    residual = scores / scores.sum(axis=1, keepdims=True) - np.eye(3)[y]
    np.testing.assert_allclose(probe.weights, (weights - 0.5 * residual.T @ x / 20).T, atol=1e-5)
    np.testing.assert_allclose(probe.bias, bias - 0.5 * residual.mean(axis=0), atol=1e-5)


def test_it_learns_and_repeats_itself() -> None:
    (x, y), (x_val, y_val) = samples(600, 0), samples(200, 1)
    probe, record = fit_sgd_probe(x, y, x_val, y_val, 3, batch_size=32)
    again, _ = fit_sgd_probe(x, y, x_val, y_val, 3, batch_size=32)
    np.testing.assert_array_equal(probe.weights, again.weights)
    assert record["macro_f1"] > 0.9
    assert record["macro_f1"] == macro_f1(y_val, probe.logits(x_val).argmax(axis=1), 3)
    assert 1 <= record["epoch"] <= 30


def test_bad_input_is_named() -> None:
    x, y = samples(10, 0)
    with pytest.raises(DataError, match="not finite"):
        fit_sgd_probe(np.full_like(x, np.nan), y, x, y, 3)
    with pytest.raises(DataError, match="validation"):
        fit_sgd_probe(x, y, x[:0], y[:0], 3)
    with pytest.raises(ValueError, match="n_epochs"):
        fit_sgd_probe(x, y, x, y, 3, n_epochs=0)
