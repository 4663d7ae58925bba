"""Chips that are not 8-bit: refused until black and white are named, and then the same as their 8-bit twins."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from builders import recipe_values, write_chips, write_recipe, write_vit
from deblora.cli.main import main
from deblora.run.artifacts import FeatureTable


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("values")
    write_vit(root / "vit")
    write_chips(root / "byte")
    for path in sorted((root / "byte").rglob("*.png")):
        pixels = np.asarray(Image.open(path))
        for name, values in (
            ("word", pixels.astype(np.uint16) * 257),
            ("decibel", (pixels / 255 * 30 - 30).astype(np.float32)),
        ):
            target = root / name / path.parent.name / f"{path.stem}.npy"
            target.parent.mkdir(parents=True, exist_ok=True)
            np.save(target, values)
    return root


def features(inputs: Path, name: str, tmp_path: Path, **data: float) -> np.ndarray:
    values = recipe_values(inputs / name, inputs / "vit")
    values["data"].update(data)
    run = tmp_path / name
    assert main(["run", str(write_recipe(tmp_path / f"{name}.yaml", values)), "--out", str(run)]) == 0
    table = FeatureTable.load(run / "features" / "base.safetensors")
    order = sorted(table.ids, key=lambda chip_id: chip_id.rsplit(".", 1)[0])
    return table.rows(tuple(order))


def test_named_values_give_the_features_of_bytes(inputs: Path, tmp_path: Path) -> None:
    expected = features(inputs, "byte", tmp_path)
    word = features(inputs, "word", tmp_path, scale=65535)
    decibel = features(inputs, "decibel", tmp_path, scale=0, offset=-30)
    np.testing.assert_allclose(word, expected, atol=1e-4)
    np.testing.assert_allclose(decibel, expected, atol=1e-3)


@pytest.mark.parametrize("name", ["word", "decibel"])
def test_unnamed_values_are_refused(
    inputs: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", recipe_values(inputs / name, inputs / "vit"))
    assert main(["run", str(recipe), "--out", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert (
        "set data.scale" in message
        and f"checks/000.npy is {'uint16' if name == 'word' else 'float32'}" in message
    )
    assert not (tmp_path / "run").exists()


def test_mixed_types_are_refused(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_chips(tmp_path / "mixed")
    np.save(tmp_path / "mixed" / "checks" / "zz.npy", np.ones((16, 16, 3), dtype=np.uint16))
    values = recipe_values(tmp_path / "mixed", inputs / "vit")
    assert main(["run", str(write_recipe(tmp_path / "r.yaml", values)), "--out", str(tmp_path / "run")]) == 2
    assert "differ in the type of their values" in capsys.readouterr().err


def test_white_below_black_is_refused(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = recipe_values(inputs / "word", inputs / "vit")
    values["data"].update(scale=-40.0, offset=-30.0)
    assert main(["run", str(write_recipe(tmp_path / "r.yaml", values)), "--out", str(tmp_path / "run")]) == 2
    assert "must be above data.offset" in capsys.readouterr().err
