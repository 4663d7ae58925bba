"""Small long-tailed problems: classes that overlap, with known counts."""

import numpy as np
import pytest

from deblora.data.longtail import Groups
from deblora.evaluate.classifiers.search import Samples

COUNTS = (60, 30, 15, 8)


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    y = np.repeat(np.arange(len(COUNTS)), COUNTS)
    return rng.normal(size=(len(COUNTS), 10))[y] + rng.normal(size=(len(y), 10)), y


@pytest.fixture
def standardized(blobs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The features as every head sees them, computed here by hand."""
    unit = blobs[0] / np.linalg.norm(blobs[0], axis=1, keepdims=True)
    centered = unit - unit.mean(axis=0)
    return centered * np.sqrt(50 / np.mean(np.sum(centered**2, axis=1)))


@pytest.fixture
def others(blobs: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Samples an adapter did not see: the class means of the training samples, twice the scatter."""
    x, y = blobs
    means = np.stack([x[y == c].mean(axis=0) for c in range(len(COUNTS))])
    labels = np.repeat(np.arange(len(COUNTS)), 40)
    return means[labels] + np.random.default_rng(7).normal(size=(len(labels), x.shape[1])), labels


@pytest.fixture
def samples(rng: np.random.Generator) -> Samples:
    """More dimensions than training samples."""
    counts, groups = (40, 20, 10, 6, 3, 2), Groups((0, 1), (2, 3), (4, 5))
    means = 0.5 * rng.normal(size=(len(counts), 120))
    y, y_val = np.repeat(np.arange(6), counts), np.repeat(np.arange(6), 8)
    x, x_val = (means[labels] + rng.normal(size=(len(labels), 120)) + 1.0 for labels in (y, y_val))
    return Samples(x, y, x_val, y_val, len(counts), groups, x, 0)
