"""Features depend on the pixels of a chip alone: not on its batch, its neighbors or any label."""

import inspect

import numpy as np
import pytest
import torch

from builders import write_vit
from deblora.data.chips import ArrayPixels, ChipSet
from deblora.errors import DataError, ModelError
from deblora.models.backbone import Backbone, load_backbone, with_unit_features
from deblora.run.artifacts import FeatureTable
from deblora.train import extract
from deblora.train.extract import N_VIEWS, extract_features, mean_over_views, read_batch, view

N_CHIPS = 13


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone("huggingface", path=write_vit(tmp_path_factory.mktemp("vit")))


@pytest.fixture
def chips(rng: np.random.Generator) -> ChipSet:
    sizes = rng.integers(10, 24, (N_CHIPS, 2))  # every chip has its own size
    arrays = [rng.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in sizes]
    ids = tuple(f"chip-{i:02d}" for i in range(N_CHIPS))
    return ChipSet(
        ids, rng.integers(0, 3, N_CHIPS), ("train",) * N_CHIPS, ("a", "b", "c"), ArrayPixels(arrays, ids)
    )


@pytest.mark.parametrize("batch_size", [1, 4, 12, 100])
def test_batch_size_does_not_change_features(model: Backbone, chips: ChipSet, batch_size: int) -> None:
    expected = extract_features(model, chips.pixels, chips.ids, batch_size=N_CHIPS)
    found = extract_features(model, chips.pixels, chips.ids, batch_size=batch_size)
    assert found.shape == (N_CHIPS, 16) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_threads", [2, 5, 40])
def test_threads_that_read_parts_of_a_batch_keep_the_order(
    model: Backbone, chips: ChipSet, n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = extract_features(model, chips.pixels, chips.ids, batch_size=6)
    monkeypatch.setattr(extract, "n_readers", lambda _device: n_threads)
    found = extract_features(model, chips.pixels, chips.ids, batch_size=6)
    assert np.array_equal(found, expected)


def test_no_parameter_can_carry_a_label() -> None:
    names = set(inspect.signature(extract_features).parameters)
    assert names == {"backbone", "pixels", "ids", "batch_size", "n_views", "precision", "title"}


def test_permuted_labels_change_no_feature(model: Backbone, chips: ChipSet, rng: np.random.Generator) -> None:
    other = ChipSet(chips.ids, rng.permutation(chips.labels), chips.splits, chips.class_names, chips.pixels)
    assert not np.array_equal(other.labels, chips.labels)
    first, second = (extract_features(model, c.pixels, c.ids, batch_size=4) for c in (chips, other))
    assert np.array_equal(first, second)


def test_order_and_ids_carry_no_information(
    model: Backbone, chips: ChipSet, rng: np.random.Generator
) -> None:
    expected = extract_features(model, chips.pixels, chips.ids, batch_size=4)
    shuffled = chips.subset(rng.permutation(N_CHIPS))
    found = extract_features(model, shuffled.pixels, shuffled.ids, batch_size=4)
    np.testing.assert_allclose(FeatureTable(shuffled.ids, found).rows(chips.ids), expected, rtol=0, atol=1e-5)
    renamed = extract_features(model, chips.pixels, tuple(reversed(chips.ids)), batch_size=4)
    assert np.array_equal(renamed, expected)


def test_features_are_those_of_the_model_in_evaluation_mode(model: Backbone, chips: ChipSet) -> None:
    model.train()
    found = extract_features(model, chips.pixels, chips.ids, batch_size=5)
    assert not model.training
    with torch.no_grad():
        expected = model(read_batch(chips.pixels, range(N_CHIPS), model.spec))
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)


def test_a_chip_that_cannot_be_read_is_named(model: Backbone) -> None:
    good, bad = np.zeros((16, 16, 3), np.float32), np.full((16, 16, 3), np.nan, np.float32)
    pixels = ArrayPixels([good, good, bad], ["a", "b", "broken"])
    with pytest.raises(DataError, match="broken"):
        extract_features(model, pixels, ("a", "b", "broken"), batch_size=2)


def test_features_that_are_not_finite_are_refused(model: Backbone) -> None:
    chip = np.zeros((16, 16, 3), np.uint8)
    pixels = ArrayPixels([chip, chip], ["a", "b"])
    broken = Backbone(
        model.encoder,
        lambda _, x: torch.full((len(x), 16), float("nan")),
        spec=model.spec,
        feature_size=16,
        name="broken",
        weights_sha256="",
        lora_targets=(),
        pool="mean",
    )
    with pytest.raises(DataError, match="2 chips give features that are not finite, first: a"):
        extract_features(broken, pixels, ("a", "b"))


def relative_error(found: np.ndarray, exact: np.ndarray) -> float:
    return float((np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)).max())


def test_bfloat16_stays_near_float32(model: Backbone, chips: ChipSet) -> None:
    """Eight binary digits: a product is off by at most 2 ** -8, a feature of two layers by about as much."""
    exact = extract_features(model, chips.pixels, chips.ids)
    found = extract_features(model, chips.pixels, chips.ids, precision="bf16")
    assert found.dtype == np.float32
    assert 1e-5 < relative_error(found, exact) < 2e-2
    again = extract_features(model, chips.pixels, chips.ids)
    assert np.array_equal(again, exact)  # the precision ends with the call


def test_half_precision_needs_a_gpu(model: Backbone, chips: ChipSet) -> None:
    with pytest.raises(ModelError, match="fp16 needs a GPU"):
        extract_features(model, chips.pixels, chips.ids, precision="fp16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("precision", "most"), [("no", 1e-3), ("bf16", 2e-2), ("fp16", 3e-3)])
def test_features_of_a_gpu_are_near_those_of_a_cpu(
    model: Backbone, chips: ChipSet, precision: str, most: float
) -> None:
    exact = extract_features(model, chips.pixels, chips.ids)
    try:
        model.to("cuda")
        found = extract_features(model, chips.pixels, chips.ids, precision=precision)
    finally:
        model.to("cpu")
    assert relative_error(found, exact) < most


def test_views_are_the_eight_of_a_square_and_form_groups() -> None:
    chip = torch.arange(9.0).reshape(1, 1, 3, 3)
    eight = [view(chip, number) for number in range(8)]
    assert len({tuple(own.flatten().tolist()) for own in eight}) == 8
    turned = torch.rot90(chip, 1, (2, 3))
    assert any(torch.equal(own, turned) for own in eight[4:])
    for n in N_VIEWS:
        first = {tuple(own.flatten().tolist()) for own in eight[:n]}
        for number in range(n):
            again = {tuple(view(view(chip, number), k).flatten().tolist()) for k in range(n)}
            assert again == first
    with pytest.raises(ValueError, match="0 to 7"):
        view(chip, 8)


@pytest.mark.parametrize("n_views", N_VIEWS)
def test_the_mean_over_views_does_not_change_with_the_view(model: Backbone, n_views: int) -> None:
    backbone = model
    size = backbone.spec.image_size
    pixels = torch.randn(2, backbone.spec.n_bands, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        mean = mean_over_views(backbone, pixels, n_views)
        each = torch.stack([backbone(view(pixels, k)) for k in range(n_views)]).mean(dim=0)
        torch.testing.assert_close(mean, each)
        for k in range(n_views):
            torch.testing.assert_close(mean_over_views(backbone, view(pixels, k), n_views), mean)
        unit = mean_over_views(with_unit_features(backbone), pixels, n_views)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(2))
