import numpy as np
import pytest

from deblora.data.longtail import Groups
from deblora.evaluate.features import separation

GROUPS = Groups(head=(0,), middle=(1,), tail=(2, 3))


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


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\)"):
        separation(np.ones((3, 2)), np.array([0, 1]), GROUPS, 4)
    with pytest.raises(ValueError, match="3 classes"):
        separation(np.ones((2, 2)), np.array([0, 1]), GROUPS, 3)
