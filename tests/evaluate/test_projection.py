import numpy as np
import pytest

from deblora.evaluate.features import tsne_2d


def test_separate_blobs_stay_separate_and_the_seed_decides(rng: np.random.Generator) -> None:
    labels = np.repeat([0, 1], 40)
    features = (30.0 * labels[:, None] + rng.normal(size=(80, 5))).astype(np.float32)
    points, rows = tsne_2d(features, seed=1, max_samples=60)
    assert points.shape == (60, 2)
    assert len(np.unique(rows)) == 60
    shown = labels[rows]
    centers = np.stack([points[shown == c].mean(axis=0) for c in (0, 1)])
    nearest = np.linalg.norm(points[:, None] - centers, axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, shown)
    again, same_rows = tsne_2d(features, seed=1, max_samples=60)
    np.testing.assert_array_equal(again, points)
    np.testing.assert_array_equal(same_rows, rows)
    assert not np.array_equal(tsne_2d(features, seed=2, max_samples=60)[1], rows)


def test_small_sets_are_shown_whole_in_order(rng: np.random.Generator) -> None:
    points, rows = tsne_2d(rng.normal(size=(5, 1)), seed=0)
    np.testing.assert_array_equal(rows, np.arange(5))
    assert np.isfinite(points).all()


def test_unusable_features_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        tsne_2d(rng.normal(size=(3, 4)), seed=0)
    with pytest.raises(ValueError, match="not finite"):
        tsne_2d(np.full((6, 2), np.inf), seed=0)
