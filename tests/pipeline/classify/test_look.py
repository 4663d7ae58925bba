"""The first look: which sizes are tried, on which chips, and that its choice rules what follows."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from builders import write_chips
from deblora.cli.main import main
from deblora.data.chips import ArrayPixels, ChipSet
from deblora.pipeline.classify.look import settled, sizes_to_try, some_of
from deblora.recipe.classify import recipe_from

SMALL = [
    *("--lora.max_train_steps", "2", "--deblora.max_train_steps", "2", "--evaluate.n_bootstrap", "100"),
    *("--evaluate.classifiers", "[cross_entropy]", "--cluster.n_clusters", "3"),
]


def chips(labels: list[int], splits: list[str], side: int = 4) -> ChipSet:
    ids = tuple(f"c{i}" for i in range(len(labels)))
    arrays = [np.zeros((side, side, 3), dtype=np.uint8) for _ in labels]
    names = tuple(f"class {c}" for c in range(max(labels) + 1))
    return ChipSet(ids, np.array(labels), tuple(splits), names, ArrayPixels(arrays, ids))


def test_all_of_rare_classes_are_looked_at_and_no_test_chip() -> None:
    labels = [0] * 100 + [1] * 60 + [2] * 6 + [0] * 50
    splits = ["train"] * 80 + ["val"] * 20 + ["train"] * 66 + ["test"] * 50
    found = some_of(chips(labels, splits), 80, seed=0)
    counts = np.bincount(found.labels)
    assert counts.tolist() == [37, 37, 6] and "test" not in found.splits
    again = some_of(chips(labels, splits), 80, seed=0)
    assert again.ids == found.ids
    assert some_of(chips(labels, splits), 10, seed=0).labels.tolist().count(0) == 5
    assert len(some_of(chips(labels, splits), 1000, seed=0)) == 166


@pytest.mark.parametrize(
    ("side", "native", "expected"),
    [(150, 224, [128, 144, 224]), (128, 224, [112, 128, 192, 224]), (20, 64, [32, 64]), (4000, 224, [224])],
)
def test_sizes_lie_around_the_chips_and_hold_the_models_own(
    side: int, native: int, expected: list[int]
) -> None:
    pixels = ArrayPixels([np.zeros((side, side, 1), dtype=np.uint8)], ("a",))
    assert sizes_to_try(pixels, native) == expected


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on data alone, with its first look."""
    root = tmp_path_factory.mktemp("looked")
    data = write_chips(root / "toy")
    assert main(["run", str(data), "--out", str(root / "run"), *SMALL, "--look.sizes", "[32, 48]"]) == 0
    return root / "run"


def test_the_look_sets_size_and_views_for_all_that_follows(looked: Path) -> None:
    choice = json.loads((looked / "look" / "choice.json").read_text())
    frame = pd.read_csv(looked / "look" / "candidates.csv")
    best = frame.loc[frame["brier_score"].idxmin()]
    assert (choice["image_size"], choice["views"]) == (best["image_size"], best["views"])
    assert sorted({(s, v) for s, v in zip(frame["image_size"], frame["views"], strict=True)}) == [
        (32, 1), (32, 4), (48, 1), (48, 4),
    ]  # fmt: skip
    kept = yaml.safe_load((looked / "recipe.yaml").read_text())
    assert kept["backbone"]["image_size"] == choice["image_size"]
    assert kept["extract"]["views"] == choice["views"] and kept["look"]["enabled"] is False
    assert "First look" in (looked / "report" / "index.html").read_text()
    frozen = json.loads((looked / "adapters" / "lora" / "base.json").read_text())
    assert frozen["image_size"] == choice["image_size"]


def test_a_second_start_with_the_same_data_computes_nothing(looked: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(looked, tmp_path / "run"))
    before = len((run / "run.log").read_text())
    source = yaml.safe_load((run / "recipe.yaml").read_text())["data"]["source"]
    more = ["--look.sizes", "[32, 48]"]
    assert main(["run", source, "--out", str(run), "--resume", *SMALL, *more]) == 0
    done = [line for line in (run / "run.log").read_text()[before:].splitlines() if "done in" in line]
    assert len(done) == 1 and "audit" in done[0]
    assert main(["run", "--out", str(run), "--resume"]) == 0  # from the recipe it wrote


def test_size_or_views_that_are_given_are_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_chips(tmp_path / "toy")
    assert main(["run", str(data), "--print-recipe", "--extract.views", "2"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["look"]["enabled"] is False
    assert main(["run", str(data), "--print-recipe"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["look"]["enabled"] is True
    assert (
        main(["run", str(data), "--print-recipe", "--look.enabled", "true", "--backbone.image_size", "32"])
        == 2
    )
    assert "leave these two out" in capsys.readouterr().err


def test_a_damaged_choice_says_what_to_do(looked: Path, tmp_path: Path) -> None:
    from deblora.errors import ArtifactError
    from deblora.run.run_dir import RunDir

    run = Path(shutil.copytree(looked, tmp_path / "run"))
    (run / "look" / "choice.json").write_text("{}")
    with pytest.raises(ArtifactError, match="damaged .* go on with --resume"):
        settled(RunDir.open(run), recipe_from({"data": {"source": "x"}}))
