"""Gap and scatter of classes between training and test, their separation, and the map of features."""

import numpy as np
import pytest

from deblora.data.longtail import Groups
from deblora.evaluate.features import separation, train_test_mismatch, tsne_2d

GROUPS = Groups(head=(0,), middle=(1,), tail=(2, 3))


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


def test_distances_of_known_directions() -> None:
    features = np.array([[2.0, 0, 0], [9, 9, 9], [0, 1, 1], [0, 1, -1], [-1, 0, 0], [-3, 0, 0]])
    result = separation(features, np.array([0, 1, 2, 2, 3, 3]), GROUPS, 4)
    assert result["inter_head_tail"] == pytest.approx((1 + 2) / 2)
    assert result["inter_tail_tail"] == pytest.approx(1)
    assert result["intra_tail"] == pytest.approx((1 - np.sqrt(0.5)) / 2)


def test_large_tail_class_does_not_outweigh_a_small_one() -> None:
    wide, tight = np.array([[1.0, 1], [1, -1]]), np.array([[0.0, 1]])
    groups = Groups(head=(), middle=(), tail=(0, 1))
    small = separation(np.vstack([wide, tight]), np.array([0, 0, 1]), groups, 2)
    repeated = np.vstack([np.tile(wide, (50, 1)), tight])
    large = separation(repeated, np.repeat([0, 1], [100, 1]), groups, 2)
    assert large["intra_tail"] == pytest.approx(small["intra_tail"])
    assert np.isnan(large["inter_head_tail"])


def test_contraction_tightens_the_tail_and_scale_changes_nothing(rng: np.random.Generator) -> None:
    labels = np.repeat([0, 1, 2, 3], [30, 20, 10, 10])
    features = rng.normal(size=(4, 8))[labels] + 0.5 * rng.normal(size=(70, 8))
    before = separation(features, labels, GROUPS, 4)
    assert separation(3 * features, labels, GROUPS, 4) == pytest.approx(before)
    means = np.stack([features[labels == c].mean(axis=0) for c in range(4)])
    tight = separation(0.5 * features + 0.5 * means[labels], labels, GROUPS, 4)
    assert tight["intra_tail"] < before["intra_tail"]
    assert tight["inter_tail_tail"] == pytest.approx(before["inter_tail_tail"])


def test_missing_classes_and_zero_vectors() -> None:
    result = separation(np.array([[1.0, 0], [0, 0]]), np.array([0, 2]), GROUPS, 4)
    assert result["inter_head_tail"] == 1.0
    assert np.isnan(result["inter_tail_tail"])
    assert np.isnan(separation(np.ones((1, 2)), np.array([0]), GROUPS, 4)["intra_tail"])


def test_separation_refuses_wrong_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\)"):
        separation(np.ones((3, 2)), np.array([0, 1]), GROUPS, 4)
    with pytest.raises(ValueError, match="3 classes"):
        separation(np.ones((2, 2)), np.array([0, 1]), GROUPS, 3)


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
