"""Quotas, determinism and the coverage of the tail."""

import numpy as np
import pytest

from deblora.data.chips import ChipSet
from deblora.data.simulate.chips import (
    CLASS_NAMES,
    TAIL_CLASS_NAMES,
    Attributes,
    Sensor,
    SimulatedPixels,
    covered,
    simulated_chips,
)
from deblora.data.simulate.render import CLASSES
from deblora.data.simulate.shapes import Material

N = len(CLASS_NAMES)


def make(
    sensor: Sensor = "optical",
    *,
    coverage: float = 0.3,
    seed: int = 0,
    size: int = 32,
    **counts: tuple[int, ...],
) -> ChipSet:
    counts = counts or {"train": (2,) * N}
    return simulated_chips(
        sensor=sensor, counts_per_class=counts, chip_size=size, tail_coverage=coverage, seed=seed
    )


def attributes(chips: ChipSet, class_name: str, split: str) -> list[Attributes]:
    assert isinstance(chips.pixels, SimulatedPixels)
    c = CLASS_NAMES.index(class_name)
    return [
        chips.pixels.attributes(i)
        for i, (label, s) in enumerate(zip(chips.labels, chips.splits, strict=True))
        if label == c and s == split
    ]


def test_counts_ids_and_labels_are_exactly_those_asked_for() -> None:
    train, test = tuple(range(N)), (1,) * N
    chips = make(train=train, test=test)
    labels, splits = np.asarray(chips.labels), np.array(chips.splits)
    assert tuple(np.bincount(labels[splits == "train"], minlength=N)) == train
    assert tuple(np.bincount(labels[splits == "test"], minlength=N)) == test
    assert len(set(chips.ids)) == len(chips.ids) == sum(train) + N
    assert f"train/helicopter/{train[CLASS_NAMES.index('helicopter')] - 1:05d}" in chips.ids
    for chip_id, label in zip(chips.ids, labels, strict=True):
        assert chip_id.split("/")[1] == chips.class_names[label]


@pytest.mark.parametrize(("sensor", "bands"), [("optical", 3), ("sar", 1)])
@pytest.mark.parametrize("size", [16, 30, 64])
def test_chips_have_shape_type_and_contrast(sensor: Sensor, bands: int, size: int) -> None:
    chips = make(sensor, size=size, val=(1,) * N)
    for i in range(N):
        chip = chips.pixels.read(i)
        assert chip.shape == (size, size, bands)
        assert chip.dtype == np.uint8
        assert chip.std() > 4


@pytest.mark.parametrize("sensor", ["optical", "sar"])
def test_pixels_repeat_and_do_not_depend_on_the_counts(sensor: Sensor) -> None:
    small, large = make(sensor, train=(1,) * N), make(sensor, train=(3,) * N, val=(1,) * N)
    for i, chip_id in enumerate(small.ids):
        np.testing.assert_array_equal(small.pixels.read(i), large.pixels.read(large.ids.index(chip_id)))


def test_seed_split_and_index_change_the_chip() -> None:
    chips = make(train=(2,) * N, test=(1,) * N)
    first = chips.pixels.read(0)
    others = [
        chips.pixels.read(1),
        chips.pixels.read(chips.splits.index("test")),
        make(seed=1).pixels.read(0),
    ]
    assert all(np.abs(first.astype(int) - other).mean() > 1 for other in others)


def test_both_sensors_share_the_geometry() -> None:
    optical, sar = make("optical"), make("sar")
    assert optical.ids == sar.ids
    for i in range(len(optical.ids)):
        assert optical.pixels.attributes(i) == sar.pixels.attributes(i)


@pytest.mark.parametrize("name", TAIL_CLASS_NAMES)
def test_tail_shows_a_part_in_train_and_everything_in_test(name: str) -> None:
    spec = CLASSES[name]
    chips = make(coverage=0.3, train=(150,) * N, test=(150,) * N)
    train, test = attributes(chips, name, "train"), attributes(chips, name, "test")
    assert {a.ground for a in train} == set(covered(spec.grounds, 0.3)) < set(spec.grounds)
    assert {a.paint for a in train} == set(covered(spec.paints, 0.3)) < set(spec.paints)
    assert {a.ground for a in test} == set(spec.grounds)
    assert {a.paint for a in test} == set(spec.paints)
    low, high = spec.length
    assert max(a.length for a in train) <= low + 0.3 * (high - low)
    assert max(a.length for a in test) > low + 0.8 * (high - low)


def test_head_classes_and_full_coverage_are_never_narrowed() -> None:
    narrow, full = make(coverage=0.3, train=(100,) * N), make(coverage=1.0, train=(100,) * N)
    for name in CLASS_NAMES:
        drawn = attributes(full if name in TAIL_CLASS_NAMES else narrow, name, "train")
        assert {a.ground for a in drawn} == set(CLASSES[name].grounds)
        assert {a.paint for a in drawn} == set(CLASSES[name].paints)


def test_a_chip_of_the_tail_is_the_same_at_any_coverage_in_test() -> None:
    last = (0,) * (N - 1) + (3,)
    one, other = make(coverage=0.2, test=last), make(coverage=1.0, test=last)
    for i in range(3):
        np.testing.assert_array_equal(one.pixels.read(i), other.pixels.read(i))


def test_covered_never_is_empty() -> None:
    assert covered("abcd", 0.01) == "a"
    assert covered("abcd", 0.5) == "ab"
    assert covered("abcd", 1.0) == "abcd"


def test_tail_is_the_last_third_by_frequency() -> None:
    rarest = sorted(CLASSES, key=lambda name: CLASSES[name].frequency)[: N // 3]
    assert set(TAIL_CLASS_NAMES) == set(rarest)


@pytest.mark.parametrize("sensor", ["optical", "sar"])
def test_a_template_per_class_beats_chance(sensor: Sensor) -> None:
    chips = make(sensor, size=32, train=(12,) * N, test=(6,) * N)
    # Gray-level histograms ignore position and heading, and still must tell classes apart.
    x = np.stack(
        [np.bincount(chips.pixels.read(i).ravel() // 16, minlength=16) for i in range(len(chips.ids))]
    ).astype(float)
    x = np.sqrt(x / x.sum(axis=1, keepdims=True))
    is_train, y = np.array(chips.splits) == "train", np.asarray(chips.labels)
    distance = np.linalg.norm(x[~is_train][:, None] - x[is_train][None], axis=2)
    accuracy = float((y[is_train][distance.argmin(axis=1)] == y[~is_train]).mean())
    assert accuracy > 2 / N


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sensor": "radar"}, "radar"),
        ({"counts_per_class": {"dev": (1,) * N}}, "dev"),
        ({"counts_per_class": {"train": (1, 2)}}, "counts"),
        ({"counts_per_class": {"train": (-1,) * N}}, "-1"),
        ({"chip_size": 8}, "8"),
        ({"tail_coverage": 0.0}, "0.0"),
        ({"tail_coverage": 1.5}, "1.5"),
        ({"seed": -3}, "-3"),
    ],
)
def test_arguments_out_of_range_are_named(change: dict, message: str) -> None:
    arguments = {
        "sensor": "sar",
        "counts_per_class": {"train": (1,) * N},
        "chip_size": 32,
        "tail_coverage": 0.5,
        "seed": 0,
    }
    with pytest.raises(ValueError, match=message):
        simulated_chips(**{**arguments, **change})


def test_attributes_describe_what_was_drawn() -> None:
    chips = make(test=(4,) * N)
    for drawn in attributes(chips, "plane", "test"):
        assert drawn.class_name == "plane"
        assert isinstance(drawn.paint, Material)
        assert 16 <= drawn.length <= 40
