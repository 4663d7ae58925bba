"""The scores of finished runs as one long CSV: a row per run and group, and per run and class."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from deblora.stages.detection import model
from deblora.stages.detection.compare import GROUPS, compare_runs, method_name
from deblora.stages.detection.operating_point import evaluation_path
from deblora.stages.detection.runs import open_run, read_facts

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
