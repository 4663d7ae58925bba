"""The whole road through the command line on a tiny model of every kind, and on chips with ten bands."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import published_files as files
import tiny_models as tiny
from builders import recipe_values, write_chips, write_recipe
from deblora.cli.main import main
from deblora.models.presets import PRESETS
from deblora.run.artifacts import FeatureTable
from deblora.run.run_dir import RunDir

COUNTS = {"checks": 24, "rows": 12, "slope": 6}


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chips(tmp_path_factory.mktemp("inputs") / "toy", counts=COUNTS)


@pytest.fixture(scope="module")
def ten_bands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chips of ten bands with splits; the bands differ in brightness, the classes in pattern."""
    root, rng = tmp_path_factory.mktemp("inputs") / "ten", np.random.default_rng(0)
    for split, share in (("train", 1.0), ("val", 0.4), ("test", 0.4)):
        for number, (name, count) in enumerate({"a": 12, "b": 6, "c": 4}.items()):
            (root / split / name).mkdir(parents=True)
            for i in range(max(2, int(count * share))):
                chip = rng.integers(0, 40, (12, 12, 10)) + 10 * np.arange(10) + 30 * number
                np.save(root / split / name / f"{i}.npy", chip.astype(np.uint8))
    return root


@pytest.fixture(scope="module")
def gray(chips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same chips with one band."""
    root = tmp_path_factory.mktemp("inputs") / "gray"
    for path in chips.rglob("*.png"):
        target = root / path.relative_to(chips)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("L").save(target)
    return root


def small(source: Path, name: str, path: Path | None, **backbone: Any) -> dict[str, Any]:
    values = recipe_values(source, path or Path())
    values["backbone"] = {"name": name, **({"path": str(path)} if path else {}), **backbone}
    values["lora"] = {"rank": 1, "max_train_steps": 2, "train_batch_size": 4}
    values["cluster"] = {"n_clusters": 2, "rho": 4.0, "n_init": 1}
    values["deblora"] = {"max_train_steps": 1, "train_batch_size": 2}
    return values


@dataclass(frozen=True)
class Kind:
    """A preset, the files it is published in at toy size, its features, and what else the recipe says."""

    preset: str
    write: Callable[[Path], object] | None
    width: int = tiny.WIDTH
    backbone: dict[str, Any] = field(default_factory=dict)
    loss: str = "cross_entropy"
    ten_bands: bool = False


def hugging_face(kind: str, **options: Any) -> Kind:
    return Kind(
        tiny.preset_of(kind), partial(tiny.write_model, kind), backbone={"image_size": tiny.PX}, **options
    )


KINDS = {
    "embedded": Kind("embedded", None, 128, {"image_size": 32}),
    "vit": hugging_face("vit"),
    "vit-mae": hugging_face("vit-mae", loss="mae"),
    "dinov2-registers": hugging_face("dinov2-registers"),
    "clip-full": hugging_face("clip-full"),
    "siglip-full": hugging_face("siglip-full"),
    "convnext": hugging_face("convnext"),
    "huggingface": hugging_face("swin"),
    "open-clip": Kind(
        "open-clip", lambda folder: files.write_open_clip(folder, files.Tower(quick=False)), files.CLIP_WIDTH
    ),
    "satmae": Kind("satmae", files.write_satmae, files.SATMAE_WIDTH, loss="mae"),
    "satmae-groups": Kind("satmae", files.write_satmae_groups, files.SATMAE_WIDTH, ten_bands=True),
    "galileo-nano": Kind("galileo-nano", files.write_galileo, 128, {"image_size": 16, "sensor": "S1"}),
    "efficientnet-lite0": Kind("efficientnet-lite0", files.write_efficientnet, 1280, {"image_size": 32}),
    "timm": Kind("timm", files.write_timm, 8, {"model": "vit_tiny"}),
}
ELSEWHERE = {"stable-diffusion"}  # test_generative_road.py, with the denoising loss


FIRST = ("audit", "train-lora", "extract")
ALL = (*FIRST, "cluster", "center", "calibrate", "train-deblora", "extract")


def stages(recipe: Path, out: Path, commands: tuple[str, ...]) -> None:
    """Run some commands on a new run folder."""
    RunDir.create(out, resume=False, overwrite=False)
    recipe.rename(out / "recipe.yaml")
    for command in commands:
        assert main([command, str(out)]) == 0, command


def test_no_preset_is_left_out() -> None:
    assert {kind.preset for kind in KINDS.values()} | ELSEWHERE == set(PRESETS)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model_goes_the_whole_road(
    name: str, chips: Path, ten_bands: Path, gray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = KINDS[name]
    if name == "timm":
        import peft  # noqa: F401 - looks for timm when it is imported

        monkeypatch.setitem(sys.modules, "timm", files.fake_timm())
    if kind.write is not None:
        kind.write(tmp_path / "m")
    source = ten_bands if kind.ten_bands else gray if name == "galileo-nano" else chips
    values = small(source, kind.preset, tmp_path / "m" if kind.write else None, **kind.backbone)
    values["lora"]["loss"] = kind.loss
    if kind.ten_bands:
        values["data"]["scale"] = 10_000
    out = tmp_path / "run"
    recipe = write_recipe(tmp_path / "r.yaml", values)
    stages(recipe, out, ALL)  # evaluation and report see nothing of the model, and test_recipes.py runs them
    tables = {
        adapter: FeatureTable.load(out / "features" / f"{adapter}.safetensors").features
        for adapter in ("base", "lora", "deblora")
    }
    assert all(table.shape[1] == kind.width and np.isfinite(table).all() for table in tables.values())
    assert not np.array_equal(tables["base"], tables["lora"])


def ten_band_run(source: Path, model: Path, out: Path, commands: tuple[str, ...]) -> dict[str, Any]:
    values = small(source, "dinov2", model, image_size=16, n_bands=10)
    values["data"]["band_names"] = [f"B{i:02d}" for i in range(10)]
    recipe = write_recipe(out.with_suffix(".yaml"), values)
    stages(recipe, out, commands)
    return dict(json.loads((out / "adapters" / "lora" / "base.json").read_text()))


def test_ten_bands_are_normalized_by_training_chips_only(ten_bands: Path, tmp_path: Path) -> None:
    model = tiny.write_model("dinov2", tmp_path / "m")
    record = ten_band_run(ten_bands, model, tmp_path / "run", ALL)
    pixels = np.concatenate(
        [np.load(file).reshape(-1, 10) for file in sorted((ten_bands / "train").rglob("*.npy"))]
    ) / np.float64(255)
    np.testing.assert_allclose(record["mean"], pixels.mean(axis=0))
    np.testing.assert_allclose(record["std"], pixels.std(axis=0))
    assert (record["normalize"], record["n_bands"], record["bands"][9]) == ("train", 10, "B09")
    second = json.loads((tmp_path / "run" / "adapters" / "deblora" / "base.json").read_text())
    assert second["mean"] == record["mean"]

    import shutil

    other = shutil.copytree(ten_bands, tmp_path / "other")
    for split in ("val", "test"):
        for file in (other / split).rglob("*.npy"):
            np.save(file, 255 - np.load(file))
    again = ten_band_run(other, model, tmp_path / "again", FIRST)
    assert (again["mean"], again["std"]) == (record["mean"], record["std"])
    for name in ("base", "lora"):
        tables = [
            FeatureTable.load(tmp_path / run / "features" / f"{name}.safetensors") for run in ("run", "again")
        ]
        train = tuple(chip_id for chip_id in tables[0].ids if chip_id.startswith("train"))
        np.testing.assert_array_equal(tables[0].rows(train), tables[1].rows(train))
        test = tuple(chip_id for chip_id in tables[0].ids if chip_id.startswith("test"))
        assert not np.array_equal(tables[0].rows(test), tables[1].rows(test))


@pytest.mark.parametrize(
    ("backbone", "data", "message"),
    [
        (
            {},
            {},
            "has 10 bands, but the backbone embedded takes 3 (or one gray band, repeated); set backbone.n_bands to",
        ),
        ({"n_bands": 4}, {}, "takes 4 (or one gray band"),
        ({"n_bands": 10}, {"band_names": ["red"]}, "data.band_names names 1 bands, backbone.n_bands is 10"),
        ({"n_bands": 0}, {}, "backbone.n_bands is 0, allowed are 1"),
        ({"name": "dinov4"}, {}, "backbone.name is 'dinov4', expected one of embedded"),
        ({"name": "satmae"}, {}, "backbone.path is not set; satmae needs"),
        (
            {"name": "dinov2", "path": "facebook/dinov2-small"},
            {},
            "set backbone.path to hub:facebook/dinov2-small",
        ),
    ],
)
def test_what_does_not_fit_ends_in_one_message(
    backbone: dict[str, Any],
    data: dict[str, Any],
    message: str,
    ten_bands: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    values = small(ten_bands, "embedded", None, image_size=16)
    values["backbone"] |= backbone
    values["data"] |= data
    recipe = write_recipe(tmp_path / "r.yaml", values)
    assert main(["run", str(recipe), "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
