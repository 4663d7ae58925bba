"""Means over adapters in one model: what separate models give, at a part of the cost, for every kind."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from builders import write_vit
from deblora.data.chips import ArrayPixels
from deblora.errors import ModelError
from deblora.models.adapters import siblings
from deblora.models.adapters.kinds import KINDS, AdapterKind
from deblora.models.adapters.lora import attach_lora, load_adapter, save_adapter
from deblora.models.adapters.siblings import load_siblings, mean_over_siblings, sibling_groups
from deblora.models.backbone import Backbone, load_backbone
from deblora.models.backbones.efficientnet import EfficientNetLite0
from deblora.train import extract
from deblora.train.extract import extract_features

N_ADAPTERS, N_CHIPS = 3, 5
IDS = tuple(f"chip-{i}" for i in range(N_CHIPS))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    network = EfficientNetLite0()
    with torch.no_grad():
        for name, value in network.named_parameters():
            if value.ndim == 4:  # so that signals neither die out nor explode
                value.normal_(0, (2 / value[0].numel()) ** 0.5)
            elif "bn" in name:
                value.uniform_(0.5, 1.5)
    (folder / "efficientnet").mkdir()
    save_file(network.state_dict(), folder / "efficientnet" / "model.safetensors")
    write_vit(folder / "vit", initializer_range=0.3)
    return {"efficientnet-lite0": folder / "efficientnet", "huggingface": folder / "vit"}


@pytest.fixture
def pixels(rng: np.random.Generator) -> ArrayPixels:
    return ArrayPixels([rng.integers(0, 256, (16, 16, 3)).astype(np.uint8) for _ in IDS], IDS)


def opened(models: dict[str, Path], name: str) -> Backbone:
    size = {"image_size": 32} if name == "efficientnet-lite0" else {}
    return load_backbone(name, path=models[name], **size)


def adapters(models: dict[str, Path], name: str, kind: AdapterKind, root: Path) -> list[Path]:
    """Write adapters that differ in all their trained numbers; AdaLoRA's also in rank."""
    folders = []
    for i in range(N_ADAPTERS):
        backbone = opened(models, name)
        attach_lora(backbone, rank=2, alpha=2, kind=kind, n_steps=4, adapter_name="stage0", seed=0)
        generator = torch.Generator().manual_seed(i)
        with torch.no_grad():
            for parameter in backbone.parameters():
                if parameter.requires_grad:
                    parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
        if kind == "adalora":
            config = backbone.encoder.peft_config["stage0"]  # type: ignore[union-attr, index]
            config.rank_pattern = {
                key.removeprefix("base_model.model."): [j <= i % 2 for j in range(2)]
                for key, _ in backbone.encoder.named_parameters()
                if "lora_E" in key
            }
        folders.append(root / f"class-{i:04d}")
        save_adapter(backbone, "stage0", folders[-1], {})
    return folders


def separately(models: dict[str, Path], name: str, folders: list[Path], pixels: ArrayPixels) -> np.ndarray:
    """Return the features through each adapter, from a model of its own."""
    tables = []
    for folder in folders:
        backbone = opened(models, name)
        load_adapter(backbone, folder, adapter_name="stage0")
        tables.append(extract_features(backbone, pixels, IDS, batch_size=2).features)
    return np.stack(tables).astype(np.float64)


def together(models: dict[str, Path], name: str, folders: list[Path], pixels: ArrayPixels) -> np.ndarray:
    total = np.zeros(())
    for group in sibling_groups(folders):
        backbone = opened(models, name)
        mean = mean_over_siblings(backbone, load_siblings(backbone, group))
        table = extract_features(mean, pixels, IDS, batch_size=2)
        total = total + len(group) * table.features.astype(np.float64)
    return total / len(folders)


def assert_equal_means(found: np.ndarray, each: np.ndarray) -> None:
    np.testing.assert_allclose(found, each.mean(axis=0), rtol=1e-6, atol=1e-6 * np.abs(each).max())
    assert (
        np.abs(each[0] - each[1]).max() > 1e-2 * np.abs(each).max()
    )  # so that it matters which were averaged


@pytest.mark.parametrize("name", ["efficientnet-lite0", "huggingface"])
def test_means_are_those_of_separate_models(
    name: str, models: dict[str, Path], pixels: ArrayPixels, tmp_path: Path
) -> None:
    folders = adapters(models, name, "lora", tmp_path)
    assert sibling_groups(folders) == [folders]
    assert_equal_means(together(models, name, folders, pixels), separately(models, name, folders, pixels))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "lora"])
def test_means_are_those_of_separate_models_for_every_kind(
    kind: AdapterKind, models: dict[str, Path], pixels: ArrayPixels, tmp_path: Path
) -> None:
    folders = adapters(models, "huggingface", kind, tmp_path)
    assert len(sibling_groups(folders)) == (N_ADAPTERS if kind == "pissa" else 1)
    assert_equal_means(
        together(models, "huggingface", folders, pixels), separately(models, "huggingface", folders, pixels)
    )


@pytest.mark.parametrize("n_threads", [1, 2])  # batches of several threads are joined in inference mode
def test_what_lies_before_the_adapters_is_computed_once_per_batch(
    n_threads: int,
    models: dict[str, Path],
    pixels: ArrayPixels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extract, "n_readers", lambda _device: n_threads)
    folders = adapters(models, "efficientnet-lite0", "lora", tmp_path)
    backbone = opened(models, "efficientnet-lite0")
    mean = mean_over_siblings(backbone, load_siblings(backbone, folders))
    counts = {"blocks.0.0.bn1": 0, "blocks.4.2.bn3": 0, "blocks.5.0.bn1": 0}
    layers = dict(backbone.encoder.get_base_model().named_modules())  # type: ignore[operator]

    def count(name: str) -> None:
        counts[name] += 1

    for name in counts:
        layers[name].register_forward_hook(lambda *_given, name=name: count(name))
    extract_features(mean, pixels, IDS, batch_size=2)
    assert counts == {"blocks.0.0.bn1": 3, "blocks.4.2.bn3": 3, "blocks.5.0.bn1": 3 * N_ADAPTERS}


def test_groups_are_bounded_and_hold_adapters_of_one_input_and_kind(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = adapters(models, "huggingface", "lora", tmp_path)
    size = (folders[0] / "adapter_model.safetensors").stat().st_size
    monkeypatch.setattr(siblings, "MOST_TOGETHER", 2)
    assert sibling_groups(folders) == [folders[:2], folders[2:]]
    monkeypatch.setattr(siblings, "MOST_BYTES", size)
    assert sibling_groups(folders) == [[folder] for folder in folders]
    monkeypatch.undo()
    record = json.loads((folders[1] / "base.json").read_text())
    (folders[1] / "base.json").write_text(json.dumps({**record, "mean": [0.1, 0.2, 0.3]}))
    assert sibling_groups(folders) == [[folder] for folder in folders]


def test_faulty_siblings_are_named(models: dict[str, Path], tmp_path: Path) -> None:
    folders = adapters(models, "huggingface", "lora", tmp_path)
    record = (folders[2] / "base.json").read_text()
    parents = json.dumps({**json.loads(record), "parents": {"sibling0000": "abc"}})
    (folders[2] / "base.json").write_text(parents)
    with pytest.raises(ModelError, match=r"class-0002 was trained on top of \['sibling0000'\]"):
        load_siblings(opened(models, "huggingface"), folders)
    (folders[2] / "base.json").write_text(record)
    weights = folders[1] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(ModelError, match="class-0001.* is missing or damaged"):
        load_siblings(opened(models, "huggingface"), folders)
    weights.unlink()
    (folders[0] / "base.json").write_text("{")
    with pytest.raises(
        ModelError, match="class-0000 is not an adapter of deblora: base.json is missing or damaged"
    ):
        sibling_groups(folders)
