"""A long-tailed toy problem on random features."""

import numpy as np
import pytest

from deblora.data.longtail import Groups
from deblora.evaluate.classifiers.search import Samples

COUNTS = (40, 20, 10, 6, 3, 2)
GROUPS = Groups((0, 1), (2, 3), (4, 5))


def draw(
    rng: np.random.Generator, counts: tuple[int, ...], means: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(len(counts)), counts)
    features = means[labels] + rng.normal(size=(len(labels), means.shape[1]))
    return features + 1.0, labels


@pytest.fixture
def samples(rng: np.random.Generator) -> Samples:
    """More dimensions than training samples."""
    means = 0.5 * rng.normal(size=(len(COUNTS), 120))
    x, y = draw(rng, COUNTS, means)
    x_val, y_val = draw(rng, (8,) * len(COUNTS), means)
    return Samples(x, y, x_val, y_val, len(COUNTS), GROUPS, x, 0)
