"""Rows with their own training, through the command line on toy chips."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from deblora.cli.main import main
from deblora.recipe.methods import TRAINED
from deblora.run.artifacts import FeatureTable

JOINT = ("lift", "reslt", "sade", "self-trained")


def command(recipe: Path, out: Path, *rows: str) -> list[str]:
    return ["compare", str(recipe), "--seeds", "1", "--skip-deblora", "--out", str(out), "--methods", *rows]


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rows") / "out"
    assert main(command(recipe, out, *TRAINED)) == 0
    return out


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_row_has_the_probes_and_classifiers_their_own_logits(finished: Path) -> None:
    found = {(row["method"], row["classifier"]) for row in rows_of(finished / "results.csv")}
    for name in TRAINED:
        assert {(name, probe) for probe in ("cross_entropy", "balanced_softmax", "logit_adjustment")} <= found
    assert {method for method, probe in found if probe == "own_logits"} == set(JOINT)
    page = (finished / "index.html").read_text()
    assert all(name in page for name in TRAINED) and "own_logits" in page


def test_what_is_trained_is_kept_in_open_formats(finished: Path) -> None:
    rows = finished / "seed-0" / "rows"
    for name in ("scratch", "fine-tune"):
        assert (rows / name / "model.safetensors").is_file()
    for name in ("lora-bs", *JOINT):
        assert (rows / name / "adapter" / "adapter_model.safetensors").is_file()
    assert len(list((rows / "clora" / "adapters").glob("class-*/base.json"))) == 3
    assert not list((finished / "seed-0" / "checkpoints").rglob("*.safetensors"))


def test_own_logits_are_those_of_the_kept_classifier(finished: Path) -> None:
    from safetensors.numpy import load_file

    folder = finished / "seed-0" / "rows" / "reslt"
    features = FeatureTable.load(folder / "features.safetensors")
    head = load_file(folder / "head.safetensors")
    x = features.features.astype(np.float64)
    z = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    logits = sum(z @ head[f"branches.{i}.weight"].T + head[f"branches.{i}.bias"] for i in range(3))
    found = FeatureTable.load(folder / "logits.safetensors")
    assert found.ids == features.ids
    np.testing.assert_allclose(found.features, logits, atol=1e-4)
    # and the predictions of the table are their largest
    predicted = {
        row["id"]: row["predicted"]
        for row in rows_of(finished / "seed-0" / "eval" / "predictions.csv")
        if (row["method"], row["classifier"]) == ("reslt", "own_logits")
    }
    names = json.loads((finished / "seed-0" / "audit" / "groups.json").read_text())["class_names"]
    test = found.rows(tuple(predicted))
    assert [names[i] for i in test.argmax(axis=1)] == list(predicted.values())


def test_a_fine_tuned_model_differs_from_the_base_and_scratch_from_both(finished: Path) -> None:
    run = finished / "seed-0"
    tables = [
        FeatureTable.load(run / "features" / "base.safetensors"),
        *(
            FeatureTable.load(run / "rows" / name / "features.safetensors")
            for name in ("fine-tune", "scratch")
        ),
    ]
    means = [table.rows(tables[0].ids).mean(axis=0) for table in tables]
    near = np.linalg.norm(means[1] - means[0])
    far = np.linalg.norm(means[2] - means[0])
    assert 0 < near < far


def test_class_wise_features_are_means_that_know_no_class(finished: Path) -> None:
    from builders import write_vit  # noqa: F401 - the model lies beside the recipe
    from deblora.models.adapters.lora import load_adapter
    from deblora.pipeline.classify.chips import open_chips
    from deblora.pipeline.open_model import open_backbone
    from deblora.recipe.classify import read_recipe, recipe_from
    from deblora.run.run_dir import RunDir
    from deblora.train.extract import extract_features

    run = RunDir.open(finished / "seed-0")
    recipe = recipe_from(read_recipe(run.recipe))
    chips = open_chips(run, recipe).split("test")
    tables = []
    for folder in sorted((run.row("clora") / "adapters").iterdir()):
        backbone = open_backbone(recipe.backbone, seed=recipe.seed)
        load_adapter(backbone, folder, adapter_name="stage0")
        tables.append(extract_features(backbone, chips.pixels, chips.ids))
    found = FeatureTable.load(run.row("clora") / "features.safetensors").rows(chips.ids)
    np.testing.assert_allclose(found, np.mean(tables, axis=0), atol=1e-5)
    assert np.abs(tables[0] - tables[1]).max() > 1e-5


def test_missing_and_damaged_adapters_of_classes_are_named(finished: Path, tmp_path: Path) -> None:
    from deblora.errors import ArtifactError, ModelError
    from deblora.pipeline.compare.baselines.extract import stage_for
    from deblora.recipe.classify import read_recipe, recipe_from
    from deblora.run.run_dir import RunDir

    run = RunDir.open(Path(shutil.copytree(finished / "seed-0", tmp_path / "run")))
    recipe = recipe_from(read_recipe(run.recipe))
    folders = sorted((run.row("clora") / "adapters").iterdir())
    (folders[1] / "adapter_model.safetensors").write_bytes(b"xx")
    with pytest.raises(ModelError, match=r"class-0001.*is missing or damaged .* train the adapter again"):
        stage_for("clora").work(run, recipe)
    shutil.rmtree(folders[1])
    with pytest.raises(ArtifactError, match="holds 2 adapters for 3 classes; delete it and run"):
        stage_for("clora").work(run, recipe)


def test_a_finished_row_is_skipped_and_a_changed_setting_touches_its_row_only(
    finished: Path, recipe: Path, tmp_path: Path
) -> None:
    import yaml

    out = Path(shutil.copytree(finished, tmp_path / "out"))
    values = yaml.safe_load(recipe.read_text())
    values["rows"] = {"names": ["reslt", "lift"], "reslt_beta": 0.3}
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(values))
    log = out / "seed-0" / "run.log"
    before = len(log.read_text())
    assert (
        main(
            [
                "compare",
                str(changed),
                "--seeds",
                "1",
                "--skip-deblora",
                "--out",
                str(out),
                "--methods",
                "lora",
            ]
        )
        == 0
    )
    new = log.read_text()[before:]
    assert "train-row-reslt: done" in new and "evaluate-reslt: done" in new
    assert "train-row-lift: unchanged" in new and "train-lora: unchanged" in new
    assert "train-row-sade" not in new


def test_a_killed_row_of_classes_keeps_those_it_finished(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deblora.pipeline.compare.baselines import train as class_wise

    trained: list[int] = []
    real = class_wise.train_adapter

    def killed(*given: object, **options: object) -> object:
        if len(trained) == 2:
            trained.append(-1)
            raise KeyboardInterrupt
        trained.append(len(trained))
        return real(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(class_wise, "train_adapter", killed)
    out = tmp_path / "out"
    assert main(command(recipe, out, "clora")) == 130
    assert main(command(recipe, out, "clora")) == 0
    assert len(trained) == 4  # two classes, the kill, and the one that was left


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rows": {"names": ["fine_tune"]}}, "rows.names holds 'fine_tune'; known are scratch, fine-tune"),
        ({"rows": {"reslt_beta": 2}}, "rows.reslt_beta is 2, allowed are 0 to 1"),
        ({"rows": {"betas": 2}}, "did you mean"),
        ({"lora": {"adapter": "adalora"}}, "deblora.placement stack cannot be built on lora.adapter adalora"),
        ({"lora": {"adapter": "lorra"}}, "lora.adapter is 'lorra', expected one of lora, dora"),
    ],
)
def test_bad_settings_are_named(
    values: dict[str, dict[str, object]],
    message: str,
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import yaml

    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), **values}))
    assert main(command(path, tmp_path / "out", "lora")) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
