"""Gap and scatter of classes between training and test."""

import numpy as np
import pytest

from deblora.evaluate.features import train_test_mismatch


def test_gap_and_scatter_by_hand() -> None:
    train = np.array([[2.0, 0.0], [0.0, 3.0], [5.0, 0.0]])  # lengths do not count
    test = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = train_test_mismatch(train, np.array([0, 0, 1]), test, np.array([0, 0, 2]), 3)
    # class 0: means (.5, .5) and (1, 0); squared distances to the mean .5 each
    assert found.gap[0] == pytest.approx(np.sqrt(0.5))
    assert found.train_scatter[0] == pytest.approx(1.0)
    assert found.test_scatter[0] == 0
    assert found.chance[0] == pytest.approx(np.sqrt(1 / 2))
    assert np.isnan(found.gap[1:]).all()  # class 1 has no test sample, class 2 no training sample
    assert np.isnan(found.train_scatter[1])  # one sample has no scatter


def test_chance_is_the_gap_of_one_distribution(rng: np.random.Generator) -> None:
    center = np.zeros(50)
    center[0] = 4.0
    squares, chances = [], []
    for _ in range(200):
        draw = center + rng.normal(size=(24, 50))
        found = train_test_mismatch(draw[:4], np.zeros(4, dtype=int), draw[4:], np.zeros(20, dtype=int), 1)
        squares.append(found.gap[0] ** 2)
        chances.append(found.chance[0] ** 2)
    assert np.mean(squares) == pytest.approx(np.mean(chances), rel=0.05)


def test_wrong_shapes_are_refused() -> None:
    x, y = np.ones((2, 3)), np.zeros(2, dtype=int)
    for args in ((x, y, np.ones((2, 4)), y), (x, np.zeros(3, dtype=int), x, y), (x, y + 1, x, y)):
        with pytest.raises(ValueError):
            train_test_mismatch(*args, 1)
