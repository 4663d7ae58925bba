"""``deblora detect compare``: one table over finished runs, mean and spread over seeds."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deblora.errors import ArtifactError
from deblora.pipeline.detect import model
from deblora.pipeline.detect.runs import evaluation_path, open_run, read_facts
from deblora.recipe.detect import METHODS, NO_ADAPTER, DetectionRecipe
from deblora.report.detection_page import table_lines
from deblora.report.tables import Cell, Table, percent

GROUPS = ("head", "middle", "tail", "all")


@dataclass(frozen=True)
class Row:
    """One method of the table.

    Attributes:
        method: With backbone and adapter.
        n_extractor: Parameters of the extractor.
        n_trained: Those that were trained.
        scores: mAP50 (VOC07) per group, one value per seed.
        seeds: Of the runs.
    """

    method: str
    n_extractor: int
    n_trained: int
    scores: dict[str, list[float]]
    seeds: tuple[int, ...]


def compare_runs(folders: Sequence[Path]) -> tuple[str, list[Row]]:
    """Collect runs that can be compared: same data, classes, groups and protocol.

    The test split is taken if every run was tested, else validation.

    Returns:
        What was compared in words, and the rows in the order of the paper's table.

    Raises:
        ArtifactError: If a run is not finished or they cannot be compared; names it.
    """
    runs = [open_run(folder) for folder in folders]
    split = "test" if all(evaluation_path(run, "test").is_file() for run, _ in runs) else "val"
    found: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    first: Any = None
    for run, recipe in runs:
        path = evaluation_path(run, split)
        if not path.is_file() or not model.facts_path(run).is_file():
            raise ArtifactError(f"{run.root} is not finished; go on with deblora detect train --resume")
        summary, facts = read_facts(path), read_facts(model.facts_path(run))
        ground = _ground(summary)
        if first is None:
            first = ground
        elif ground != first:
            raise ArtifactError(
                f"{run.root} was judged on other images, classes, groups or another protocol than {runs[0][0].root}; "
                "compare runs of the same data"
            )
        found.setdefault(method_name(recipe, facts), []).append((summary, facts))
    rows = [_row(name, entries) for name, entries in found.items()]
    order: dict[str, int] = {name: i for i, name in enumerate(METHODS)}
    rows.sort(key=lambda row: order.get(row.method.split(",")[0], len(order)))
    protocol, n_images = first["protocol"], first["n_images"]
    return f"mAP50 (VOC07) in percent, {protocol}, {n_images} merged {split} images", rows


def comparison_table(rows: Sequence[Row]) -> Table:
    """Return the table: parameters, groups (mean over seeds, with least and largest value), seeds."""
    return Table(
        ("method", "seeds", "params (M)", "trained (M)", *GROUPS),
        tuple(
            (
                Cell(row.method, style="name"),
                Cell(", ".join(map(str, row.seeds))),
                Cell(f"{row.n_extractor / 1e6:.2f}"),
                Cell(f"{row.n_trained / 1e6:.2f}"),
                *(_score(row.scores[group]) for group in GROUPS),
            )
            for row in rows
        ),
        2,
    )


def comparison_lines(folders: Sequence[Path]) -> list[str]:
    """Return the comparison as Markdown."""
    title, rows = compare_runs(folders)
    return [
        title,
        "(mean over seeds; in brackets the least and the largest)",
        "",
        *table_lines(comparison_table(rows)),
    ]


def _row(name: str, entries: list[tuple[dict[str, Any], dict[str, Any]]]) -> Row:
    entries = sorted(entries, key=lambda entry: entry[1]["seed"])
    seeds = tuple(int(facts["seed"]) for _, facts in entries)
    twice = [seed for seed in seeds if seeds.count(seed) > 1]
    if twice:
        raise ArtifactError(f"two runs of {name} have the seed {twice[0]}; leave one out")
    facts = entries[0][1]
    scores = {
        group: [_number(summary["groups"]["map50"][group]) for summary, _ in entries] for group in GROUPS
    }
    return Row(name, facts["n_extractor"], facts["n_extractor_trained"], scores, seeds)


def method_name(recipe: DetectionRecipe, facts: dict[str, Any]) -> str:
    """Return method, backbone and where the adapter comes from, in words."""
    adapter = {None: "", "joint": ", joint", NO_ADAPTER: ", frozen"}.get(facts["adapter"], ", from chips")
    return f"{recipe.method.name}, {facts['backbone']}{adapter}"


def _ground(summary: dict[str, Any]) -> dict[str, Any]:
    return {
        "protocol": summary["protocol"],
        "n_images": summary["n_images"],
        "classes": [(row["class"], row["group"], row["n_ground_truth"]) for row in summary["classes"]],
    }


def _score(values: list[float]) -> Cell:
    mean = sum(values) / len(values)
    spread = f"{percent(min(values))} to {percent(max(values))}" if len(values) > 1 else ""
    return Cell(percent(mean), "" if math.isnan(mean) else spread)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


HEADER = (
    "method", "seed", "split", "protocol", "images", "level", "name", "group", "train_objects", "objects",
    "map50", "map50_area", "map50_95",
)  # fmt: skip


def comparison_csv(folders: Sequence[Path]) -> str:
    """Return the scores of runs that can be compared; fractions, empty where nothing is defined.

    ``map50`` is VOC07. The test split is taken if every run was tested, else validation.

    Raises:
        ArtifactError: If a run is not finished or they cannot be compared; names it.
    """
    compare_runs(folders)
    runs = [open_run(folder) for folder in folders]
    split = "test" if all(evaluation_path(run, "test").is_file() for run, _ in runs) else "val"
    rows: list[Sequence[object]] = []
    for run, recipe in runs:
        summary = read_facts(evaluation_path(run, split))
        facts = read_facts(model.facts_path(run))
        start = method_name(recipe, facts), facts["seed"], split, summary["protocol"], summary["n_images"]
        for name in GROUPS:
            values = [summary["groups"][measure][name] for measure in ("map50", "map50_area", "map50_95")]
            rows.append((*start, "group", name, name, "", "", *map(_text, values)))
        for row in summary["classes"]:
            values = [row[measure] for measure in ("ap50", "ap50_area", "ap50_95")]
            counts = row["n_train"], row["n_ground_truth"]
            rows.append((*start, "class", row["class"], row["group"], *counts, *map(_text, values)))
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([HEADER, *sorted(rows, key=lambda row: row[:2])])  # type: ignore[arg-type,return-value]
    return buffer.getvalue()


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"
