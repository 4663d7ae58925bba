"""Merge finished runs into one report: seeds become a spread, data sets and backbones stand side by side."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from deblora import __version__
from deblora.errors import ArtifactError
from deblora.evaluate.seeds import BASELINES, SpreadRow, studies, summarize_runs
from deblora.files import write_atomic
from deblora.pipeline.compare.finished_run import FinishedRun, read_run
from deblora.pipeline.compare.tables import shared_settings, summary_lines
from deblora.pipeline.tables import table
from deblora.recipe.classify import tables
from deblora.report.seeds_content import MergedContent, MergedRun, Study
from deblora.report.seeds_page import render_merged_markdown, render_merged_page


def check_comparable(runs: Sequence[FinishedRun]) -> None:
    """Check that runs of one data set and backbone differ in the seed only.

    Raises:
        ArtifactError: If settings, classes or numbers of chips differ, or a seed is there twice.
    """
    for own in by_study(runs).values():
        _check_settings(own)
        _check_data(own)
        for seed in dict.fromkeys(run.unit.seed for run in own):
            same = [str(run.root) for run in own if run.unit.seed == seed]
            if len(same) > 1:
                raise ArtifactError(
                    f"{' and '.join(same)} are the same run ({own[0].unit.dataset} on {own[0].unit.backbone}, seed "
                    f"{seed}); a seed counts once, keep one of them"
                )


def by_study(runs: Sequence[FinishedRun]) -> dict[tuple[str, str], list[FinishedRun]]:
    """Split runs by data set and backbone, in order of first appearance."""
    parts: dict[tuple[str, str], list[FinishedRun]] = {}
    for run in runs:
        parts.setdefault((run.unit.dataset, run.unit.backbone), []).append(run)
    return parts


def _check_settings(runs: Sequence[FinishedRun]) -> None:
    settings = [_settings(run) for run in runs]
    lines = []
    for key in settings[0]:
        holders: dict[str, list[str]] = {}
        for run, values in zip(runs, settings, strict=True):
            holders.setdefault(_shown(values[key]), []).append(run.name)
        if len(holders) > 1:
            values_in = [f"{value} in {' and '.join(names)}" for value, names in holders.items()]
            lines.append(f"  - {key}: {', '.join(values_in)}")
    if lines:
        raise ArtifactError(
            f"runs of {runs[0].unit.dataset} on {runs[0].unit.backbone} must differ in the seed only, but these "
            "settings differ:\n" + "\n".join(lines) + "\nmerge runs of one recipe, the others apart"
        )


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def _settings(run: FinishedRun) -> dict[str, Any]:
    """Return the dotted settings of a run without its seed; a source inside the run folder is named from there."""
    flat = dict(_flat(tables(run.recipe), ""))
    del flat["seed"]
    source = Path(run.recipe.data.source).resolve()
    if source.is_relative_to(run.root.resolve()):
        flat["data.source"] = f"(run folder)/{source.relative_to(run.root.resolve()).as_posix()}"
    return flat


def _flat(values: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return pairs


def _check_data(runs: Sequence[FinishedRun]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if run.class_names != first.class_names:
            odd = sorted(set(run.class_names) ^ set(first.class_names))
            what = f"the class {odd[0]} is in one only" if odd else "their order differs"
            raise ArtifactError(f"{first.name} and {run.name} have other classes ({what}); merge them apart")
        if run.n_chips != first.n_chips:
            raise ArtifactError(
                f"{first.name} and {run.name} have other numbers of chips ({first.n_chips} and {run.n_chips}); "
                "the data have changed between them, run one of them again"
            )


METRIC = "macro_f1"  # what the page shows; summary.csv holds all metrics
FILES = ("index.html", "report.md", "results.csv", "summary.csv")


def merge_runs(roots: Sequence[Path], out: Path) -> Path:
    """Write the report over several finished runs.

    Args:
        roots: Run folders. Those of one data set and backbone must share all settings but the seed.
        out: Folder for ``index.html``, ``report.md``, ``results.csv`` and ``summary.csv``; an earlier merged report
            in it is replaced.

    Returns:
        The page.

    Raises:
        ArtifactError: If a run is not finished, damaged or given twice, if runs cannot be compared, or if ``out``
            holds something else.
    """
    if not roots:
        raise ArtifactError("no run was given; name the folders of one or more finished runs")
    _check_out(out)
    runs = [read_run(root, name) for root, name in zip(roots, _names(roots), strict=True)]
    check_comparable(runs)
    content = _content(runs)
    scores = {run.unit: run.scores for run in runs}
    summary = [
        line
        for (dataset, backbone), part in studies(scores).items()
        for line in summary_lines({"dataset": dataset, "backbone": backbone}, summarize_runs(part), BASELINES)
    ]
    write_atomic(out / "index.html", render_merged_page(content))
    write_atomic(out / "report.md", render_merged_markdown(content))
    write_atomic(out / "results.csv", table([dict(row) for run in runs for row in run.results]))
    write_atomic(out / "summary.csv", table(summary))
    return out / "index.html"


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ArtifactError(f"{out} is a file; name a folder for the merged report")
    foreign = sorted(path.name for path in out.iterdir() if path.name not in FILES) if out.is_dir() else []
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


def _content(runs: Sequence[FinishedRun]) -> MergedContent:
    scores = {run.unit: run.scores for run in runs}
    named = {run.unit: run for run in runs}
    parts = [
        _study([named[unit] for unit in part], summarize_runs(part)) for part in studies(scores).values()
    ]
    datasets, backbones = (dict.fromkeys(values) for values in zip(*studies(scores), strict=True))
    return MergedContent(
        title=f"{', '.join(datasets)} on {', '.join(backbones)}",
        studies=tuple(parts),
        pooled=_shown_rows(summarize_runs(scores)),
        provenance={
            "deblora (merged with)": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": platform.machine(),
        },
        notes=tuple(_notes(runs)),
    )


def _study(runs: Sequence[FinishedRun], rows: Sequence[SpreadRow]) -> Study:
    verdicts = {
        key: tuple(run.verdicts[key] for run in runs if key in run.verdicts)
        for key in dict.fromkeys(key for run in runs for key in run.verdicts)
    }
    return Study(
        dataset=runs[0].unit.dataset,
        backbone=runs[0].unit.backbone,
        runs=tuple(
            MergedRun(
                name=run.name,
                unit=run.unit,
                data_sha256=run.data_sha256,
                group_sizes=(len(run.groups.head), len(run.groups.middle), len(run.groups.tail)),
                n_train=run.n_chips.get("train", 0),
                n_test=run.n_chips.get("test", 0),
            )
            for run in runs
        ),
        rows=_shown_rows(rows),
        verdicts=verdicts,
        recipe_yaml=yaml.safe_dump(shared_settings(runs[0].recipe), sort_keys=False),
    )


def _shown_rows(rows: Sequence[SpreadRow]) -> tuple[SpreadRow, ...]:
    return tuple(row for row in rows if row.entry.metric == METRIC)


def _notes(runs: Sequence[FinishedRun]) -> list[str]:
    notes = [
        "A run is the unit of pairing: methods are compared within a data set, backbone and seed.",
        "Spread is the standard deviation over seeds (n - 1). Intervals are 95 % t intervals of the mean over seeds; "
        "they may reach below 0 or above 100, are wide for few seeds, and lean on scores that are near normal.",
    ]
    for (dataset, backbone), own in by_study(runs).items():
        if len(own) < 2:
            notes.append(f"{dataset} on {backbone} has one seed: no spread can be given.")
            continue
        same_groups = len({run.groups for run in own}) == 1
        same_test = len({run.test_sha256 for run in own}) == 1
        notes.append(
            f"{dataset} on {backbone}: "
            + (
                "head, middle and tail are the same classes in every seed"
                if same_groups
                else "head, middle and tail are other classes in each seed, as the seed draws their order"
            )
            + (
                ", and the test chips have the same ids in every seed."
                if same_test
                else ", and the test chips differ between seeds."
            )
        )
    return notes
