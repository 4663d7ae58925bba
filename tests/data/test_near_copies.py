"""Copies of pictures are found however they are turned, and nothing else is called one."""

import io

import numpy as np
import pytest
from PIL import Image

import deblora.data.near_copies as module
from deblora.data.near_copies import near_copies, thumbnail


def picture(rng: np.random.Generator) -> np.ndarray:
    small = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    return np.array(small.resize((96, 80), Image.Resampling.BICUBIC))


def recompressed(chip: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(chip).save(stream, "JPEG", quality=60)
    return np.array(Image.open(stream))


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_turned_mirrored_and_recompressed_copies_are_found(
    rng: np.random.Generator, quarters: int, mirrored: bool
) -> None:
    chips = [picture(rng) for _ in range(12)]
    copy = np.rot90(chips[3][:, ::-1] if mirrored else chips[3], quarters)
    seen = [thumbnail(chip) for chip in [*chips, recompressed(np.ascontiguousarray(copy))]]
    found = near_copies(seen, [0] * 13, ["train"] * 12 + ["test"], rng=rng)
    assert found.across_splits == ((12, 3),) and not found.two_classes and found.n_compared == 13


def test_copies_in_training_count_only_with_two_classes(rng: np.random.Generator) -> None:
    one = thumbnail(picture(rng))
    assert near_copies([one, one, one], [0, 0, 1], ["train"] * 3, rng=rng).two_classes == ((0, 2), (1, 2))


def test_brightness_and_size_do_not_hide_a_copy_and_flat_chips_are_none(rng: np.random.Generator) -> None:
    chip = picture(rng)
    half = np.array(Image.fromarray(chip).resize((48, 40), Image.Resampling.BOX))
    a, b = thumbnail(chip), thumbnail(half * 0.5 + 40.0)
    assert a is not None and b is not None and float((a * b).sum()) > 0.996
    assert thumbnail(np.full((40, 40, 3), 7, dtype=np.uint8)) is None
    assert thumbnail(np.full((40, 40, 1), np.nan)) is None
    small = thumbnail(rng.integers(0, 255, (5, 9, 1), dtype=np.uint8))
    assert small is not None and small.shape == (16, 16)
    assert near_copies([None, a], [0, 0], ["train", "test"], rng=rng).across_splits == ()


def test_large_sets_are_compared_in_part(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PAIRS", 60)
    seen = [thumbnail(picture(rng)) for _ in range(20)]
    assert near_copies(seen, [0] * 20, ["train"] * 10 + ["test"] * 10, rng=rng).n_compared == 6
