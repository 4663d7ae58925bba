"""Bad data, models, recipes and folders through the command line: one message, exit code 2, nothing written."""

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from PIL import Image
from pyarrow import parquet

from builders import draw, recipe_values, write_chips, write_recipe, write_vit
from data_builders import huge_png
from deblora.cli.main import main
from deblora.errors import RecipeError
from deblora.pipeline.classify.road import check_inputs
from deblora.recipe.classify import recipe_from
from deblora.run.run_dir import RunDir

FEW = {"checks": 12, "rows": 9, "slope": 6}
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(recipe: Path) -> Path:
    return recipe.parent / "vit"


def refused(capsys: Capture, arguments: list[str], *words: str) -> str:
    """Run a command that must fail with one message; return the message."""
    capsys.readouterr()
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    start = f"\n{errors}".rfind("\ndeblora: ")
    assert start >= 0, errors
    assert "Traceback" not in errors
    message = errors[start:]
    for word in words:
        assert word in message, message
    return message


def run_refused(capsys: Capture, tmp_path: Path, values: dict[str, Any], *words: str) -> str:
    """As :func:`refused`, for a whole run; nothing may remain where it was to be written."""
    out = tmp_path / "runs" / "run"
    path = write_recipe(tmp_path / "recipe.yaml", values)
    message = refused(capsys, ["run", str(path), "--out", str(out)], *words)
    assert not out.exists()
    return message


# --- chips ----------------------------------------------------------------------------------------------------


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


GOOD = png(draw("rows", np.random.default_rng(0)))
CHIPS: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "truncated": ("bad.png", GOOD[: len(GOOD) // 2], ("rows/bad.png: unreadable image", "restore it")),
    "no image": ("bad.png", b"GIF, they said", ("rows/bad.png: unreadable image",)),
    "zero bytes": ("bad.png", b"", ("rows/bad.png: the image is empty (0 bytes)",)),
    "bomb": ("bad.png", huge_png(), ("rows/bad.png: too many pixels", "cut the scene")),
    "pickle": (
        "bad.npy",
        npy(np.array([{"a": 1}], dtype=object)),
        ("rows/bad.npy: unreadable array", "numpy.save"),
    ),
    "npy of nan": (
        "bad.npy",
        npy(np.full((4, 4), np.nan, np.float32)),
        ("rows/bad.npy: pixels are not finite",),
    ),
    "npy of labels": ("bad.npy", npy(np.zeros((4, 4), np.int64)), ("rows/bad.npy: pixels are int64",)),
    "four bands": (
        "bad.npy",
        npy(np.zeros((4, 4, 4), np.uint8)),
        ("rows/bad.npy has 4", "has 3", "convert"),
    ),
}


@pytest.mark.parametrize("case", CHIPS)
def test_a_bad_chip_is_named(case: str, model: Path, tmp_path: Path, capsys: Capture) -> None:
    name, content, words = CHIPS[case]
    source = write_chips(tmp_path / "chips", counts=FEW)
    (source / "rows" / name).write_bytes(content)
    run_refused(capsys, tmp_path, recipe_values(source, model), *words)


def test_all_bad_chips_are_named_at_once(model: Path, tmp_path: Path, capsys: Capture) -> None:
    source = write_chips(tmp_path / "chips", counts=FEW)
    for name in ("x.png", "y.png"):
        (source / "slope" / name).write_bytes(b"")
    run_refused(
        capsys, tmp_path, recipe_values(source, model), "2 chips cannot be read", "slope/x.png", "slope/y.png"
    )


def test_four_bands_for_a_model_of_three(model: Path, tmp_path: Path, capsys: Capture) -> None:
    source = write_chips(tmp_path / "chips", counts=FEW)
    for path in source.rglob("*.png"):
        chip = np.concatenate([np.asarray(Image.open(path))] * 2, axis=2)[:, :, :4]
        path.with_suffix(".npy").write_bytes(npy(chip))
        path.unlink()
    out, recipe = tmp_path / "run", write_recipe(tmp_path / "r.yaml", recipe_values(source, model))
    refused(
        capsys,
        ["run", str(recipe), "--out", str(out)],
        "checks/000.npy has 4 bands",
        "takes 3",
        "backbone.name",
    )
    assert not (out / "adapters").exists() and not list(out.rglob(".*"))


def test_gray_chips_are_taken_by_a_model_of_three_bands(model: Path, tmp_path: Path) -> None:
    source = write_chips(tmp_path / "chips", counts=FEW)
    for path in (source / "rows").glob("*.png"):
        Image.open(path).convert("L").save(path)
    recipe = write_recipe(tmp_path / "r.yaml", recipe_values(source, model))
    out = tmp_path / "run"
    RunDir.create(out, resume=False, overwrite=False)
    recipe.rename(out / "recipe.yaml")
    for command in ("audit", "train-lora"):
        assert main([command, str(out)]) == 0
    assert json.loads((out / "audit" / "groups.json").read_text())["bands"] == {
        "3": "checks/000.png",
        "1": "rows/000.png",
    }


# --- sources --------------------------------------------------------------------------------------------------


def listed(*rows: str, header: str = "path,label,split", encoding: str = "utf-8") -> Callable[[Path], Path]:
    """Return what writes a list below chips; ``checks/000.png`` and others exist."""

    def write(folder: Path) -> Path:
        write_chips(folder, counts=FEW)
        path = folder / "list.csv"
        path.write_bytes("\n".join([header, *rows]).encode(encoding))
        return path

    return write


def folder_of(**counts: int) -> Callable[[Path], Path]:
    return lambda folder: write_chips(folder, counts=counts)


def splits_of(**counts: dict[str, int]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        for split, of_class in counts.items():
            write_chips(folder / split, counts=of_class)
        return folder

    return write


def linked_out(folder: Path) -> Path:
    secret = folder.parent / "secret.png"
    secret.write_bytes(GOOD)
    write_chips(folder, counts=FEW)
    (folder / "rows" / "link.png").symlink_to(secret)
    return folder


def linked_in_a_circle(folder: Path) -> Path:
    write_chips(folder, counts=FEW)
    (folder / "rows" / "link.png").symlink_to(folder / "rows" / "link.png")
    return folder


def list_with_a_link_out(folder: Path) -> Path:
    linked_out(folder)
    (folder / "list.csv").write_text("path,label\nrows/link.png,rows\n")
    return folder / "list.csv"


def not_utf8(folder: Path) -> Path:
    write_chips(folder, counts=FEW)
    os.mkdir(os.fsencode(folder) + b"/caf\xe9")  # noqa: PTH102
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9/a.png")).write_bytes(GOOD)
    return folder


def table(columns: dict[str, Any], names: list[str] | None = None) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        folder.mkdir()
        content = pa.table(columns)
        if names is not None:
            features = {"info": {"features": {"label": {"names": names}}}}
            content = content.replace_schema_metadata({"huggingface": json.dumps(features)})
        parquet.write_table(content, folder / "chips.parquet")
        return folder / "chips.parquet"

    return write


def bytes_at(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        folder.mkdir()
        (folder / name).write_bytes(content)
        return folder / name

    return write


def damaged_parquet(folder: Path) -> Path:
    path = table({"image": [GOOD] * 20, "label": [0, 1] * 10})(folder)
    path.write_bytes(path.read_bytes()[:-20])
    return path


SOURCES: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "nowhere": (lambda folder: folder, ("chips does not exist",)),
    "unknown format": (bytes_at("chips.xlsx", b"x"), ("chips.xlsx: unknown format", "give a folder")),
    "empty folder": (lambda folder: folder.mkdir() or folder, ("no class folders",)),  # type: ignore[func-returns-value]
    "folders without chips": (folder_of(a=0, b=0), ("no images", ".png")),
    "one class": (folder_of(checks=20), ("only one class (checks)", "at least two")),
    "a class absent from train": (
        splits_of(
            train={"checks": 9, "rows": 9}, val={"checks": 3, "rows": 3}, test={"checks": 3, "slope": 3}
        ),
        ("no training chip for 1 of 3 classes: slope", "leave the classes out"),
    ),
    "no test": (
        splits_of(train={"checks": 9, "rows": 9}, val={"checks": 3, "rows": 3}),
        ("no chip is in the split test", "mark chips"),
    ),
    "no train": (splits_of(test={"checks": 9, "rows": 9}), ("no chip is in the split train",)),
    "splits beside classes": (
        splits_of(train={"a": 0}, rows={"b": 0}),
        ("train is a split and rows is not",),
    ),
    "a link out of the folder": (linked_out, ("rows/link.png: a link that leads out",)),
    "a link in a circle": (linked_in_a_circle, ("rows/link.png: ", "link")),
    "names that are not UTF-8": (not_utf8, ("a.png: the name is not UTF-8", "rename")),
    "missing image": (listed("rows/none.png,rows,"), ("list.csv:2: rows/none.png does not exist", "restore")),
    "a path up": (listed("rows/000.png,a,", "../x.png,b,"), ("list.csv:3: ../x.png leaves the folder",)),
    "an absolute path": (listed("/etc/hostname,a,"), ("list.csv:2: /etc/hostname leaves the folder",)),
    "a listed link out": (list_with_a_link_out, ("list.csv:2: rows/link.png leaves the folder",)),
    "a repeated chip": (
        listed("rows/000.png,a,", "rows/../rows/000.png,b,"),
        ("list.csv:3: ", "list.csv:2"),
    ),
    "no label column": (
        listed("rows/000.png", header="path"),
        ("list.csv:1: the header must be path,label",),
    ),
    "no label": (listed("rows/000.png,,"), ("list.csv:2: the label is empty",)),
    "an unknown split": (
        listed("rows/000.png,a,dev"),
        ("list.csv:2: unknown split 'dev'", "train, val or test"),
    ),
    "too many cells": (
        listed("rows/000.png,a,b,train"),
        ("list.csv:2: 4 cells under a header of 3", "quote"),
    ),
    "no rows": (listed("", " "), ("list.csv: the list has no rows",)),
    "UTF-16": (listed("rows/000.png,a,", encoding="utf-16"), ("list.csv: not a readable list", "UTF-8")),
    "latin-1": (
        listed("rows/000.png,caf\xe9,", encoding="latin-1"),
        ("list.csv: not a readable list", "UTF-8"),
    ),
    "damaged Parquet": (damaged_parquet, ("chips.parquet: damaged or no Parquet file", "fetch")),
    "no Parquet": (bytes_at("chips.parquet", b"PAR1"), ("chips.parquet: damaged or no Parquet file",)),
    "no image column": (table({"label": [0, 1]}), ("chips.parquet: no column image", "found: label")),
    "images as text": (table({"image": ["a", "b"], "label": [0, 1]}), ("the column image is string",)),
    "a null image": (table({"image": [GOOD, None], "label": [0, 1]}), ("the image of row 1 is null",)),
    "a null label": (table({"image": [GOOD, GOOD], "label": [0, None]}), ("the label of row 1 is missing",)),
    "a label beyond the names": (
        table({"image": [GOOD, GOOD], "label": [0, 7]}, ["a", "b"]),
        ("label 7 of row 1 is none of the 2 classes",),
    ),
    "a label beyond counting": (
        table({"image": [GOOD], "label": pa.array([2**64 - 1], pa.uint64())}),
        ("is no class index",),
    ),
    "fractional labels": (table({"image": [GOOD], "label": [0.5]}), ("the column label is double",)),
}


@pytest.mark.parametrize("case", SOURCES)
def test_a_bad_source_stops_before_anything_is_written(
    case: str, model: Path, tmp_path: Path, capsys: Capture
) -> None:
    write, words = SOURCES[case]
    source = write(tmp_path / "chips")
    message = run_refused(capsys, tmp_path, recipe_values(source, model), *words)
    assert capsys.readouterr().err == ""
    assert refused(capsys, ["audit", str(source)], *words) == message


def test_lists_survive_byte_order_marks_and_empty_lines(tmp_path: Path, capsys: Capture) -> None:
    write_chips(tmp_path / "chips", counts=FEW)
    rows = [f"{name}/{i:03d}.png,{name}" for name, n in FEW.items() for i in range(n)]
    (tmp_path / "chips" / "list.csv").write_text("\ufeffPath,Label\r\n\r\n" + "\r\n".join(rows) + "\r\n\r\n")
    assert main(["audit", str(tmp_path / "chips" / "list.csv")]) == 0
    assert "checks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cluster": {"n_clusters": 99}}, ("cluster.n_clusters is 99", "only 17 training chips", "lower it")),
        (
            {"data": {"groups": "counts", "head_above": 5, "tail_below": 2}},
            ("no class is in the tail", "data.groups"),
        ),
        ({"data": {"groups": "names", "tail": ["boats"]}}, ("name the class boats", "checks, rows, slope")),
        ({"data": {"groups": "names", "head": ["rows"], "tail": ["rows"]}}, ("rows is in head and tail",)),
        (
            {"data": {"largest": 40, "imbalance_factor": 2}},
            ("the class ", "needs", "training chips and has", "lower the largest"),
        ),
        ({"data": {"val_per_class": 6}}, ("slope has 6 of 8", "data.ignore: [")),
        ({"data": {"format": "list"}}, ("is not a list file", "data.format")),
    ],
)
def test_settings_that_do_not_fit_the_data(
    change: dict[str, dict[str, Any]], words: tuple[str, ...], model: Path, tmp_path: Path, capsys: Capture
) -> None:
    values = recipe_values(write_chips(tmp_path / "chips", counts=FEW), model)
    for name, settings in change.items():
        values.setdefault(name, {}).update(settings)
    run_refused(capsys, tmp_path, values, *words)


# --- models ---------------------------------------------------------------------------------------------------


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def configured(**settings: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**values, **settings}))

    return change


def saying(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


MODELS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "pickled": (pickled, ("pytorch_model.bin is a pickle", "python -c", "save_file")),
    "no weights": (without("model.safetensors"), ("no weights at", "model.safetensors")),
    "no config": (without("config.json"), ("config.json is missing",)),
    "damaged config": (saying("config.json", "{"), ("config.json is not readable JSON",)),
    "a list as config": (saying("config.json", "[]"), ("config.json must hold a JSON object",)),
    "truncated weights": (cut, ("vit", "damaged")),
    "unknown type": (
        configured(model_type="perceptron"),
        ("cannot be loaded as a vision model (perceptron)",),
    ),
    "other shapes": (configured(hidden_size=32), ("vit", "cannot be loaded")),
    "other layers": (configured(num_hidden_layers=4), ("vit", "lack", "layer")),
    "size of text": (
        configured(image_size="big"),
        (
            "image_size",
            "'big'",
        ),
    ),
    "no spread": (
        saying("preprocessor_config.json", '{"image_std": [0, 0, 0]}'),
        ("preprocessor_config.json is damaged", "positive"),
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_bad_weights_are_named(case: str, tmp_path: Path, capsys: Capture) -> None:
    damage, words = MODELS[case]
    folder = write_vit(tmp_path / "vit")
    damage(folder)
    values = recipe_values(write_chips(tmp_path / "chips", counts=FEW), folder)
    out = tmp_path / "run"
    refused(capsys, ["run", str(write_recipe(tmp_path / "r.yaml", values)), "--out", str(out)], *words)
    assert not (out / "adapters").exists() and not list(out.rglob(".*"))


def test_weights_that_are_nowhere(tmp_path: Path, capsys: Capture) -> None:
    values = recipe_values(write_chips(tmp_path / "chips", counts=FEW), tmp_path / "nowhere")
    run_refused(capsys, tmp_path, values, "no weights at", "nowhere")


@pytest.mark.parametrize("setting", ["lora.targets=[nothing]", "mixed_precision=fp16"])
def test_settings_that_do_not_fit_the_model(
    setting: str, model: Path, tmp_path: Path, capsys: Capture
) -> None:
    if setting.startswith("mixed") and torch.cuda.is_available():
        pytest.skip("the machine has that precision")
    values = recipe_values(write_chips(tmp_path / "chips", counts=FEW), model)
    recipe, out = write_recipe(tmp_path / "r.yaml", values), tmp_path / "run"
    name = setting.split("=")[0].split(".")[-1].replace("_", " ")
    message = refused(capsys, ["run", str(recipe), "--out", str(out), f"--{setting}"])
    assert name in message.replace("_", " ")
    assert not list((out / "adapters").glob("lora*")) and not list(out.rglob(".*"))


def test_a_precision_that_a_cpu_lacks(model: Path, tmp_path: Path, capsys: Capture) -> None:
    if torch.cuda.is_available():
        pytest.skip("the machine has that precision")
    values = recipe_values(write_chips(tmp_path / "chips", counts=FEW), model)
    values["extract"] = {"precision": "fp16"}
    run_refused(capsys, tmp_path, values, "extraction in fp16 needs a GPU", "'no'")


def test_batches_too_small_for_the_processes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = recipe_values(write_chips(tmp_path / "chips", counts=FEW), model)
    monkeypatch.setattr("deblora.pipeline.classify.road.world_size", lambda: 5)
    with pytest.raises(RecipeError, match=r"train_batch_size is 4, but 5 processes share each batch"):
        check_inputs(recipe_from(values))


# --- recipes and the command line -----------------------------------------------------------------------------

RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "all problems at once": (
        "data: {source: x, sorce: y}\nlora: {rank: a, loss: focal}\nclutser: {}\ncluster: {rho: 0.5}\nseed: 1.5\n",
        (
            "did you mean data.source?",
            "lora.rank is 'a', expected int",
            "lora.loss is 'focal', expected one of cross_entropy",
            "did you mean cluster?",
            "cluster.rho is 0.5, allowed are 1",
            "seed is 1.5, expected int",
        ),
    ),
    "a list": ("- 1\n", ("must be a table of settings, not list",)),
    "empty": ("", ("must be a table of settings, not empty", "source")),
    "no YAML": ("data: {source: [", ("is not valid YAML", "line 1")),
    "an object": (
        "seed: !!python/object/apply:os.system ['touch pwned']\n",
        ("is not valid YAML", "python/object"),
    ),
    "too deep": ("seed: " + "[" * 600, ("nested too deeply",)),
    "too wide": (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        )
        + "seed: *i\n",
        ("seed is [[",),
    ),
    "a table is a number": ("data: 3\n", ("data must be a table of settings, got 3",)),
    "no source": ("seed: 1\n", ("data.source is not set",)),
    "no training chips": ("data: {source: x, val_fraction: 0.6, test_fraction: 0.5}\n", ("sum below 1",)),
    "groups overlap": (
        "data: {source: x, groups: counts, head_above: 5, tail_below: 9}\n",
        ("data.tail_below 9", "overlap"),
    ),
    "not a number": ("data: {source: x}\nlora: {learning_rate: .nan}\n", ("lora.learning_rate is nan",)),
}


@pytest.mark.parametrize("case", RECIPES)
def test_a_bad_recipe_is_refused_before_anything_is_done(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    text, words = RECIPES[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(text)
    message = refused(capsys, ["run", "recipe.yaml", "--out", "run"], *words)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
    assert len(message) < 3000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ("command", "see deblora --help")),
        (["rn"], ("rn", "see deblora --help")),
        (["run"], ("data.source is not set",)),
        (["run", "RECIPE"], ("--out is not set",)),
        (["run", "RECIPE", "--out"], ("--out", "see deblora run --help")),
        (["run", "RECIPE", "--out", "run", "--lora.rnak", "4"], ("did you mean lora.rank?",)),
        (["run", "RECIPE", "--out", "run", "--lora.rank", "four"], ("lora.rank is 'four', expected int",)),
        (["run", "RECIPE", "--out", "run", "--lora.rank"], ("lora.rank",)),
        (["run", "RECIPE", "--out", "run", "--lora.rank", "[", "--seed", "0"], ("lora.rank is '['",)),
        (["run", "RECIPE", "--out", "run", "--data.source", "nowhere"], ("nowhere does not exist",)),
        (["run", "RECIPE", "--out", "run", "--data.source=12"], ("12 does not exist",)),
        (["run", "RECIPE", "--out", "run", "--sed", "4"], ("--sed", "see deblora run --help")),
        (["run", "RECIPE", "--out", "run", "--cluster.n_cluster=4"], ("cluster.n_clusters?",)),
        (["run", "nowhere.yaml", "--out", "run"], ("nowhere.yaml does not exist",)),
        (["run", "RECIPE", "--out", "run", "--resume", "--overwrite"], ("give one of them",)),
        (["audit", "DATA", "--groups", "halves"], ("data.groups is 'halves', expected one of thirds",)),
        (["audit", "DATA", "--seed", "-1"], ("seed is -1, allowed are 0",)),
        (["demo", "--seed", "-1", "--out", "run"], ("seed is -1, allowed are 0",)),
        (["evaluate"], ("run_dir", "see deblora evaluate --help")),
        (["evaluate", "DATA"], ("is not a run folder", "deblora run")),
    ],
)
def test_a_bad_command_line(
    arguments: list[str],
    words: tuple[str, ...],
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.chdir(tmp_path)
    known = {"RECIPE": str(recipe), "DATA": str(recipe.parent / "toy")}
    refused(capsys, [known.get(argument, argument) for argument in arguments], *words)
    assert not list(tmp_path.iterdir())


def test_the_printed_recipe_is_one_that_runs(recipe: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["run", str(recipe), "--print-recipe", "--lora.rank", "4", "--lora.learning_rate=2e-3"]) == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["lora"]["rank"] == 4
    again = tmp_path / "again.yaml"
    as_people_write = text.replace("mixed_precision: 'no'", "mixed_precision: no")
    assert as_people_write != text
    again.write_text(as_people_write)
    assert main(["run", str(again), "--print-recipe"]) == 0
    assert capsys.readouterr().out == text


def test_a_process_ends_with_2_and_one_message(recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deblora", "run", str(recipe), "--out", str(tmp_path / "run")]
    done = subprocess.run([*command, "--lora.rank", "-1"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("deblora: ") and "lora.rank is -1, allowed are 1" in done.stderr
    assert not (tmp_path / "run").exists()


# --- output folders -------------------------------------------------------------------------------------------


def test_output_folders_that_cannot_be_used(recipe: Path, tmp_path: Path, capsys: Capture) -> None:
    file, foreign = tmp_path / "file", tmp_path / "foreign"
    file.write_text("mine")
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    toy = recipe.parent / "toy"
    for out, words in {
        file: ("file is a file", "name a folder"),
        file / "run": ("is a file", "name another folder"),
        foreign: ("not a deblora run", "choose another folder"),
        toy / "run": ("lies inside the data", "outside"),
    }.items():
        for flags in ([], ["--resume"], ["--overwrite"]):
            refused(capsys, ["run", str(recipe), "--out", str(out), *flags], *words)
    assert file.read_text() == (foreign / "thesis.txt").read_text() == "mine"
    assert sorted(path.name for path in toy.iterdir()) == ["checks", "rows", "slope"]


def test_a_folder_that_may_not_be_written(
    recipe: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def denied(path: str, *arguments: int) -> int:
        if Path(path).is_relative_to(tmp_path / "run"):
            raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "run"))
        return opened(path, *arguments)

    monkeypatch.setattr("os.open", denied)
    refused(
        capsys, ["run", str(recipe), "--out", str(tmp_path / "run")], "run: Permission denied", "permissions"
    )
    assert not list(tmp_path.rglob("*.*"))
