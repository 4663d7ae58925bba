"""The order of chips: whole permutations, fixed by the seed, the same after a resume."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, SequentialSampler, Subset

from deblora.data.chips import ArrayPixels
from deblora.models.backbone import InputSpec
from deblora.train import samples
from deblora.train.samples import FeatureOrder, TrainingOrder, training_order

N_CHIPS, N_SAMPLES = 7, 24
SPEC = InputSpec(n_bands=3, image_size=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), scale=1.0)


class CountingPixels(ArrayPixels):
    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        chips = [rng.integers(0, 256, (4, 4, 3)).astype(np.uint8) for _ in range(N_CHIPS)]
        super().__init__(chips, [str(i) for i in range(N_CHIPS)])
        self.reads: list[int] = []

    def read(self, index: int) -> np.ndarray:
        self.reads.append(index)
        return super().read(index)


def order(seed: int = 3, n_views: int = 1, pixels: CountingPixels | None = None) -> TrainingOrder:
    values = {"labels": torch.arange(N_CHIPS)}
    return TrainingOrder(
        pixels or CountingPixels(), values, spec=SPEC, n_samples=N_SAMPLES, seed=seed, n_views=n_views
    )


@pytest.mark.parametrize(("n_chips", "n_samples"), [(7, 24), (7, 21), (7, 3), (1, 4), (5, 5)])
def test_the_order_is_whole_permutations_the_last_one_cut(n_chips: int, n_samples: int) -> None:
    found = training_order(n_chips, n_samples, seed=0)
    assert found.shape == (n_samples,)
    for start in range(0, n_samples, n_chips):
        part = found[start : start + n_chips]
        assert len(set(part.tolist())) == len(part) and set(part.tolist()) <= set(range(n_chips))


def test_passes_differ_from_each_other() -> None:
    found = training_order(20, 60, seed=0).reshape(3, 20)
    assert len({tuple(part) for part in found.tolist()}) == 3


def test_the_order_depends_on_the_seed_only() -> None:
    np.random.default_rng()
    torch.manual_seed(1)
    first = training_order(N_CHIPS, N_SAMPLES, seed=3)
    torch.manual_seed(2)
    assert np.array_equal(first, training_order(N_CHIPS, N_SAMPLES, seed=3))
    assert not np.array_equal(first, training_order(N_CHIPS, N_SAMPLES, seed=4))


def test_a_longer_training_starts_like_a_shorter_one() -> None:
    assert np.array_equal(
        training_order(N_CHIPS, 60, seed=3)[:N_SAMPLES], training_order(N_CHIPS, N_SAMPLES, seed=3)
    )


@pytest.mark.parametrize("n_views", [1, 2, 8])
def test_a_resumed_training_sees_the_same_chips(n_views: int) -> None:
    whole = order(n_views=n_views)
    seen = [whole[i] for i in range(N_SAMPLES)]
    resumed = order(n_views=n_views)  # a new process: nothing of the first half was read
    for i in range(N_SAMPLES // 2, N_SAMPLES):
        assert torch.equal(resumed[i]["labels"], seen[i]["labels"])
        assert torch.equal(resumed[i]["pixels"], seen[i]["pixels"])


def test_values_and_pixels_are_of_the_same_chip() -> None:
    pixels = CountingPixels()
    data = order(pixels=pixels)
    assert len(data) == N_SAMPLES
    for i in range(N_SAMPLES):
        chip = int(data[i]["labels"])
        assert chip == data.order[i]
        expected = torch.from_numpy(pixels.read(chip).astype(np.float32)).permute(2, 0, 1)
        torch.testing.assert_close(data[i]["pixels"], expected)


def test_every_chip_is_decoded_once() -> None:
    pixels = CountingPixels()
    data = order(pixels=pixels)
    for i in range(N_SAMPLES):
        data[i]
    assert sorted(pixels.reads) == list(range(N_CHIPS))


def test_flips_do_not_touch_the_cached_chip() -> None:
    straight, flipped = order(), order(n_views=4)
    changed = 0
    for i in range(N_SAMPLES):
        image, other = straight[i]["pixels"], flipped[i]["pixels"]
        variants = [torch.flip(image, axes) for axes in ([], [1], [2], [1, 2])]
        assert any(torch.equal(other, variant) for variant in variants)
        changed += not torch.equal(other, image)
    assert 0 < changed < N_SAMPLES
    assert flipped.cache is not None and straight.cache is not None
    assert all(torch.equal(image, straight.cache[chip]) for chip, image in flipped.cache.items())


def test_feature_order_follows_the_same_order() -> None:
    features = torch.arange(N_CHIPS, dtype=torch.float32)[:, None].repeat(1, 2)
    data = FeatureOrder(features, {"target": features + 100}, n_samples=N_SAMPLES, seed=3)
    chips = order()
    assert len(data) == len(chips)
    for i in range(N_SAMPLES):
        assert int(data[i]["pixels"][0]) == int(data[i]["target"][0]) - 100 == int(chips[i]["labels"])


def test_batches_come_in_order() -> None:
    data = order()
    batches = [batch["labels"] for batch in DataLoader(data, batch_size=4, sampler=SequentialSampler(data))]
    assert torch.cat(batches).tolist() == data.order.tolist()
    tail = DataLoader(Subset(data, range(12, N_SAMPLES)), batch_size=4)
    assert torch.cat([batch["labels"] for batch in tail]).tolist() == data.order[12:].tolist()


@pytest.mark.parametrize("n_views", [1, 4])
def test_batches_of_a_large_set_are_read_ahead_and_the_same(
    n_views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [order(n_views=n_views)[i] for i in range(N_SAMPLES)]
    monkeypatch.setattr(samples, "MAX_CACHED_BYTES", 0)
    pixels = CountingPixels()
    data = order(n_views=n_views, pixels=pixels)
    loader = DataLoader(data, batch_size=5, sampler=SequentialSampler(data))
    found = [(image, int(label)) for batch in loader for image, label in zip(*batch.values(), strict=True)]
    assert len(found) == N_SAMPLES
    for (image, label), sample in zip(found, expected, strict=True):
        assert torch.equal(image, sample["pixels"]) and label == int(sample["labels"])
    assert len(pixels.reads) == N_SAMPLES, "each sample is read once"
