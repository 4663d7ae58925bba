import numpy as np
import pytest

from deblora.heads.softmax import fit_softmax


def test_offset_alone_is_learned_by_the_bias(
    blobs: tuple[np.ndarray, np.ndarray], standardized: np.ndarray
) -> None:
    y = blobs[1]
    offset = np.array([0.5, -1.0, 2.0, 0.0])
    weights, bias = fit_softmax(standardized, y, 4, l2=0.1)
    moved, moved_bias = fit_softmax(standardized, y, 4, l2=0.1, offset=offset)
    np.testing.assert_allclose(moved, weights, atol=2e-3)
    difference = moved_bias + offset - bias
    np.testing.assert_allclose(difference - difference.mean(), 0, atol=5e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"l2": -1.0}, "l2 must be positive, got -1"),
        ({"l2": float("inf")}, "l2 must be positive, got inf"),
        ({"l2": 1.0, "class_weights": np.ones(3)}, "class_weights must be 2 positive"),
        ({"l2": 1.0, "class_weights": np.array([1.0, 0.0])}, "class_weights must be 2 positive"),
        ({"l2": 1.0, "offset": np.array([1.0, np.inf])}, "offset must be 2 finite"),
        ({"l2": 1.0, "offset": np.zeros(3)}, "offset must be 2 finite"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_softmax(np.eye(2), np.array([0, 1]), 2, **settings)
