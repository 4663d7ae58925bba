import numpy as np
import pytest

from deblora.evaluate.heads.linear import fit_softmax


def test_a_weight_of_two_counts_as_two_samples(
    blobs: tuple[np.ndarray, np.ndarray], standardized: np.ndarray
) -> None:
    y = blobs[1]
    twice = np.concatenate([np.arange(len(y)), np.flatnonzero(y == 2)])
    expected, expected_bias = fit_softmax(standardized[twice], y[twice], 4, l2=0.1)
    weights, bias = fit_softmax(standardized, y, 4, l2=0.1, class_weights=np.array([1.0, 1.0, 2.0, 1.0]))
    np.testing.assert_allclose(weights, expected, atol=1e-3)
    np.testing.assert_allclose(bias, expected_bias, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"l2": -1.0}, "l2 must be positive, got -1"),
        ({"l2": float("inf")}, "l2 must be positive, got inf"),
        ({"l2": 1.0, "class_weights": np.ones(3)}, "class_weights must be 2 positive"),
        ({"l2": 1.0, "class_weights": np.array([1.0, 0.0])}, "class_weights must be 2 positive"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_softmax(np.eye(2), np.array([0, 1]), 2, **settings)
