import numpy as np
import pytest
import torch

from deblora.data.chips import ArrayPixels
from deblora.data.pixels import band_statistics, to_batch
from deblora.errors import DataError


def test_values_are_scaled_then_standardized_per_band(rng: np.random.Generator) -> None:
    chip = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    batch = to_batch([chip], image_size=4, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0), scale=255.0)
    expected = (chip / 255.0 - [0.1, 0.2, 0.3]) / [0.5, 1.0, 2.0]
    np.testing.assert_allclose(batch[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_sizes_may_differ_and_a_flat_chip_stays_flat() -> None:
    chips = [np.full((5, 9, 1), 51, dtype=np.uint8), np.full((40, 3, 1), 102, dtype=np.uint8)]
    batch = to_batch(chips, image_size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), scale=255.0)
    assert batch.shape == (2, 3, 8, 8)
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch[0], torch.full((3, 8, 8), 0.2))
    torch.testing.assert_close(batch[1], torch.full((3, 8, 8), 0.4))


def test_shrinking_averages_a_checkerboard() -> None:
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 200).astype(np.uint8)[:, :, None]
    batch = to_batch([board], image_size=8, mean=(0.0,), std=(1.0,), scale=1.0)
    assert float((batch - 100).abs().max()) < 5.0


def test_uint16_and_float_chips_keep_their_range() -> None:
    batch = to_batch(
        [np.full((2, 2, 1), 60000, dtype=np.uint16)], image_size=2, mean=(0,), std=(1,), scale=1.0
    )
    assert float(batch.max()) == 60000.0
    batch = to_batch([np.full((2, 2), -3.5, np.float32)], image_size=2, mean=(0,), std=(1,), scale=1.0)
    assert float(batch.min()) == -3.5


def test_band_mismatch_and_bad_arguments_are_refused() -> None:
    gray = {"image_size": 4, "mean": (0.5,), "std": (0.5,), "scale": 255.0}
    with pytest.raises(DataError, match="chip 1 of the batch"):
        to_batch([np.zeros((4, 4, 1)), np.zeros((4, 4, 3))], **gray)
    for change in (
        {"image_size": 0},
        {"mean": (0.5, 0.5)},
        {"std": (0.0,)},
        {"scale": 0.0},
        {"mean": (np.nan,)},
    ):
        with pytest.raises(ValueError):
            to_batch([np.zeros((4, 4, 1))], **{**gray, **change})
    assert to_batch([], **gray).shape == (0, 1, 4, 4)


def test_statistics_equal_those_of_all_pixels(rng: np.random.Generator) -> None:
    chips = [rng.integers(0, 60000, (h, 5, 2)).astype(np.uint16) for h in (3, 1, 8)]
    mean, std = band_statistics(ArrayPixels(chips, "abc"), scale=100.0)
    values = np.concatenate([chip.reshape(-1, 2) for chip in chips]) / 100.0
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(std, values.std(axis=0), rtol=1e-10)


def test_statistics_survive_a_large_offset(rng: np.random.Generator) -> None:
    chips = [(1e6 + rng.normal(size=(50, 50, 1))).astype(np.float32) for _ in range(4)]
    _, std = band_statistics(ArrayPixels(chips, "abcd"), scale=1.0)
    assert std[0] == pytest.approx(np.concatenate(chips).astype(np.float64).std(), rel=1e-9)


def test_statistics_of_constant_missing_and_unequal_bands() -> None:
    flat = ArrayPixels([np.full((2, 2), 7, np.uint8)], "a")
    assert band_statistics(flat, scale=1.0) == ((7.0,), (1.0,))
    with pytest.raises(DataError, match="no chips"):
        band_statistics(ArrayPixels([], ""), scale=1.0)
    with pytest.raises(DataError, match="chip 1 has 3 bands"):
        band_statistics(ArrayPixels([np.zeros((2, 2)), np.zeros((2, 2, 3))], "ab"), scale=1.0)
    with pytest.raises(ValueError, match="-1"):
        band_statistics(flat, scale=-1.0)
