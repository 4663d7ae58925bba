"""The command line: help is light, bad input gives one message and exit code 2."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from deblora import __version__
from deblora.cli.detect_commands import _values as detector_values
from deblora.cli.main import COMMANDS, main
from deblora.pipeline.classify.road import fit_to_data
from deblora.recipe.classify import MOST_USED, Recipe, recipe_from, tables


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom deblora.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'peft', 'sklearn', 'matplotlib', 'pydantic', 'tqdm'} & set(sys.modules)\n"
        "sys.exit(f'heavy imports: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train-deblora" in done.stdout


@pytest.mark.parametrize("command", [("run", "--help.all"), ("audit", "--help")])
def test_help_shows_every_setting_once(command: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(list(command))
    text = capsys.readouterr().out
    assert text.count("  --data.classes [list of str]") == 1


def test_help_of_run_is_short_and_names_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    def names(flag: str) -> set[str]:
        with pytest.raises(SystemExit) as stopped:
            main(["run", flag])
        assert stopped.value.code == 0
        return set(re.findall(r"^  --(\w+\.\w+)", capsys.readouterr().out, flags=re.MULTILINE))

    every = {
        f"{table}.{key}" for table, own in tables(Recipe()).items() if isinstance(own, dict) for key in own
    }
    assert names("--help.all") == every
    assert names("--help") == names("-h") == set(MOST_USED) - {"seed"} < every
    assert {name.split(".")[0] for name in MOST_USED if name != "seed"} == {
        name.split(".")[0] for name in every
    }


def test_a_list_is_given_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--data.source", "x", "--lora.targets+", "qkv", "--out", "y"]) == 2
    assert "lora.targets+ is not a setting; did you mean lora.targets?" in capsys.readouterr().err


def test_the_method_imports_without_torch() -> None:
    code = "import sys, deblora.debias as d\nd.SizeConstrainedKMeans\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def chips(tmp_path: Path) -> Path:
    for label, n in (("ship", 12), ("plane", 9), ("tank", 6)):
        for i in range(n):
            path = tmp_path / "chips" / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (16, 16), 10 * i).save(path)
    return tmp_path / "chips"


def test_audit_shows_the_long_tail(chips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(chips)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["ship", "head"]
    assert lines[3].split()[:2] == ["tank", "tail"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit", "nowhere"], "nowhere"),
        (["cluster", "nowhere"], "not a run folder"),
        (["merge", "nowhere", "--out", "merged"], "not a run folder"),
        (["run", "nowhere.yaml", "--out", "x"], "nowhere.yaml does not exist"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("deblora: ")
    assert not list(tmp_path.iterdir())


def test_unknown_recipe_keys_stop_before_anything_is_written(
    chips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"data:\n  source: {chips}\n  sorce: x\nlora:\n  rank: a\n")
    assert main(["run", str(recipe), "--out", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert "did you mean data.source" in message
    assert "lora.rank" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*name.split(), "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: deblora {name} ")


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"deblora {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit", "DATA", "--lora.rank", "4"], "--lora.rank has no part in this command"),
        (["demo", "--lora.rank", "4"], "--lora.rank has no part in this command"),
        (["run", "DATA", "--data.source", "other", "--out", "run"], "the data are given twice"),
        (["detect", "train", "DATA", "--out", "run"], "holds no train and val"),
        (["detect"], "no command is given; see deblora detect --help"),
        (["settings", "detection"], "see deblora settings --help"),
    ],
)
def test_what_a_command_does_not_take_is_refused(
    arguments: list[str], message: str, chips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(chips) if word == "DATA" else word for word in arguments]) == 2
    assert message in capsys.readouterr().err


def test_audit_takes_a_recipe(chips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"data: {{source: {chips}, groups: shots}}\n")
    assert main(["audit", str(recipe)]) == 0
    of_recipe = capsys.readouterr().out
    assert main(["audit", str(chips), "--data.groups", "shots"]) == 0
    assert capsys.readouterr().out == of_recipe


def test_only_the_default_number_of_clusters_follows_the_data(chips: Path) -> None:
    values = {"data": {"source": str(chips)}}
    fitted, note = fit_to_data(recipe_from(values))
    assert fitted.cluster.n_clusters == 2 and "lowered from its default 32 to 2" in note
    few = recipe_from({**values, "cluster": {"n_clusters": 2}})
    assert fit_to_data(few) == (few, "")


def test_a_folder_with_splits_is_data_of_a_detector(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "val.zip").touch()
    values = detector_values(str(tmp_path), {"method.name": "ecm"})
    assert values == {
        "data": {"train": str(tmp_path / "train"), "val": str(tmp_path / "val.zip")},
        "method": {"name": "ecm"},
    }


@pytest.mark.parametrize("recipe", ["classify", "detect"])
def test_the_schema_names_every_setting(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", recipe, "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["additionalProperties"] is False
    assert all(
        field["description"] for table in schema["$defs"].values() for field in table["properties"].values()
    )


def test_the_help_of_a_command_needs_neither_scipy_nor_torch() -> None:
    code = (
        "import sys\nfrom deblora.cli.main import main\n"
        "try:\n    main(['run', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'scipy', 'torch', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["cluster {}", "predict {} chips --out out"])
def test_a_run_of_detection_is_sent_to_its_commands(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text('{"stages": {}}')
    (tmp_path / "recipe.yaml").write_text("head: {}\n")
    assert main(command.format(tmp_path).split()) == 2
    assert "is a run of detection; its commands begin with deblora detect" in capsys.readouterr().err


def test_quiet_has_a_short_form() -> None:
    assert COMMANDS["audit"].parse(["-q", "chips"]).quiet
    assert COMMANDS["run"].parse(["chips", "-q", "--seed", "3"]).quiet
