"""The loop: a queue is labeled, the run takes the labels, predict uses them; validation and test stay out of it."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from builders import draw, write_chips, write_toy_queue
from deblora.cli.main import main
from deblora.data.readers.registry import read_unlabeled
from deblora.errors import ArtifactError, DataError
from deblora.pipeline.audited import class_names, read_audited
from deblora.pipeline.classify.additions import read_additions
from deblora.pipeline.classify.predict import model_of
from deblora.pipeline.classify.queue import Labels, Queue, run_id
from deblora.pipeline.classify.update import say_change, update
from deblora.recipe.classify import Recipe, read_recipe, recipe_from
from deblora.run.run_dir import RunDir


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    write_chips(tmp_path / "pool" / "new", seed=5, counts={"checks": 3, "rows": 3, "slope": 6})
    return tmp_path / "pool"


def queue_of(run: Path, pool: Path, root: Path) -> Queue:
    ids, _ = read_unlabeled(pool)
    names = class_names(RunDir(run))
    return write_toy_queue(
        root, run=run_id(RunDir(run)), ids=ids, names=names, pool=str(pool), run_folder=str(run)
    )


def label_all(queue: Queue, *, name: str = "", other: dict[str, str] | None = None) -> None:
    """Give every chip the name of its folder, or another one."""
    labels = Labels(queue, name)
    for row, chip in enumerate(queue.chips):
        labels.give(row, (other or {}).get(chip.id) or chip.id.split("/")[-2])


def opened(run: Path) -> tuple[RunDir, Recipe]:
    return RunDir.open(run), recipe_from(read_recipe(run / "recipe.yaml"))


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_labels_of_a_queue_reach_predictions_and_nothing_else_of_the_run(
    run: Path, pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queue = queue_of(run, pool, tmp_path / "queue")
    label_all(queue, other={"new/rows/002.png": "=crane, new"})
    before = files(run)
    assert main(["predict", str(run), str(pool), "--out", str(tmp_path / "first")]) == 0
    capsys.readouterr()
    assert main(["update", str(run), str(queue.root)]) == 0
    said = capsys.readouterr().out
    assert "+12 labels" in said and "new classes: =crane, new" in said and "no random sample" in said
    assert "unjudged, because no test chip shows them: =crane, new" in said
    slope = next(line.split() for line in said.splitlines() if line.startswith("  slope"))
    assert int(slope[2]) == int(slope[1]) + 6
    assert {name: content for name, content in files(run).items() if name in before} == before

    assert main(["predict", str(run), str(pool), "--out", str(tmp_path / "second")]) == 0
    assert "not judged on any test: =crane, new" in capsys.readouterr().out
    with (tmp_path / "second" / "predictions.csv").open(newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert (
        rows["new/rows/002.png"]["predicted"] == "=crane, new" and rows["new/rows/002.png"]["group"] == "tail"
    )
    assert all(
        rows[chip.id]["predicted"] == chip.id.split("/")[1] for chip in queue.chips if "rows" not in chip.id
    )
    assert "with 12 labels added" in (tmp_path / "second" / "index.html").read_text()
    assert (tmp_path / "first" / "predictions.csv").read_text() != (
        tmp_path / "second" / "predictions.csv"
    ).read_text()


def test_only_new_chips_are_extracted_and_a_queue_can_be_labeled_on(
    run: Path, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deblora.pipeline.classify import update as module

    seen: list[int] = []
    extract = module.new_features

    def counted(run, recipe, adapter, ids, pixels):
        seen.append(len(ids))
        return extract(run, recipe, adapter, ids, pixels)

    monkeypatch.setattr(module, "new_features", counted)
    own, recipe = opened(run)
    queue = queue_of(run, pool, tmp_path / "queue")
    labels = Labels(queue)
    labels.give(0, "checks")
    labels.give(1, "rows")  # a slip
    first = update(own, recipe, queue.root)
    labels.give(1, "checks")
    labels.give(9, "slope")
    second = update(own, recipe, queue.root)
    n_tables = len(model_of(own).tables)
    assert seen == [2] * n_tables + [1] * n_tables
    added = read_additions(own)
    assert added is not None and [chip.label for chip in added.chips] == ["checks", "checks", "slope"]
    assert (second.n_before == first.n_after).all()
    index = list(second.class_names)
    assert (second.n_after - second.n_before)[
        [index.index(n) for n in ("checks", "rows", "slope")]
    ].tolist() == [1, -1, 1]
    third = update(own, recipe, queue.root)
    assert (third.n_before == third.n_after).all()
    assert sorted(path.name for path in (run / "updates").iterdir() if path.is_dir()) == ["2", "3"]


def test_scores_are_of_chips_that_were_labeled_before(run: Path, pool: Path, tmp_path: Path) -> None:
    own, recipe = opened(run)
    queue = queue_of(run, pool, tmp_path / "queue")
    label_all(queue)
    change = update(own, recipe, queue.root)
    audited = read_audited(own)
    assert change.n_judged["test"] == len(audited.split("test"))
    assert change.n_judged["cross-validated"] <= len(audited.split("train")) + len(audited.split("val"))
    assert [(score.split, score.group) for score in change.scores] == [
        (split, group) for split in ("cross-validated", "test") for group in ("tail", "all")
    ]
    for score in change.scores:
        assert score.difference.value == pytest.approx(score.after.value - score.before.value)
    with (run / "eval" / "scores.csv").open(newline="") as file:
        shipped = {
            row["group"]: float(row["value"])
            for row in csv.DictReader(file)
            if row["method"] == "shipped" and row["metric"] == "macro_f1"
        }
    on_test = {score.group: score.before.value for score in change.scores if score.split == "test"}
    assert on_test == pytest.approx({group: shipped[group] for group in on_test})


def test_chips_of_validation_and_test_are_refused(run: Path, pool: Path, tmp_path: Path) -> None:
    own, recipe = opened(run)
    audited = read_audited(own)
    source = Path(recipe.data.source)
    held = audited.split("test").ids[0], audited.split("val").ids[0], audited.split("train").ids[0]
    shutil.copy(source / held[0], pool / "copied.png")  # the same pixels, another name
    with Image.open(source / held[1]) as picture:  # the same chip in other formats
        picture.save(pool / "again.bmp")
        np.save(pool / "as_array.npy", np.asarray(picture))
        picture.transpose(Image.Transpose.ROTATE_90).resize((64, 64), Image.Resampling.NEAREST).save(
            pool / "turned.png"
        )
    (pool / held[0]).parent.mkdir()
    Image.fromarray(draw("rows", np.random.default_rng(9))).save(pool / held[0])  # the name alone
    shutil.copy(source / held[2], pool / "known.png")  # trains already
    queue = queue_of(run, pool, tmp_path / "queue")
    other = dict.fromkeys(("copied.png", "again.bmp", "as_array.npy", "turned.png", "known.png"), "slope")
    label_all(queue, other=other)
    change = update(own, recipe, queue.root)
    assert set(change.refused) == {"copied.png", "again.bmp", "as_array.npy", "turned.png", held[0]}
    assert f"the test chip {held[0]}" in change.refused["copied.png"]
    assert f"shows what the val chip {held[1]} shows" in change.refused["turned.png"]
    name = held[2].split("/")[0]
    assert change.conflicts == (
        {} if name == "slope" else {"known.png": f"{name} is kept from training, this queue says slope"}
    )
    added = read_additions(own)
    assert added is not None and not {chip.id for chip in added.chips} & {*change.refused, "known.png"}
    assert "refused: copied.png" in "\n".join(say_change(change))

    again = Path(shutil.copytree(run, tmp_path / "again"))
    shutil.rmtree(again / "updates")
    values = yaml.safe_load((again / "recipe.yaml").read_text())
    values["data"]["source"] = str(tmp_path / "gone")  # without the chips of the run: names and features
    (again / "recipe.yaml").write_text(yaml.safe_dump(values))
    blind = update(*opened(again), queue.root)
    assert (
        set(blind.refused) == set(change.refused) - {"as_array.npy", "turned.png"}
        and "could not be read" in blind.notes[0]
    )
    assert "the features of the test chip" in blind.refused["copied.png"]


def test_disagreements_are_listed_and_not_taken(run: Path, pool: Path, tmp_path: Path) -> None:
    own, recipe = opened(run)
    queue = queue_of(run, pool, tmp_path / "queue")
    label_all(queue, name="anna")
    label_all(queue, name="ben", other={"new/rows/001.png": "slope"})
    change = update(own, recipe, queue.root)
    assert change.disagreements == {"new/rows/001.png": {"anna": "rows", "ben": "slope"}}
    added = read_additions(own)
    assert added is not None and "new/rows/001.png" not in {chip.id for chip in added.chips}
    assert any(
        "labelers disagree: new/rows/001.png (anna: rows, ben: slope)" in line for line in say_change(change)
    )


def test_a_killed_update_leaves_the_earlier_one(
    run: Path, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deblora.pipeline.classify import additions

    own, recipe = opened(run)
    queue = queue_of(run, pool, tmp_path / "queue")
    labels = Labels(queue)
    labels.give(0, "checks")
    update(own, recipe, queue.root)
    earlier = model_of(own)
    labels.give(9, "a new one")
    write = additions.write_atomic

    def killed(path: Path, content: str | bytes) -> None:
        if path.name == "current.json":
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(additions, "write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        update(own, recipe, queue.root)
    monkeypatch.undo()
    kept = model_of(own)
    assert kept.class_names == earlier.class_names and kept.n_added == 1
    update(own, recipe, queue.root)
    assert model_of(own).n_added == 2


def test_what_is_stale_or_foreign_is_refused(
    run: Path, pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, recipe = opened(run)
    with pytest.raises(DataError, match="no labels were added"):
        update(own, recipe, None)
    queue = queue_of(run, pool, tmp_path / "queue")
    with pytest.raises(DataError, match="no chip can be added"):
        update(own, recipe, queue.root)
    Labels(queue).give(0, "CHECKS")
    with pytest.raises(DataError, match="nearly the class 'checks'"):
        update(own, recipe, queue.root)
    Labels(queue).give(0, "checks")
    update(own, recipe, queue.root)
    notes = json.loads((queue.root / "queue.json").read_text())
    (queue.root / "queue.json").write_text(json.dumps({**notes, "run": "another"}))
    assert main(["update", str(run), str(queue.root)]) == 2
    assert "made for another run" in capsys.readouterr().err

    assert (
        main(
            [
                "run",
                "--resume",
                "--out",
                str(run),
                "--evaluate.classifiers",
                "[cross_entropy, balanced_softmax]",
            ]
        )
        == 0
    )
    assert main(["predict", str(run), str(pool), "--out", str(tmp_path / "out")]) == 2
    assert "made anew since labels were added" in capsys.readouterr().err
    shutil.rmtree(pool)  # features of added chips are still those of this extraction
    assert main(["update", str(run)]) == 0
    assert model_of(own).n_added == 1

    current = run / "updates" / "current.json"
    content = json.loads(current.read_text())
    for key, value in [
        ("version", 0),
        ("number", "../../x"),
        ("number", 99),
        ("class_names", ["checks"]),
        ("class_names", [*content["class_names"], "more"]),
        ("files", None),
        ("state", {**content["state"], "features": {"../lora": ""}}),
        ("state", {**content["state"], "features": {}}),
    ]:
        current.write_text(json.dumps({**content, key: value}))
        with pytest.raises(ArtifactError, match="damaged|stale"):
            model_of(own)
    current.write_text(json.dumps(content))
    (run / "updates" / str(content["number"]) / "labels.csv").write_text("x")
    with pytest.raises(ArtifactError, match="labels.csv is not what was written"):
        model_of(own)


def test_adapters_learn_from_the_labels_in_a_run_of_its_own(
    run: Path, pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, _ = opened(run)
    queue = queue_of(run, pool, tmp_path / "queue")
    label_all(queue, other={"new/rows/002.png": "crane"})
    before = files(run)
    new = tmp_path / "adapted"
    assert main(["update", str(run), str(queue.root), "--adapt", str(new)]) == 0
    assert f"deblora predict {new}" in capsys.readouterr().out
    assert {name: content for name, content in files(run).items() if name in before} == before
    audited, theirs = read_audited(RunDir(new)), read_audited(own)
    for split in ("val", "test"):
        counts = [
            dict(zip(a.class_names, a.split(split).counts.tolist(), strict=True)) for a in (audited, theirs)
        ]
        assert counts[0] == {**counts[1], "crane": 0}
    assert len(audited.split("train")) == len(theirs.split("train")) + 12
    named = {name: [audited.class_names[c] for c in own] for name, own in audited.groups.named().items()}
    assert named["head"] == ["checks"] and sorted(named["tail"]) == ["crane", "slope"]
    stages = json.loads((new / "run.json").read_text())["stages"]
    assert main(["update", str(run), "--adapt", str(new)]) == 0  # nothing is left to do
    again = json.loads((new / "run.json").read_text())["stages"]
    assert {name: s["seconds"] for name, s in stages.items() if name != "audit"} == {
        name: s["seconds"] for name, s in again.items() if name != "audit"
    }
    assert main(["update", str(run), "--adapt", str(run)]) == 2
    assert "is the run itself" in capsys.readouterr().err
