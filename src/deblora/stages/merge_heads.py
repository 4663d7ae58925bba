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
from deblora.artifacts import write_atomic
from deblora.config import ROWS, Recipe
from deblora.errors import ArtifactError
from deblora.evaluate.seeds import Entry, SpreadRow, Unit, summarize_runs
from deblora.report.compare_content import CompareContent
from deblora.report.compare_page import render_comparison_markdown, render_comparison_page
from deblora.report.merged_content import MergedRun
from deblora.run_dir import RunDir
from deblora.stages.audit import table
from deblora.stages.finished_run import RESULT_COLUMNS
from deblora.stages.head_scores import BASELINES, FAIR, OURS, SEMI, STRONG, TRANSDUCTIVE
from deblora.stages.merge_classes import class_gains, class_gaps, mean_costs, separations
from deblora.stages.seed_tables import shared_settings, summary_lines
from deblora.stages.tables import Lines, read_lines

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
