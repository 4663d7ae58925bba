"""From Python: fit, load, predict, embed, save, audit and compare are what the command line does."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import deblora
from builders import write_chips
from deblora.cli.main import main
from deblora.data.readers.lists import read_list
from deblora.errors import ArtifactError, DataError
from deblora.model import _written


@pytest.fixture(scope="module")
def model(finished: Path) -> deblora.Model:
    return deblora.load(finished)


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chips(tmp_path_factory.mktemp("new") / "chips")


def some(chips: Path, n: int = 5) -> list[Path]:
    return sorted(chips.rglob("*.png"))[:n]


def test_importing_is_cheap_and_the_surface_is_what_it_says() -> None:
    code = (
        "import sys, deblora; heavy = {'torch', 'sklearn', 'pandas', 'scipy', 'transformers'} & set(sys.modules); "
        "assert not heavy, heavy; assert set(deblora.__all__) <= set(dir(deblora))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in deblora.__all__:
        assert getattr(deblora, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        deblora.nothing  # noqa: B018


def test_every_form_of_chips_gives_the_same_probabilities(model: deblora.Model, chips: Path) -> None:
    paths = some(chips)
    arrays = [np.array(Image.open(path)) for path in paths]
    tensors = [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
    wanted = model.predict_proba(arrays)
    assert wanted.shape == (5, len(model.class_names))
    np.testing.assert_allclose(wanted.sum(axis=1), 1, rtol=1e-6)
    for form in (
        np.stack(arrays),
        [Image.open(path) for path in paths],
        tensors,
        torch.stack(tensors),
        [{"image": tensor, "label": 0} for tensor in tensors],
        torch.utils.data.DataLoader([(tensor, 0) for tensor in tensors], batch_size=2),  # type: ignore[arg-type]
    ):
        np.testing.assert_array_equal(model.predict_proba(form), wanted)
    np.testing.assert_allclose(model.predict_proba(arrays[2])[0], wanted[2], atol=2e-6)
    np.testing.assert_allclose(model.predict_proba(str(paths[2]))[0], wanted[2], atol=2e-6)


def test_prediction_agrees_with_the_command_line(
    model: deblora.Model, finished: Path, chips: Path, tmp_path: Path
) -> None:
    table = model.predict(chips)
    assert list(table) == ["id", "class", "group", "probability"]
    assert main(["predict", str(finished), str(chips), "--out", str(tmp_path / "out")]) == 0
    written = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert table["id"].tolist() == written["id"].tolist()
    assert table["class"].tolist() == written["predicted"].tolist()
    assert table["group"].tolist() == written["group"].tolist()
    np.testing.assert_allclose(table["probability"], written["probability"], atol=1e-6)


def test_features_and_scores(model: deblora.Model, chips: Path) -> None:
    features = model.embed(some(chips, 1)[0])
    assert features.ndim == 2 and len(features) == 1 and np.isfinite(features).all()
    scores = model.scores
    assert set(scores["group"]) == {"head", "middle", "tail", "all"} and scores["value"].between(0, 1).all()
    assert "shipped" in set(scores["method"]) and model.report.is_file()
    assert str(len(model.class_names)) in repr(model) and set(model.groups) == set(model.class_names)


def test_a_saved_model_is_enough_elsewhere(model: deblora.Model, chips: Path, tmp_path: Path) -> None:
    saved = model.save(tmp_path / "elsewhere" / "model")
    with pytest.raises(ArtifactError, match="name a new folder"):
        model.save(saved)
    assert not (saved / "features").exists() and sum(f.stat().st_size for f in saved.rglob("*")) < 5e6
    again = deblora.load(saved)
    np.testing.assert_array_equal(again.predict_proba(chips), model.predict_proba(chips))
    assert again.scores.equals(model.scores)


@pytest.mark.parametrize(
    ("chips", "message"),
    [
        ([], "no chips"),
        (3, "no form of chips"),
        ([{"picture": np.zeros((4, 4))}], "image is needed"),
        (["a"], "str is no image"),
        (np.zeros(7), "no chip"),
        (np.zeros((2, 8, 8, 3), dtype=np.float32), "cannot be used"),
        ("missing", "does not exist"),
    ],
)
def test_what_is_no_chip_is_refused(model: deblora.Model, chips: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        model.predict(chips)


QUICK = {
    "lora.max_train_steps": 2,
    "deblora.max_train_steps": 2,
    "cluster.n_clusters": 3,
    "look.enabled": False,
    "evaluate.n_bootstrap": 100,
    "evaluate.classifiers": ["cross_entropy", "balanced_softmax", "balanced_softmax_cv"],
}


def test_chips_in_memory_are_fitted_without_a_folder(rng: np.random.Generator, tmp_path: Path) -> None:
    labels = np.repeat([0, 1, 2], [20, 12, 8])
    images = rng.integers(0, 60, (40, 24, 24, 3), dtype=np.uint8)
    images[np.arange(40), 4:20, 4:20, labels] += 120
    model = deblora.fit((images, labels), settings=QUICK)
    assert model.class_names == ("0", "1", "2")
    assert (model.predict(images)["class"] == labels.astype(str)).mean() > 0.8
    names = np.array(["water", "field", "town"])[labels]
    samples = [
        {"image": torch.from_numpy(x).permute(2, 0, 1), "label": y}
        for x, y in zip(images, names, strict=True)
    ]
    source = _written(samples, tmp_path / "run")
    again = read_list(source)
    assert again.class_names == ("field", "town", "water") and source.parent.name == "run-chips"
    assert all(np.array_equal(again.pixels.read(i), images[i]) for i in range(40))
    with pytest.raises(DataError, match="40 chips and 3 labels"):
        deblora.fit((images, [1, 2, 3]), settings=QUICK)
    with pytest.raises(DataError, match="pair of image and label"):
        deblora.fit([{"image": images[0]}], settings=QUICK)


def test_audit_and_compare_return_tables(recipe: Path, chips: Path, tmp_path: Path) -> None:
    table = deblora.audit(chips)
    assert list(table) == ["class", "group", "train", "val", "test", "imbalance_ratio"]
    assert isinstance(table.attrs["warnings"], list)
    results = deblora.compare(
        recipe, out=tmp_path / "compared", n_seeds=1, methods=["zero-shot", "lora"], settings=QUICK
    )
    assert (
        set(results["method"]) >= {"zero-shot", "lora"} and (tmp_path / "compared" / "index.html").is_file()
    )
