"""One report over several finished runs: seeds become a spread, data sets and backbones stand side by side.

``deblora merge`` reads runs that are finished, ``deblora compare`` those it has just made.
"""

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from deblora import __version__
from deblora.errors import ArtifactError, RecipeError
from deblora.files import file_sha256, is_leftover, remove_leftovers, write_atomic
from deblora.pipeline import tables as csv_tables
from deblora.pipeline.classify.evaluate.costs import costs_of
from deblora.pipeline.classify.evaluate.mismatch import MISMATCH, SEPARATION
from deblora.pipeline.compare.over_seeds import (
    BALANCED,
    PLAIN,
    STUDY,
    baselines_in,
    by_rank,
    class_gains,
    mean_scores,
    paired_differences,
    summary_table,
)
from deblora.pipeline.tables import NAME, damaged, only, read_table
from deblora.recipe.classify import Recipe, read_recipe, recipe_from, tables
from deblora.recipe.methods import SAYS
from deblora.report.page import render_html, render_markdown
from deblora.report.sections import FOCUS, SEEDS, Report, report_page
from deblora.report.tables import PAIR, WORDS, verdict
from deblora.run.run_dir import RunDir

FILES = ("index.html", "report.md", "results.csv", "summary.csv", "results.json")
GAINS = (
    (("deblora", "cross_entropy"), PLAIN),
    (("deblora", "balanced_softmax"), BALANCED),
    (("shift", "balanced_softmax"), BALANCED),
)
"""Methods whose gain is drawn class by class: debLoRA with both probes, and the shift."""
EVALUATION = ("scores.csv", "differences.csv", "predictions.csv", "choices.csv")
"""Tables of scores, differences, predictions and choices."""


@dataclass(frozen=True)
class FinishedRun:
    """What a report over seeds needs of one run.

    Attributes:
        run: Its folder.
        name: How it is called in the report.
        recipe: Its settings.
        frozen: What the audit fixed: ``class_names``, ``groups``, ``counts`` by split, ``data_sha256``.
        scores: Table of scores.
        differences: Paired differences of this run alone.
        predictions: Of the test chips.
        choices: What validation chose.
    """

    run: RunDir
    name: str
    recipe: Recipe
    frozen: Mapping[str, Any]
    scores: pd.DataFrame
    differences: pd.DataFrame
    predictions: pd.DataFrame
    choices: pd.DataFrame

    @property
    def study(self) -> tuple[str, str]:
        """Data set and backbone."""
        return Path(self.recipe.data.source).name, self.recipe.backbone.name

    @property
    def n_chips(self) -> dict[str, int]:
        """Split -> chips."""
        return {split: sum(values) for split, values in self.frozen["counts"].items()}

    @property
    def test_sha256(self) -> str:
        """Hash of the ids and classes of the test chips."""
        first = next(iter(self.predictions.groupby(NAME, sort=False)))[1]
        return hashlib.sha256(
            json.dumps(sorted(zip(first["id"], first["true"], strict=True))).encode()
        ).hexdigest()

    def classes(self) -> pd.DataFrame:
        """Return class, group, training chips and rank of the classes, from the most to the least frequent."""
        names, counts = self.frozen["class_names"], self.frozen["counts"]["train"]
        groups = {c: group for group, members in self.frozen["groups"].items() for c in members}
        order = sorted(range(len(names)), key=lambda c: (-counts[c], names[c]))
        rows = [(names[c], groups.get(c, ""), counts[c], rank) for rank, c in enumerate(order)]
        return pd.DataFrame(rows, columns=["class", "group", "train", "rank"])


def merge_runs(roots: Sequence[Path], out: Path) -> Path:
    """Write the report over several finished runs.

    Args:
        roots: Run folders. Those of one data set and backbone must share all settings but the seed.
        out: Folder for the files; an earlier merged report in it is replaced.

    Returns:
        The page.

    Raises:
        ArtifactError: If a run is not finished, damaged or given twice, if runs cannot be compared, or if
            ``out`` holds something else.
    """
    if not roots:
        raise ArtifactError("no run was given; name the folders of one or more finished runs")
    _check_out(out)
    runs = [read_run(root, name) for root, name in zip(roots, _names(roots), strict=True)]
    check_comparable(runs)
    return write_report(runs, out)


def write_report(runs: Sequence[FinishedRun], out: Path) -> Path:
    """Write ``index.html``, ``report.md``, ``results.csv``, ``summary.csv`` and ``results.json`` over runs.

    Returns:
        The page.
    """
    order = list(dict.fromkeys(run.study for run in runs))
    runs = sorted(runs, key=lambda run: (order.index(run.study), run.recipe.seed))
    results = pd.concat([run.scores for run in runs], ignore_index=True)
    baselines = baselines_in(results)
    alone = pd.concat(
        [
            run.differences.assign(dataset=run.study[0], backbone=run.study[1], seed=run.recipe.seed)
            for run in runs
        ],
        ignore_index=True,
    )
    means, differences = mean_scores(results), paired_differences(results, baselines, alone=alone)
    report = _report(runs, results, means, differences)
    page = report_page(report, SEEDS)
    remove_leftovers(out, deep=False)
    write_atomic(out / "index.html", render_html(page))
    write_atomic(out / "report.md", render_markdown(page))
    write_atomic(out / "results.csv", results.to_csv(index=False, lineterminator="\n"))
    write_atomic(
        out / "summary.csv", summary_table(means, differences).to_csv(index=False, lineterminator="\n")
    )
    write_atomic(out / "results.json", json.dumps(_origin(runs, report), indent=1))
    return out / "index.html"


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ArtifactError(f"{out} is a file; name a folder for the merged report")
    found = [path for path in out.iterdir() if not is_leftover(path)] if out.is_dir() else []
    foreign = sorted(path.name for path in found if path.name not in FILES)
    if foreign:
        raise ArtifactError(
            f"{out} holds {foreign[0]}, which is no part of a merged report; choose another folder"
        )


def _names(roots: Sequence[Path]) -> list[str]:
    """Name runs by their folder; where two have the same name, by the folder above it as well."""
    places = [root.resolve() for root in roots]
    last = [place.name for place in places]
    return [
        name if last.count(name) == 1 else "/".join(place.parts[-2:])
        for name, place in zip(last, places, strict=True)
    ]


def read_run(root: Path, name: str) -> FinishedRun:
    """Read what the report needs of a run; every file is checked, and a message names what makes it again.

    Args:
        root: Folder of the run.
        name: How the report calls it.

    Raises:
        ArtifactError: If the folder is no run, its evaluation is not finished, or a file is missing, damaged
            or changed.
    """
    run = RunDir.open(root)
    if not run.record("scores"):
        again = f"deblora run RECIPE --out {root} --resume"
        raise ArtifactError(f"the evaluation of {root} is not finished; finish the run with: {again}")
    recipe, frozen = _recipe(run), _frozen(run)
    schemas = (csv_tables.SCORES, csv_tables.DIFFERENCES, csv_tables.PREDICTIONS, csv_tables.CHOICES)
    paths = [run.evaluation(file) for file in EVALUATION]
    command = f"deblora evaluate {root}"
    found = []
    for path, columns in zip(paths, schemas, strict=True):
        _check_unchanged(run, path, "scores", command)
        text = ["value"] if columns is csv_tables.CHOICES else []
        found.append(read_table(path, columns, command=command, text=text))
    finished = FinishedRun(run, name, recipe, frozen, *found)
    _check_scores(finished, paths[0], command)
    _check_predictions(finished, paths[2], command)
    return finished


def _check_unchanged(run: RunDir, path: Path, stage: str, command: str) -> None:
    """Refuse a file that is absent, or that is no longer what its stage wrote."""
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; make it with: {command}")
    known = run.record(stage).get("outputs", {})
    digest = known.get(path.relative_to(run.root).as_posix()) if isinstance(known, dict) else None
    if digest is not None and digest != file_sha256(path):
        raise damaged(path, f"it is not what {stage} wrote", command)


def _recipe(run: RunDir) -> Recipe:
    command = f"deblora run RECIPE --out {run.root} --resume"
    _check_unchanged(run, run.recipe, "recipe", command)
    try:
        return recipe_from(read_recipe(run.recipe))
    except RecipeError as error:
        raise damaged(run.recipe, error, command) from error


def _frozen(run: RunDir) -> dict[str, Any]:
    command = f"deblora audit {run.root}"
    _check_unchanged(run, run.groups, "audit", command)
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
        raise damaged(run.groups, f"{type(error).__name__}: {error}", command) from error
    if not good:
        raise damaged(run.groups, "classes, groups and counts do not fit together", command)
    return dict(frozen)


def _check_scores(run: FinishedRun, path: Path, command: str) -> None:
    scores, made_by = run.scores, (*run.study, run.recipe.seed)
    if set(scores[["dataset", "backbone", "seed"]].itertuples(index=False, name=None)) != {made_by}:
        raise ArtifactError(
            f"{run.run.recipe} does not belong to {path} (other data set, backbone or seed); go on with: "
            f"deblora run RECIPE --out {run.run.root} --resume"
        )
    twice = scores[scores.duplicated([*NAME, "metric", "group"])]
    if len(twice):
        raise damaged(path, f"{' '.join(twice.iloc[0][[*NAME, 'metric', 'group']])} stands twice", command)
    wrong = scores["value"][(scores["value"] < 0) | (scores["value"] > 1)]
    if len(wrong):
        raise damaged(path, f"value is {wrong.iloc[0]:g}, a score lies in 0..1", command)


def _check_predictions(run: FinishedRun, path: Path, command: str) -> None:
    """Check that every classifier predicted all test chips."""
    first: dict[str, str] | None = None
    n_test = run.n_chips.get("test", 0)
    for (method, classifier), own in run.predictions.groupby(NAME, sort=False):
        true = dict(zip(own["id"], own["true"], strict=True))
        first = true if first is None else first
        if true != first or len(own) != n_test:
            raise damaged(path, f"{method} with {classifier} does not cover the {n_test} test chips", command)


def check_comparable(runs: Sequence[FinishedRun]) -> None:
    """Check that runs of one data set and backbone differ in the seed only.

    Raises:
        ArtifactError: If settings, classes or numbers of chips differ, or a seed is there twice.
    """
    for study in dict.fromkeys(run.study for run in runs):
        own = [run for run in runs if run.study == study]
        _check_settings(own)
        _check_data(own)
        for seed in dict.fromkeys(run.recipe.seed for run in own):
            same = [str(run.run.root) for run in own if run.recipe.seed == seed]
            if len(same) > 1:
                raise ArtifactError(
                    f"{' and '.join(same)} are the same run ({' on '.join(study)}, seed {seed}); a seed "
                    "counts once, keep one of them"
                )


def _check_settings(runs: Sequence[FinishedRun]) -> None:
    settings = [_settings(run) for run in runs]
    lines = []
    for key in settings[0]:
        holders: dict[str, list[str]] = {}
        for run, values in zip(runs, settings, strict=True):
            shown = "null" if values[key] is None else str(values[key])
            holders.setdefault(shown, []).append(run.name)
        if len(holders) > 1:
            values_in = [f"{value} in {' and '.join(names)}" for value, names in holders.items()]
            lines.append(f"  - {key}: {', '.join(values_in)}")
    if lines:
        raise ArtifactError(
            f"runs of {' on '.join(runs[0].study)} must differ in the seed only, but these settings differ:\n"
            + "\n".join(lines)
            + "\nmerge runs of one recipe, the others apart"
        )


def _settings(run: FinishedRun) -> dict[str, Any]:
    """Return the dotted settings of a run without its seed; a source inside the run folder is named from there."""
    flat = dict(_flat(tables(run.recipe), ""))
    del flat["seed"]
    source, root = Path(run.recipe.data.source).resolve(), run.run.root.resolve()
    if source.is_relative_to(root):
        flat["data.source"] = f"(run folder)/{source.relative_to(root).as_posix()}"
    return flat


def _flat(values: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return pairs


def _check_data(runs: Sequence[FinishedRun]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if run.frozen["class_names"] != first.frozen["class_names"]:
            odd = sorted(set(run.frozen["class_names"]) ^ set(first.frozen["class_names"]))
            what = f"the class {odd[0]} is in one only" if odd else "their order differs"
            raise ArtifactError(f"{first.name} and {run.name} have other classes ({what}); merge them apart")
        if run.n_chips != first.n_chips:
            raise ArtifactError(
                f"{first.name} and {run.name} have other numbers of chips ({first.n_chips} and "
                f"{run.n_chips}); the data have changed between them, run one of them again"
            )


def _report(
    runs: Sequence[FinishedRun], results: pd.DataFrame, means: pd.DataFrame, differences: pd.DataFrame
) -> Report:
    studies = list(dict.fromkeys(run.study for run in runs))
    own = only(differences, metric="macro_f1")
    found = {"scores": means, "differences": own.assign(alone=_alone(runs, own)), "runs": _run_table(runs)}
    if len(studies) > 1:
        every = only(results, metric="macro_f1")
        found["pooled"] = paired_differences(every, baselines_in(results), by=())
    else:
        found |= _details(runs)
    names = " and ".join(" on ".join(study) for study in studies)
    sizes = (
        " / ".join(str(len(run.frozen["groups"][g])) for g in ("head", "middle", "tail")) for run in runs
    )
    recipes = [
        "\n".join(
            [*([f"# {' on '.join(study)}"] * (len(studies) > 1)), yaml.safe_dump(values, sort_keys=False)]
        )
        for study, values in {run.study: shared_settings(run.recipe) for run in runs}.items()
    ]
    return Report(
        title=names,
        facts={
            "Runs": str(len(runs)),
            "Seeds": ", ".join(dict.fromkeys(str(run.recipe.seed) for run in runs)),
            "Head / middle / tail": ", ".join(dict.fromkeys(sizes)),
        },
        tables=found,
        recipe_yaml="\n".join(recipes),
        provenance=machine(),
        notes=_notes(runs),
        says=SAYS,
    )


def _alone(runs: Sequence[FinishedRun], differences: pd.DataFrame) -> list[str]:
    """Return what each run says of a difference by its own bootstrap over test chips, in words."""
    words: dict[tuple[Any, ...], list[str]] = {}
    for run in runs:
        for row in run.differences.to_dict("records"):
            key = (*run.study, *(row[name] for name in [*PAIR, "group"]))
            words.setdefault(key, []).append(WORDS[verdict(row)])
    keys = differences[[*STUDY, *PAIR, "group"]].itertuples(index=False, name=None)
    found = [words.get(key, []) for key in keys]
    return [
        ", ".join(f"{own.count(word)} {word}" for word in WORDS.values() if word in own) or "-"
        for own in found
    ]


def _run_table(runs: Sequence[FinishedRun]) -> pd.DataFrame:
    rows = [
        {
            "Run": run.name,
            "Data set": run.study[0],
            "Backbone": run.study[1],
            "Data sha256": run.frozen["data_sha256"][:16],
            "Seed": run.recipe.seed,
            "Train": run.n_chips.get("train", 0),
            "Test": run.n_chips.get("test", 0),
        }
        for run in runs
    ]
    return pd.DataFrame(rows)


def _details(runs: Sequence[FinishedRun]) -> dict[str, pd.DataFrame]:
    """Return what the page shows of one data set and backbone beside the scores, as far as it is there."""
    gains = [class_gains(run.predictions, run.classes(), GAINS) for run in runs]
    found = {"gains": by_rank(gains, PAIR), "costs": mean_costs(runs), "choices": _choices(runs)}
    seconds = [
        {"stage": stage, "seconds": float(record["seconds"])}
        for run in runs
        for stage, record in run.run.manifest()["stages"].items()
    ]
    found["timings"] = pd.DataFrame(seconds).groupby("stage", sort=False, as_index=False).mean()
    if all(run.run.evaluation(MISMATCH).is_file() for run in runs):
        found["mismatch"] = _mismatch(runs)
        distances = [_read(run, SEPARATION, csv_tables.SEPARATION) for run in runs]
        keys = ["method", "split", "metric"]
        found["separation"] = pd.concat(distances).groupby(keys, sort=False, as_index=False)["value"].mean()
    return {name: own for name, own in found.items() if len(own)}


def _read(run: FinishedRun, file: str, columns: Sequence[str]) -> pd.DataFrame:
    return read_table(run.run.evaluation(file), columns, command=f"deblora evaluate {run.run.root}")


def _mismatch(runs: Sequence[FinishedRun]) -> pd.DataFrame:
    parts = []
    for run in runs:
        found = _read(run, MISMATCH, csv_tables.MISMATCH)
        parts.append(found.merge(run.classes()[["class", "rank"]], on="class").sort_values("rank"))
    found = by_rank(parts, ["method"])
    numbers = ["gap", "chance", "train_scatter", "test_scatter"]
    return found.groupby(["method", "class", "group", "rank"], sort=False, as_index=False)[numbers].mean()


def mean_costs(runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """Return the costs of every method, means over seeds; a value that a seed lacks is NaN.

    Raises:
        ArtifactError: If a file of a method is damaged.
    """
    lines = [line for run in runs for line in costs_of(run.run, run.recipe)]
    if not lines:
        return pd.DataFrame()
    found = pd.DataFrame(lines).set_index("method").apply(pd.to_numeric, errors="coerce")
    return found.groupby(level=0, sort=False).agg(lambda own: own.mean(skipna=False)).reset_index()


def _choices(runs: Sequence[FinishedRun]) -> pd.DataFrame:
    parts = [run.choices.assign(seed=f"seed {run.recipe.seed}") for run in runs]
    found = pd.concat(parts).drop_duplicates([*NAME, "choice", "seed"])
    order = list(dict.fromkeys(found["seed"]))
    wide = found.pivot(index=[*NAME, "choice"], columns="seed", values="value")[order]
    keys = found[[*NAME, "choice"]].drop_duplicates().itertuples(index=False, name=None)
    return wide.reindex(list(keys)).reset_index()


def shared_settings(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a recipe without its seed, paths cut to their last part."""
    values = {key: value for key, value in tables(recipe).items() if key != "seed"}
    values["data"]["source"] = Path(values["data"]["source"]).name
    if values["backbone"]["path"]:
        values["backbone"]["path"] = Path(values["backbone"]["path"]).name
    return values


def machine() -> dict[str, str]:
    """Return versions and the kind of machine, without its name."""
    return {
        "deblora": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def _origin(runs: Sequence[FinishedRun], report: Report) -> dict[str, Any]:
    """Return what ``docs/results.md`` says of the numbers beside them."""
    costs = report.table("costs")
    named = {} if costs.empty else json.loads(costs.set_index("method").to_json(orient="index"))
    seconds = report.table("timings")
    return {
        "studies": [
            {
                "dataset": study[0],
                "backbone": study[1],
                "seeds": [run.recipe.seed for run in runs if run.study == study],
                "data_sha256": {
                    str(run.recipe.seed): run.frozen["data_sha256"] for run in runs if run.study == study
                },
                "n_chips": next(run.n_chips for run in runs if run.study == study),
                "recipe": next(shared_settings(run.recipe) for run in runs if run.study == study),
            }
            for study in dict.fromkeys(run.study for run in runs)
        ],
        "chosen": _derived(report.table("choices")),
        "costs": named,
        "seconds": {} if seconds.empty else dict(zip(seconds["stage"], seconds["seconds"], strict=True)),
        **machine(),
    }


def _derived(choices: pd.DataFrame) -> list[dict[str, str]]:
    """Return what stands behind the methods that validation derives from others, by seed."""
    if not len(choices):
        return []
    behind = choices["method"].isin(FOCUS) & (choices["choice"] == "chosen")
    return list(choices[behind].to_dict("records"))


def _notes(runs: Sequence[FinishedRun]) -> list[str]:
    notes = [
        "Methods are compared within a run; a seed draws the long tail, the split, the adapter and the "
        "clusters.",
        "Intervals are 95 % t intervals of the mean over seeds: wide for few seeds, and they lean on "
        "scores that are near normal.",
        "Settings are chosen on validation; the test chips are read once, after all choices.",
        "Semi-supervised methods are also fitted to the validation chips without their labels, "
        "transductive ones to the test chips without theirs; all others but self-trained see training "
        "chips only, and validation for their settings.",
        "On fixed features cRT is re-weighting by inverse frequency.",
    ]
    for study in dict.fromkeys(run.study for run in runs):
        own, name = [run for run in runs if run.study == study], " on ".join(study)
        if len(own) < 2:
            notes.append(f"{name} has one seed: no spread can be given.")
            continue
        same_groups = all(run.frozen["groups"] == own[0].frozen["groups"] for run in own)
        same_test = len({run.test_sha256 for run in own}) == 1
        groups = (
            "head, middle and tail are the same classes in every seed"
            if same_groups
            else "head, middle and tail are other classes in each seed, as the seed draws their order"
        )
        test = (
            "the test chips have the same ids in every seed"
            if same_test
            else "the test chips differ between seeds"
        )
        notes.append(f"{name}: {groups}, and {test}.")
    return notes
