"""One table over the seeds of a comparison: what each seed's heads scored, paired seed by seed."""

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from deblora import __version__
from deblora.errors import ArtifactError
from deblora.evaluate.metrics import per_class_f1
from deblora.evaluate.seeds import Entry, Spread, SpreadRow, Unit, summarize_runs
from deblora.files import write_atomic
from deblora.pipeline.classify.evaluate.costs import costs_of
from deblora.pipeline.classify.evaluate.mismatch import (
    MISMATCH,
    MISMATCH_COLUMNS,
    SEPARATION,
    SEPARATION_COLUMNS,
)
from deblora.pipeline.classify.evaluate.scores import BASELINES, FAIR, OURS, SEMI, STRONG, TRANSDUCTIVE
from deblora.pipeline.compare.finished_run import PREDICTION_COLUMNS, RESULT_COLUMNS
from deblora.pipeline.tables import Lines, read_lines, table
from deblora.recipe.classify import ROWS, Recipe, tables
from deblora.report.compare_page import render_comparison_markdown, render_comparison_page
from deblora.report.seeds_content import ClassGain, ClassGap, CompareContent, CostRow, MergedRun
from deblora.run.run_dir import RunDir


def summary_lines(
    names: Mapping[str, object], rows: Sequence[SpreadRow], baselines: Sequence[tuple[str, str]]
) -> list[dict[str, object]]:
    """Return one line per row with its spread and its paired difference to every baseline."""
    lines = []
    for row in rows:
        line: dict[str, object] = {**names, **row.entry._asdict(), "n_seeds": row.spread.n}
        line.update(_columns("", row.spread))
        for baseline in baselines:
            prefix = f"minus_{'_'.join(baseline)}_"
            found = row.against.get(baseline)
            line.update(_columns(prefix, found.spread if found else Spread(0, *(math.nan,) * 4)))
            line[f"{prefix}n_wins"] = found.n_wins if found else 0
            line[f"{prefix}n_ties"] = found.n_ties if found else 0
            line[f"{prefix}n"] = found.spread.n if found else 0
        lines.append(line)
    return lines


def _columns(prefix: str, spread: Spread) -> dict[str, float]:
    return {
        f"{prefix}mean": spread.mean,
        f"{prefix}sd": spread.sd,
        f"{prefix}ci_lower": spread.ci_lower,
        f"{prefix}ci_upper": spread.ci_upper,
    }


def shared_settings(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a recipe without its seed, paths cut to their last part."""
    values = {key: value for key, value in tables(recipe).items() if key != "seed"}
    values["data"]["source"] = Path(values["data"]["source"]).name
    if values["backbone"]["path"]:
        values["backbone"]["path"] = Path(values["backbone"]["path"]).name
    return values


Runs = Sequence[tuple[RunDir, Recipe]]
Name = tuple[str, str]
NUMBERS = ("gap", "chance", "train_scatter", "test_scatter")


def class_gaps(runs: Runs) -> tuple[ClassGap, ...]:
    """Return mean gap and scatter per method and class rank, over seeds.

    A seed draws other rare classes, so classes are averaged by their rank in the order of training chips, and named
    where all seeds agree.

    Raises:
        ArtifactError: If a table is missing or damaged.
    """
    found: dict[tuple[str, int], list[dict[str, str]]] = {}
    for run, _ in runs:
        by_method: dict[str, list[dict[str, str]]] = {}
        for line in read_lines(run, MISMATCH, MISMATCH_COLUMNS):
            by_method.setdefault(line["method"], []).append(line)
        for method, lines in by_method.items():
            ordered = sorted(lines, key=lambda line: (-int(line["n_train"]), line["class"]))
            for rank, line in enumerate(ordered):
                found.setdefault((method, rank), []).append(line)
    return tuple(
        ClassGap(
            method=method,
            label=_label([line["class"] for line in lines], rank),
            group=_common([line["group"] for line in lines]),
            **{key: _mean([float(line[key]) for line in lines]) for key in NUMBERS},
        )
        for (method, rank), lines in found.items()
    )


def class_gains(runs: Runs, pairs: Sequence[tuple[Name, Name]]) -> tuple[ClassGain, ...]:
    """Return the gain of F1 per class rank, mean over seeds, of each row over its baseline.

    Args:
        runs: Finished runs.
        pairs: Row and baseline, each a method and a head; pairs that a run lacks are left out.

    Raises:
        ArtifactError: If a table is missing or damaged.
    """
    found: dict[tuple[Name, Name, int], list[tuple[str, str, float]]] = {}
    for run, _ in runs:
        scores, names, groups, counts = _scores(run)
        order = sorted(range(len(names)), key=lambda c: (-counts[c], names[c]))
        for row, baseline in pairs:
            if row not in scores or baseline not in scores:
                continue
            for rank, c in enumerate(order):
                gain = float(scores[row][c] - scores[baseline][c])
                found.setdefault((row, baseline, rank), []).append((names[c], groups[c], gain))
    return tuple(
        ClassGain(
            row=row,
            baseline=baseline,
            label=_label([name for name, _, _ in own], rank),
            group=_common([group for _, group, _ in own]),
            gains=tuple(gain for _, _, gain in own),
        )
        for (row, baseline, rank), own in found.items()
    )


def separations(runs: Runs) -> dict[tuple[str, str], dict[str, float]]:
    """Return mean distances over seeds by method and split.

    Raises:
        ArtifactError: If a table is missing or damaged.
    """
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for run, _ in runs:
        for line in read_lines(run, SEPARATION, SEPARATION_COLUMNS):
            own = found.setdefault((line["method"], line["split"]), {})
            own.setdefault(line["metric"], []).append(float(line["value"]))
    return {key: {metric: _mean(values) for metric, values in own.items()} for key, own in found.items()}


def mean_costs(runs: Runs) -> tuple[CostRow, ...]:
    """Return the costs of every row, means over seeds; a value that a seed lacks is NaN.

    Raises:
        ArtifactError: If a file of a row is damaged.
    """
    found: dict[str, list[Mapping[str, object]]] = {}
    for run, recipe in runs:
        for line in costs_of(run, recipe):
            found.setdefault(str(line["method"]), []).append(line)
    return tuple(
        CostRow(
            method,
            {
                key: float(np.mean([_number(line[key]) for line in lines]))
                for key in lines[0]
                if key != "method"
            },
        )
        for method, lines in found.items()
    )


def _scores(
    run: RunDir,
) -> tuple[dict[Name, np.ndarray], list[str], list[str], list[int]]:
    """Return F1 per class by row, and name, group and training chips of the classes."""
    frozen = json.loads(run.groups.read_text(encoding="utf-8"))
    names, counts = list(frozen["class_names"]), list(frozen["counts"]["train"])
    groups = [""] * len(names)
    for group, members in frozen["groups"].items():
        for c in members:
            groups[c] = group
    index = {name: c for c, name in enumerate(names)}
    pairs: dict[Name, tuple[list[int], list[int]]] = {}
    try:
        for line in read_lines(run, "heads_predictions.csv", PREDICTION_COLUMNS):
            true, guessed = pairs.setdefault((line["method"], line["probe"]), ([], []))
            true.append(index[line["true"]])
            guessed.append(index[line["predicted"]])
    except KeyError as error:
        path = run.evaluation("heads_predictions.csv")
        raise ArtifactError(
            f"{path} is damaged (no class is called {error}); run deblora heads again"
        ) from error
    scores = {
        name: per_class_f1(np.array(true), np.array(guessed), len(names))
        for name, (true, guessed) in pairs.items()
    }
    return scores, names, groups, counts


def _label(names: Sequence[str], rank: int) -> str:
    return names[0] if len(set(names)) == 1 else f"class {rank + 1} by count"


def _common(groups: Sequence[str]) -> str:
    return max(dict.fromkeys(groups), key=list(groups).count)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


__all__ = ["machine", "merge_heads", "merged_run", "read_lines", "scores_of"]

CHOICE_COLUMNS = ("method", "probe", "choice", "value")
PLAIN, BALANCED = ("lora", "cross_entropy"), ("lora", "balanced_softmax")
GAINS = (
    (("deblora", "cross_entropy"), PLAIN),
    (("deblora", "balanced_softmax"), BALANCED),
    (("shift-kernel", "balanced_softmax"), BALANCED),
)
"""Rows whose gain is drawn class by class: debLoRA with both probes, and the shift."""


def merge_heads(runs: Sequence[tuple[RunDir, Recipe]], out: Path) -> None:
    """Write ``index.html``, ``report.md``, ``results.csv``, ``summary.csv`` and ``results.json``.

    Args:
        runs: Run folders whose heads are scored, with their recipes, which differ in the seed only.
        out: Folder for the files.

    Raises:
        ArtifactError: If a table of a run is missing or damaged.
    """
    lines = [read_lines(run, "heads.csv", RESULT_COLUMNS) for run, _ in runs]
    units = [Unit(Path(recipe.data.source).name, recipe.backbone.name, recipe.seed) for _, recipe in runs]
    scores = {
        unit: scores_of(run.evaluation("heads.csv"), own)
        for unit, own, (run, _) in zip(units, lines, runs, strict=True)
    }
    rows = summarize_runs(scores, baselines=BASELINES)
    frozen = [json.loads(run.groups.read_text(encoding="utf-8")) for run, _ in runs]
    content = _content(runs, units, frozen, rows)
    write_atomic(out / "index.html", render_comparison_page(content))
    write_atomic(out / "report.md", render_comparison_markdown(content))
    write_atomic(out / "results.csv", table([dict(line) for own in lines for line in own]))
    names = {"dataset": units[0].dataset, "backbone": units[0].backbone}
    write_atomic(out / "summary.csv", table(summary_lines(names, rows, BASELINES)))
    write_atomic(out / "results.json", json.dumps(_provenance(content), indent=1))


def scores_of(path: Path, lines: Lines) -> dict[Entry, float]:
    """Return the values of result lines by what they belong to.

    Raises:
        ArtifactError: If a value is no number.
    """
    try:
        return {
            Entry(line["method"], line["probe"], line["metric"], line["group"]): float(line["value"])
            for line in lines
        }
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged ({error}); delete it and run its stage again") from error


def machine() -> dict[str, str]:
    """Return versions and the kind of machine, without its name."""
    return {
        "deblora": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def merged_run(unit: Unit, name: str, frozen: Mapping[str, Any]) -> MergedRun:
    """Return what the page says of one run, from what its audit froze."""
    return MergedRun(
        name=name,
        unit=unit,
        data_sha256=frozen["data_sha256"],
        group_sizes=tuple(len(frozen["groups"][group]) for group in ("head", "middle", "tail")),  # type: ignore[arg-type]
        n_train=sum(frozen["counts"]["train"]),
        n_test=sum(frozen["counts"]["test"]),
    )


def _content(
    runs: Sequence[tuple[RunDir, Recipe]],
    units: Sequence[Unit],
    frozen: Sequence[Mapping[str, Any]],
    rows: tuple[SpreadRow, ...],
) -> CompareContent:
    choices = [read_lines(run, "heads_choices.csv", CHOICE_COLUMNS) for run, _ in runs]
    stages: dict[str, list[float]] = {}
    for run, _ in runs:
        for stage, record in run.manifest()["stages"].items():
            stages.setdefault(stage, []).append(float(record["seconds"]))
    return CompareContent(
        title=f"{units[0].dataset} on {units[0].backbone}: all heads",
        dataset=units[0].dataset,
        backbone=units[0].backbone,
        runs=tuple(
            merged_run(unit, run.root.name, own)
            for unit, own, (run, _) in zip(units, frozen, runs, strict=True)
        ),
        rows=rows,
        strong=STRONG,
        ours=FAIR if _choice(choices[0], FAIR, "row") else OURS,
        baselines=BASELINES,
        chosen={
            name: tuple(_choice(own, name, "row") for own in choices)
            for name in (STRONG, OURS, SEMI, TRANSDUCTIVE, FAIR)
            if any(_choice(own, name, "row") for own in choices)
        },
        n_trials={
            (line["method"], line["probe"]): int(float(line["value"]))
            for line in choices[0]
            if line["choice"] == "n_trials"
        },
        seconds={stage: sum(values) / len(values) for stage, values in stages.items()},
        costs=mean_costs(runs),
        separation=separations(runs),
        gaps=class_gaps(runs),
        gains=class_gains(runs, GAINS),
        recipe_yaml=yaml.safe_dump(shared_settings(runs[0][1]), sort_keys=False),
        provenance=machine(),
        notes=(*_notes(), *(_ROW_NOTES if any(row.entry.method in ROWS for row in rows) else ())),
    )


def _choice(lines: Lines, name: tuple[str, str], choice: str) -> str:
    return next(
        (
            line["value"]
            for line in lines
            if (line["method"], line["probe"]) == name and line["choice"] == choice
        ),
        "",
    )


_ROW_NOTES = (
    "Rows with their own training take as many optimizer steps as the first adapter unless the recipe says otherwise; "
    "clora takes them for each class. Their learning rates are fixed, not chosen on validation.",
    "The features of clora are means over the adapters of all classes, for every chip; the adapter of the true class, "
    "as in the authors' scripts, would show the model the answer.",
    "own_logits are those of a classifier trained together with the extractor; SADE's experts have equal weights.",
    "self-trained also learns from soft labels of the validation chips, made from features alone; its validation "
    "scores are no evidence.",
)


def _notes() -> tuple[str, ...]:
    return (
        "Rows are compared within a seed; a seed draws the long tail, the split, the adapter and the clusters.",
        "Intervals are t intervals of the mean over seeds: wide for few seeds, and they lean on near-normal scores.",
        "Every head may try the same number of settings on validation; the test chips are read once, after all "
        "choices.",
        "With a free bias, balanced softmax and logit adjustment with tau = 1 have the same optimum on fixed "
        "features; they differ here in which penalties and strengths are tried.",
        "Semi-supervised rows are also fitted to the validation chips without their labels, transductive rows to the "
        "test chips without theirs; all others but self-trained see training chips only, and validation for their "
        "settings.",
        "The row ours is the strong head that validation chose or the semi-supervised head, whichever is better on "
        "validation chips that it did not see.",
        "On fixed features cRT is re-weighting by inverse frequency.",
    )


def _provenance(content: CompareContent) -> dict[str, Any]:
    """Return what ``docs/results.md`` says of the numbers beside them."""
    return {
        "dataset": content.dataset,
        "backbone": content.backbone,
        "seeds": list(content.seeds),
        "data_sha256": {str(run.unit.seed): run.data_sha256 for run in content.runs},
        "n_train": {str(run.unit.seed): run.n_train for run in content.runs},
        "n_test": {str(run.unit.seed): run.n_test for run in content.runs},
        "chosen": {" ".join(name): list(rows) for name, rows in content.chosen.items()},
        "seconds": dict(content.seconds),
        "costs": {row.method: _plain(row.values) for row in content.costs},
        "recipe": yaml.safe_load(content.recipe_yaml),
        **dict(content.provenance),
    }


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return values as JSON knows them; one that was not measured is null."""
    return {key: None if math.isnan(value) else value for key, value in values.items()}
