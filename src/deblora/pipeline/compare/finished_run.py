"""A finished run as the merged report reads it: every file is checked, and a message names what makes it again."""

import csv
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deblora.data.longtail import Groups
from deblora.errors import ArtifactError, RecipeError
from deblora.evaluate.seeds import Entry, Unit
from deblora.files import file_sha256
from deblora.pipeline.tables import as_number
from deblora.recipe.classify import Recipe, read_recipe, recipe_from
from deblora.report.content import DifferenceRow
from deblora.run.run_dir import RunDir

RESULT_COLUMNS = (
    "dataset",
    "backbone",
    "method",
    "probe",
    "metric",
    "group",
    "value",
    "ci_lower",
    "ci_upper",
    "n_classes",
    "n_test",
    "seed",
)
DIFFERENCE_COLUMNS = (
    "method",
    "probe",
    "baseline",
    "baseline_probe",
    "group",
    "value",
    "ci_lower",
    "ci_upper",
)
PREDICTION_COLUMNS = ("id", "true", "method", "probe", "predicted")


@dataclass(frozen=True)
class FinishedRun:
    """What the merged report needs of one run.

    Attributes:
        root: Its folder.
        name: How it is called in the report.
        unit: Data set, backbone and seed.
        recipe: Its settings.
        class_names: In label order.
        groups: Head, middle and tail classes.
        n_chips: Split -> chips.
        data_sha256: Hash of the chips, ids and splits.
        test_sha256: Hash of the ids and classes of the test chips.
        results: Lines of ``eval/results.csv``.
        scores: The same as numbers.
        verdicts: What the bootstrap over test chips says of each paired difference of macro F1.
    """

    root: Path
    name: str
    unit: Unit
    recipe: Recipe
    class_names: tuple[str, ...]
    groups: Groups
    n_chips: dict[str, int]
    data_sha256: str
    test_sha256: str
    results: tuple[dict[str, str], ...]
    scores: dict[Entry, float]
    verdicts: dict[tuple[Entry, tuple[str, str]], str]


def read_run(root: Path, name: str) -> FinishedRun:
    """Read recipe, groups, scores, differences and predictions of a run.

    Raises:
        ArtifactError: If the folder is no run, its probe is not finished, or a file is missing, damaged or changed.
    """
    run = RunDir.open(root)
    if not run.record("probe"):
        raise ArtifactError(
            f"the probe of {root} is not finished; finish the run with: deblora run RECIPE --out {root} --resume"
        )
    recipe = _recipe(run)
    frozen = _frozen(run)
    results = _table(run, "results.csv", RESULT_COLUMNS)
    unit = Unit(Path(recipe.data.source).name, recipe.backbone.name, recipe.seed)
    made_with = {(row["dataset"], row["backbone"], row["seed"]) for row in results}
    if made_with != {(unit.dataset, unit.backbone, str(unit.seed))}:
        raise ArtifactError(
            f"{run.recipe} does not belong to {run.evaluation('results.csv')} (other data set, backbone or seed); "
            f"go on with: deblora run RECIPE --out {root} --resume"
        )
    counts = {split: sum(values) for split, values in frozen["counts"].items()}
    return FinishedRun(
        root=root,
        name=name,
        unit=unit,
        recipe=recipe,
        class_names=tuple(frozen["class_names"]),
        groups=Groups(*(tuple(frozen["groups"][group]) for group in ("head", "middle", "tail"))),
        n_chips=counts,
        data_sha256=frozen["data_sha256"],
        test_sha256=_test_sha256(run, counts.get("test", 0)),
        results=results,
        scores=_scores(run, results),
        verdicts=_verdicts(run),
    )


def _damaged(path: Path, why: object, command: str) -> ArtifactError:
    return ArtifactError(f"{path} is damaged ({why}); delete it and make it again with: {command}")


def _need(run: RunDir, path: Path, stage: str, command: str) -> None:
    """Refuse a file that is absent, or that is no longer what its stage wrote."""
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; make it with: {command}")
    known = run.record(stage).get("outputs", {})
    digest = known.get(path.relative_to(run.root).as_posix()) if isinstance(known, dict) else None
    if digest is not None and digest != file_sha256(path):
        raise _damaged(path, f"it is not what {stage} wrote", command)


def _recipe(run: RunDir) -> Recipe:
    command = f"deblora run RECIPE --out {run.root} --resume"
    _need(run, run.recipe, "recipe", command)
    try:
        return recipe_from(read_recipe(run.recipe))
    except RecipeError as error:
        raise _damaged(run.recipe, error, command) from error


def _frozen(run: RunDir) -> dict[str, Any]:
    command = f"deblora audit {run.root}"
    _need(run, run.groups, "audit", command)
    try:
        frozen = json.loads(run.groups.read_text(encoding="utf-8"))
        names, members = frozen["class_names"], frozen["groups"]
        indices = [index for group in ("head", "middle", "tail") for index in members[group]]
        good = (
            all(isinstance(name, str) for name in names)
            and all(isinstance(index, int) and 0 <= index < len(names) for index in indices)
            and len(set(indices)) == len(indices)
            and all(len(values) == len(names) and sum(values) >= 0 for values in frozen["counts"].values())
            and isinstance(frozen["data_sha256"], str)
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(run.groups, f"{type(error).__name__}: {error}", command) from error
    if not good:
        raise _damaged(run.groups, "classes, groups and counts do not fit together", command)
    return dict(frozen)


def _table(run: RunDir, name: str, columns: tuple[str, ...]) -> tuple[dict[str, str], ...]:
    path, command = run.evaluation(name), f"deblora probe {run.root}"
    _need(run, path, "probe", command)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
            header = tuple(reader.fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        raise _damaged(path, error, command) from error
    missing = [column for column in columns if column not in header]
    if missing:
        raise _damaged(path, f"the column {missing[0]} is missing", command)
    if not rows:
        raise _damaged(path, "it has no rows", command)
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise _damaged(path, f"line {number} has another number of columns than the header", command)
    return tuple(rows)


def _number(path: Path, row: dict[str, str], key: str, command: str) -> float:
    try:
        return float(row[key]) if key == "value" else as_number(row[key])
    except ValueError as error:
        raise _damaged(path, f"{key} is {row[key]!r}, not a number", command) from error


def _scores(run: RunDir, results: tuple[dict[str, str], ...]) -> dict[Entry, float]:
    path, command = run.evaluation("results.csv"), f"deblora probe {run.root}"
    scores: dict[Entry, float] = {}
    for row in results:
        entry = Entry(row["method"], row["probe"], row["metric"], row["group"])
        value = _number(path, row, "value", command)
        if entry in scores:
            raise _damaged(path, f"{' '.join(entry)} stands twice", command)
        if not (math.isnan(value) or 0 <= value <= 1):
            raise _damaged(path, f"value is {value:g}, a score lies in 0..1", command)
        scores[entry] = value
    return scores


def _verdicts(run: RunDir) -> dict[tuple[Entry, tuple[str, str]], str]:
    path, command = run.evaluation("differences.csv"), f"deblora probe {run.root}"
    verdicts = {}
    for row in _table(run, "differences.csv", DIFFERENCE_COLUMNS):
        numbers = [_number(path, row, key, command) for key in ("value", "ci_lower", "ci_upper")]
        baseline = row["baseline"], row["baseline_probe"]
        found = DifferenceRow(row["method"], row["probe"], *baseline, row["group"], *numbers)
        if not math.isnan(found.value):
            verdicts[Entry(row["method"], row["probe"], "macro_f1", row["group"]), baseline] = found.verdict
    return verdicts


def _test_sha256(run: RunDir, n_test: int) -> str:
    """Hash ids and classes of the test chips, after checking that every probe predicted all of them."""
    path, command = run.evaluation("predictions.csv"), f"deblora probe {run.root}"
    true: dict[tuple[str, str], dict[str, str]] = {}
    for row in _table(run, "predictions.csv", PREDICTION_COLUMNS):
        true.setdefault((row["method"], row["probe"]), {})[row["id"]] = row["true"]
    first = next(iter(true.values()))
    for (method, probe), found in true.items():
        if found != first or len(found) != n_test:
            raise _damaged(path, f"{method} with {probe} does not cover the {n_test} test chips", command)
    return hashlib.sha256(json.dumps(sorted(first.items())).encode()).hexdigest()
