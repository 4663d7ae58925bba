"""From a run and a pool to a queue, to labels, to a run that knows more."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deblora.pipeline.classify.suggest as module
from builders import write_chips
from deblora.cli.main import main
from deblora.pipeline.audited import read_audited
from deblora.pipeline.classify.queue import Labels, read_queue
from deblora.run.run_dir import RunDir


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Path:
    """New chips, noisy ones of another look, and copies of chips of the run."""
    root = tmp_path_factory.mktemp("pool") / "pool"
    write_chips(root / "new" / "north")
    rng = np.random.default_rng(5)
    for path in sorted((root / "new").rglob("*.png")):
        picture = np.array(Image.open(path)).astype(np.int16) + rng.integers(-30, 30, (1, 1, 3))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path)
    (root / "odd").mkdir()
    for i in range(6):
        odd = np.zeros((32, 32, 3), dtype=np.uint8)
        odd[::2] = (255, 0, 255)
        odd[i : i + 3] = 120
        Image.fromarray(odd).save(root / "odd" / f"{i}.png")
    shutil.copytree(recipe.parent / "toy", root / "copies")
    return root


def test_a_queue_holds_new_chips_only_rare_classes_first(run: Path, pool: Path, tmp_path: Path) -> None:
    assert (
        main(["suggest", str(run), str(pool), "--n", "8", "--out", str(tmp_path / "queue"), "--unlike", "2"])
        == 0
    )
    queue = read_queue(tmp_path / "queue")
    assert len(queue.chips) == 8 and [chip.proposed for chip in queue.chips[-2:]] == ["", ""]
    assert all(not chip.id.startswith("copies/") for chip in queue.chips)
    assert all(Path(chip.path).is_file() for chip in queue.chips)
    n_labels = {own.name: own.n_labels for own in queue.classes}
    order = [n_labels[chip.proposed] for chip in queue.chips[:-2]]
    assert order == sorted(order)
    page = (tmp_path / "queue" / "index.html").read_text()
    assert page.count("<figure>") == 8 and "[[S" not in page and "[[O" not in page and "labels so far" in page
    assert "http" not in page.replace("http-equiv", "")


def test_labels_of_a_queue_become_training_chips(run: Path, pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "queue"
    assert main(["suggest", str(run), str(pool / "new"), "--n", "6", "--out", str(out)]) == 0
    labels = Labels(read_queue(out))
    for row, chip in enumerate(labels.queue.chips):
        labels.give(row, Path(chip.id).parts[-2])
    before = read_audited(RunDir.open(run)).counts.sum()
    assert main(["update", str(run), str(out)]) == 0
    again = tmp_path / "again"
    assert main(["suggest", str(run), str(pool / "new"), "--n", "6", "--out", str(again)]) == 0
    second = read_queue(again)
    assert not {chip.id for chip in second.chips} & {chip.id for chip in labels.queue.chips}
    assert (
        sum(own.n_labels for own in second.classes) == sum(own.n_labels for own in labels.queue.classes) + 6
    )
    assert read_audited(RunDir.open(run)).counts.sum() == before


def test_features_of_a_pool_are_extracted_once(
    run: Path, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 16)
    arguments = ["suggest", str(run), str(pool / "new"), "--n", "4", "--out"]
    assert main([*arguments, str(tmp_path / "a")]) == 0
    monkeypatch.setattr(module.Predictor, "features", lambda *_: pytest.fail("extracted again"))
    assert main([*arguments, str(tmp_path / "b")]) == 0
    first, second = (json.loads((tmp_path / name / "queue.json").read_text()) for name in "ab")
    assert first == second
    assert (tmp_path / "a" / "queue.csv").read_bytes() == (tmp_path / "b" / "queue.csv").read_bytes()


def test_what_cannot_be_is_refused(
    run: Path, pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    for words, message in (
        ([str(pool), "--out", str(pool / "queue")], "inside the pool"),
        ([str(pool), "--out", str(tmp_path / "full")], "no part of a queue"),
        ([str(pool), "--out", str(tmp_path / "q"), "--unlike", "60"], "allowed are 0 to --n"),
        ([str(pool / "copies"), "--out", str(tmp_path / "q")], "does not know already"),
        ([str(tmp_path / "none"), "--out", str(tmp_path / "q")], "does not exist"),
    ):
        assert main(["suggest", str(run), *words]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "q").exists() and (tmp_path / "full" / "mine.txt").is_file()
