"""Damaged, foreign and interrupted runs through the command line: one message, exit code 2, and a way on."""

import csv
import errno
import html
import json
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from pyarrow import parquet
from safetensors import safe_open
from safetensors.numpy import load_file

from builders import draw, recipe_values, write_chips, write_recipe, write_vit
from deblora.cli.main import main
from deblora.run.artifacts import save_arrays

Capture = pytest.CaptureFixture[str]


def refused(capsys: Capture, arguments: list[str], *words: str) -> str:
    """Run a command that must fail with one message; return the message."""
    capsys.readouterr()
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    start = f"\n{errors}".rfind("\ndeblora: ")
    assert start >= 0, errors
    assert "Traceback" not in errors
    for word in words:
        assert word in errors[start:], errors
    return errors[start:]


def files_of(run: Path) -> dict[str, bytes]:
    """Return every file of a run but its log and what a training that goes on needs."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name != "run.log" and "checkpoints" not in path.parts
    }


# --- artifacts ------------------------------------------------------------------------------------------------


def arrays(name: str, change: Callable[[dict[str, np.ndarray], dict[str, str], list[str]], None]):
    """Return what changes a safetensors file into another valid one."""

    def damage(run: Path) -> None:
        path = run / name
        with safe_open(path, framework="np") as file:
            arrays = {key: file.get_tensor(key) for key in list(file.keys())}
            about = json.loads(file.metadata()["deblora"])
        change(arrays, about["notes"], about["ids"])
        save_arrays(path, arrays, about["notes"], about["ids"])

    return damage


def value(key: str, number: float) -> Callable[..., None]:
    def change(found: dict[str, np.ndarray], notes: object, ids: object) -> None:
        found[key] = found[key].copy()
        found[key].reshape(-1)[3 if found[key].size > 3 else 0] = number

    return change


def without(key: str) -> Callable[..., None]:
    return lambda found, *_: found.pop(key) is None


def renamed(found: object, notes: object, ids: list[str]) -> None:
    ids[:] = [f"other/{chip_id}" for chip_id in ids]


def text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        path = run / name
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new, 1))

    return damage


def cut(name: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[: len(content) // 2])

    return damage


def gone(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).unlink()


LORA, CLUSTERS = "features/lora.safetensors", "clusters/clusters.safetensors"
SAMPLES, GROUPS = "audit/samples.csv", "audit/groups.json"
DAMAGE: dict[str, tuple[str, Callable[[Path], None], tuple[str, ...]]] = {
    "nan features": (
        "cluster",
        arrays(LORA, value("features", np.nan)),
        (LORA, "NaN", "checks/000.png", "again"),
    ),
    "infinite features": (
        "evaluate",
        arrays("features/base.safetensors", value("features", np.inf)),
        ("base", "NaN"),
    ),
    "features of another run": (
        "cluster",
        arrays(LORA, renamed),
        ("40 chips have no features", "run extract"),
    ),
    "no features": ("cluster", arrays(LORA, without("features")), (LORA, "features is missing")),
    "truncated features": ("evaluate", cut(LORA), (LORA, "is damaged", "run its stage again")),
    "absent features": ("cluster", gone(LORA), ("cluster needs", LORA, "run the stages before it")),
    "clusters beyond": ("center", arrays(CLUSTERS, value("assignments", 99)), (CLUSTERS, "beyond its 4")),
    "clusters of others": ("center", arrays(CLUSTERS, renamed), ("have no cluster", "run cluster again")),
    "clusters without size": (
        "center",
        arrays(CLUSTERS, lambda _, notes, *__: notes.pop("min_size") is None),
        (CLUSTERS, "min_size"),
    ),
    "nan centers": (
        "calibrate",
        arrays("centers/deblora.safetensors", value("centers", np.nan)),
        ("centers/deblora.safetensors", "row 0"),
    ),
    "nan targets": (
        "train-deblora",
        arrays("calibration/deblora.safetensors", value("features", np.nan)),
        ("calibration/deblora.safetensors", "NaN"),
    ),
    "damaged manifest": ("cluster", cut("run.json"), ("run.json is damaged", "--overwrite")),
    "a manifest of words": (
        "cluster",
        lambda run: (run / "run.json").write_text('{"stages": {"cluster": 3}}') and None,
        ("run.json is damaged",),
    ),
    "damaged groups": ("cluster", cut(GROUPS), (GROUPS, "is damaged", "deblora audit")),
    "groups without a class": ("center", text(GROUPS, '"slope"', '"slope", "x"'), (GROUPS, "disagree")),
    "a renamed class": (
        "cluster",
        text(SAMPLES, ",checks,", ",chekcs,"),
        (SAMPLES, "line 2", "deblora audit"),
    ),
    "a new split": ("cluster", text(SAMPLES, ",train\n", ",dev\n"), (SAMPLES, "a known class and a split")),
    "a repeated line": (
        "cluster",
        text(SAMPLES, "checks/001.png", "checks/000.png"),
        (SAMPLES, "line 3 repeats checks/000.png"),
    ),
    "an unknown chip": (
        "cluster",
        text(SAMPLES, "checks/001.png", "checks/x.png"),
        ("1 chips have no features", "checks/x.png", "run extract"),
    ),
    "no header": ("cluster", text(SAMPLES, "id,label,split", "a,b,c"), (SAMPLES, "is damaged")),
    "no chips": (
        "cluster",
        lambda run: (run / SAMPLES).write_text("id,label,split\n") and None,
        (SAMPLES, "no chip"),
    ),
    "samples of bytes": (
        "cluster",
        lambda run: (run / SAMPLES).write_bytes(b"\xff\xfe") and None,
        (SAMPLES,),
    ),
    "damaged recipe": ("cluster", text("recipe.yaml", "cluster:", "clutser:"), ("did you mean cluster?",)),
    "no recipe": ("cluster", gone("recipe.yaml"), ("recipe.yaml cannot be read",)),
    "damaged results": (
        "report",
        text("eval/scores.csv", "macro_f1", "macro_f1,,"),
        ("scores.csv is damaged",),
    ),
    "damaged predictions": (
        "report",
        text("eval/predictions.csv", ",checks\n", ",x\n"),
        ("predictions.csv is",),
    ),
    "no predictions": (
        "report",
        lambda run: (run / "eval" / "predictions.csv").write_text("id,true\n") and None,
        ("predictions.csv is damaged", "the column method is missing", "make it again with"),
    ),
    "damaged history": ("report", text("adapters/lora.history.csv", "step", "stop"), ("lora.history.csv",)),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_run_says_what_to_do(case: str, run: Path, capsys: Capture) -> None:
    stage, damage, words = DAMAGE[case]
    damage(run)
    before = files_of(run)
    refused(capsys, [stage, str(run)], *words)
    assert files_of(run) == before


# --- adapters -------------------------------------------------------------------------------------------------

WEIGHTS, CONFIG, SIDECAR = (
    f"adapters/lora/{name}" for name in ("adapter_model.safetensors", "adapter_config.json", "base.json")
)


def foreign(run: Path) -> None:
    """What plain peft leaves: no sidecar."""
    from peft import LoraConfig, get_peft_model
    from transformers import ViTModel

    base = yaml.safe_load((run / "recipe.yaml").read_text())["backbone"]["path"]
    shutil.rmtree(run / "adapters" / "lora")
    model = get_peft_model(
        ViTModel.from_pretrained(base, add_pooling_layer=False), LoraConfig(r=2, target_modules=["fc1"])
    )
    model.save_pretrained(run / "adapters" / "lora")


def of_another_base(run: Path) -> None:
    """The run's adapter, but the base under the same path has other weights."""
    sidecar = json.loads((run / SIDECAR).read_text())
    (run / SIDECAR).write_text(json.dumps({**sidecar, "weights_sha256": "0" * 64}))


def pickled(run: Path) -> None:
    weights = {key: torch.from_numpy(array) for key, array in load_file(run / WEIGHTS).items()}
    torch.save(weights, run / "adapters" / "lora" / "adapter_model.bin")
    (run / WEIGHTS).unlink()


def fewer_weights(run: Path) -> None:
    from safetensors.numpy import save_file

    found = load_file(run / WEIGHTS)
    found.pop(sorted(found)[0])
    save_file(found, run / WEIGHTS)


def other_weights(run: Path) -> None:
    from safetensors.numpy import save_file

    save_file(
        {**load_file(run / WEIGHTS), "elsewhere.lora_A.weight": np.zeros((2, 16), np.float32)}, run / WEIGHTS
    )


def other_shapes(run: Path) -> None:
    from safetensors.numpy import save_file

    save_file({key: np.zeros((5, 5), np.float32) for key in load_file(run / WEIGHTS)}, run / WEIGHTS)


def nowhere(run: Path) -> None:
    config = json.loads((run / CONFIG).read_text())
    (run / CONFIG).write_text(json.dumps({**config, "target_modules": ["nowhere"]}))


def code(run: Path) -> None:
    (run / WEIGHTS).write_bytes(pickle.dumps({"a": 1}))


def changed_weights(change: Callable[[str, np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        from safetensors.numpy import save_file

        save_file({key: change(key, array) for key, array in load_file(run / WEIGHTS).items()}, run / WEIGHTS)

    return damage


ADAPTERS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "foreign": (foreign, ("is not an adapter of deblora", "base.json is missing", "train it with deblora")),
    "another base": (of_another_base, ("belongs to another model", "weights_sha256")),
    "pickled": (pickled, ("adapter_model.bin is a pickle", "weights_only=True", "save_file")),
    "pickle inside": (code, (WEIGHTS, "damaged")),
    "truncated": (cut(WEIGHTS), (WEIGHTS, "damaged", "train the adapter again")),
    "fewer weights": (fewer_weights, ("lacks 1 weights", "train it again")),
    "other weights": (other_weights, ("elsewhere",)),
    "other shapes": (other_shapes, ("does not fit the model",)),
    "damaged config": (cut(CONFIG), ("adapter_config.json is missing or damaged",)),
    "a list as config": (lambda run: (run / CONFIG).write_text("[]") and None, ("must hold a JSON object",)),
    "damaged sidecar": (cut(SIDECAR), ("base.json is missing or damaged",)),
    "unknown modules": (nowhere, ("does not fit the model",)),
    "another alpha": (
        text(CONFIG, '"lora_alpha": 2', '"lora_alpha": 4'),
        ("is not the file that was saved",),
    ),
    "zero B": (
        changed_weights(lambda key, array: array * ("lora_A" in key)),
        ("every lora_B is zero", "train it again"),
    ),
    "a weight of NaN": (changed_weights(lambda _, array: array + np.nan), ("holds NaN", "lora_A")),
    "other values": (changed_weights(lambda _, array: array * 2), ("is not the file that was saved",)),
    "rank of text": (text(CONFIG, '"r": 2', '"r": "two"'), ("does not fit the model",)),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_a_wrong_adapter_is_refused(case: str, run: Path, capsys: Capture) -> None:
    damage, words = ADAPTERS[case]
    damage(run)
    before = files_of(run)
    refused(capsys, ["extract", str(run)], *words)
    assert files_of(run) == before


def test_a_residual_map_that_is_damaged(finished: Path, run: Path, capsys: Capture) -> None:
    values = yaml.safe_load((run / "recipe.yaml").read_text())
    values["deblora"]["placement"] = "residual-mlp"
    (run / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert main(["train-deblora", str(run)]) == 0
    assert [path.name for path in (run / "adapters" / "deblora").iterdir()] == ["residual.safetensors"]
    trained = (run / "adapters" / "deblora" / "residual.safetensors").read_bytes()
    values["deblora"]["placement"] = "residual"
    (run / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert main(["train-deblora", str(run)]) == 0
    (run / "adapters" / "deblora" / "residual.safetensors").write_bytes(trained)
    refused(
        capsys, ["extract", str(run)], "of deblora.placement residual-mlp, but", "run train-deblora again"
    )
    cut("adapters/deblora/residual.safetensors")(run)
    refused(capsys, ["extract", str(run)], "residual.safetensors is damaged", "run train-deblora again")


# --- sources that change under a run --------------------------------------------------------------------------


def test_a_source_that_disappears(run: Path, tmp_path: Path, capsys: Capture) -> None:
    toy = write_chips(tmp_path / "toy")
    values = yaml.safe_load((run / "recipe.yaml").read_text())
    values["data"]["source"] = str(toy)
    (run / "recipe.yaml").write_text(yaml.safe_dump(values))
    (toy / "slope" / "000.png").unlink()
    (run / "features" / "lora.safetensors").unlink()
    refused(capsys, ["extract", str(run)], "1 chips of the run", "first: slope/000.png", "restore")
    shutil.rmtree(toy)
    before = files_of(run)
    for arguments in (
        ["extract", str(run)],
        ["run", str(run / "recipe.yaml"), "--out", str(run), "--resume"],
    ):
        refused(capsys, arguments, "toy does not exist", "the folder or file of your chips")
    assert files_of(run) == before


def test_overwrite_never_deletes_its_own_data(run: Path, capsys: Capture) -> None:
    values = yaml.safe_load((run / "recipe.yaml").read_text())
    write_chips(run / "chips")
    values["data"]["source"] = str(run / "chips")
    write_recipe(run / "recipe.yaml", values)
    before = files_of(run)
    refused(capsys, ["run", str(run / "recipe.yaml"), "--out", str(run), "--overwrite"], "chips lies inside")
    assert files_of(run) == before


def test_overwrite_deletes_nothing_for_data_that_cannot_be_used(
    recipe: Path, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    before = files_of(run)
    bad = ["--data.source", str(tmp_path / "nowhere")]
    refused(capsys, ["run", str(recipe), "--out", str(run), "--overwrite", *bad], "nowhere does not exist")
    assert files_of(run) == before


# --- full disks and interrupts --------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["cluster", "scores", "train-deblora"])
def test_a_full_disk_leaves_no_half_file(
    stage: str, run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = files_of(run)
    records = json.loads((run / "run.json").read_text())
    records["stages"].pop(stage)  # as if it had never run
    command = {"scores": "evaluate"}.get(stage, stage)
    (run / "run.json").write_text(json.dumps(records))
    before = files_of(run)

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        refused(
            capsys, [command, str(run)], "No space left on device", "free space, then give the command again"
        )
    assert files_of(run) == before and not [path for path in run.rglob(".*") if path.is_file()]
    assert main([command, str(run)]) == 0
    after = {name: content for name, content in files_of(run).items() if name != "run.json"}
    grown = ("eval/", "report/") if command == "evaluate" else ()  # it adds methods to the tables of the run
    same = {name: content for name, content in finished.items() if not name.startswith(("run.json", *grown))}
    assert {name: after[name] for name in same} == same


def test_a_limit_of_the_system_ends_a_training_with_a_message(run: Path, capsys: Capture) -> None:
    values = yaml.safe_load((run / "recipe.yaml").read_text())
    values["lora"].update(checkpointing_steps=2, learning_rate=1e-3)
    write_recipe(run / "recipe.yaml", values)
    before = (run / WEIGHTS).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))
    try:
        refused(capsys, ["train-lora", str(run)], "a checkpoint cannot be written", "free space")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (run / WEIGHTS).read_bytes() == before and not list((run / "adapters").glob(".*"))
    assert main(["train-lora", str(run)]) == 0
    assert (run / WEIGHTS).read_bytes() != before


def test_an_interrupt_ends_with_130_and_the_run_goes_on(
    recipe: Path, finished: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    for name in ("clusters", "centers", "calibration"):
        shutil.rmtree(run / name)

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("deblora.pipeline.classify.cluster.cluster_features", interrupted)
        assert main(["run", str(recipe), "--out", str(run), "--resume"]) == 130
    assert "--resume" in capsys.readouterr().err
    assert not (run / "clusters").exists() and not list(run.rglob(".*"))
    assert main(["run", str(recipe), "--out", str(run), "--resume"]) == 0
    for name in ("eval/scores.csv", "eval/predictions.csv", CLUSTERS):
        assert (run / name).read_bytes() == (finished / name).read_bytes()


def test_damaged_checkpoints_are_passed_over(run: Path, finished: Path) -> None:
    records = json.loads((run / "run.json").read_text())
    key = records["stages"].pop("train-lora")["fingerprint"]
    (run / "run.json").write_text(json.dumps(records))
    checkpoint = run / "checkpoints" / "lora" / "checkpoint-4"
    checkpoint.mkdir(parents=True)
    (checkpoint.parent / "fingerprint").write_text(key)
    (checkpoint / "trainer_state.json").write_text("{}")
    (checkpoint / "trainable.safetensors").write_bytes(b"half")
    assert main(["train-lora", str(run)]) == 0
    assert (run / WEIGHTS).read_bytes() == (finished / WEIGHTS).read_bytes()


# --- names ----------------------------------------------------------------------------------------------------

NAMES = (
    'comma, "quote"',
    "new\nline\r",
    "<script>alert('x')</script>",
    "$\\frac{a}{b}$ | _x_ `y`",
    "\u8239\u8236 \u0441\u0443\u0434\u043d\u043e",
    "long " * 60,
)


def test_odd_class_names_survive_to_predictions_and_page(tmp_path: Path) -> None:
    import io

    from PIL import Image

    rng = np.random.default_rng(0)
    images, labels = [], []
    for label in range(len(NAMES)):
        for _ in range(12 - label):
            stream = io.BytesIO()
            Image.fromarray(draw(("checks", "rows", "slope")[label % 3], rng)).save(stream, "PNG")
            images.append(stream.getvalue())
            labels.append(label)
    features = {"info": {"features": {"label": {"names": list(NAMES)}}}}
    table = pa.table({"image": images, "label": labels})
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    parquet.write_table(table, tmp_path / "<b>chips.parquet")
    values = recipe_values(tmp_path / "<b>chips.parquet", write_vit(tmp_path / "vit"))
    recipe, out = write_recipe(tmp_path / "recipe.yaml", values), tmp_path / "run"
    assert main(["run", str(recipe), "--out", str(out)]) == 0
    for name, column in (
        ("eval/predictions.csv", "true"),
        (SAMPLES, "label"),
        ("audit/class_counts.csv", "class"),
    ):
        with (out / name).open(encoding="utf-8", newline="") as file:
            assert {row[column] for row in csv.DictReader(file)} == set(NAMES)
    page = (out / "report" / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page and "<b>chips" not in page
    shown = html.unescape(page)
    for name in (NAMES[0], NAMES[2], NAMES[3], NAMES[4], NAMES[5].strip()[:20]):
        assert name in shown
