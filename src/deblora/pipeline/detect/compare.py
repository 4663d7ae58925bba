"""``deblora detect compare``: one table over finished runs, mean and spread over seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from deblora.errors import ArtifactError
from deblora.pipeline.detect import model
from deblora.pipeline.detect.model import evaluation_path, open_run, read_facts
from deblora.pipeline.tables import only
from deblora.recipe.detect import METHODS, NO_ADAPTER, DetectionRecipe
from deblora.report.page import Cell, Table, markdown_table
from deblora.report.tables import GROUPS, between, percent

COLUMNS = (
    "method", "seed", "split", "protocol", "images", "level", "name", "group", "train_objects", "objects",
    "map50", "map50_area", "map50_95",
)  # fmt: skip
"""Of the CSV table; ``level`` tells lines of class groups from those of classes."""
MEASURES = {"map50": "ap50", "map50_area": "ap50_area", "map50_95": "ap50_95"}


def compare_runs(folders: Sequence[Path]) -> pd.DataFrame:
    """Return the scores of runs that can be compared: same data, classes, groups and protocol.

    The test split is taken if every run was tested, else validation.

    Returns:
        Columns :data:`COLUMNS` (fractions, ``map50`` is VOC07; NaN where nothing is defined) with
        ``n_extractor`` and ``n_trained`` parameters; methods in the order of the paper's table, seeds
        ascending.

    Raises:
        ArtifactError: If a run is not finished or they cannot be compared; names it.
    """
    runs = [open_run(folder) for folder in folders]
    split = "test" if all(evaluation_path(run, "test").is_file() for run, _ in runs) else "val"
    lines: list[dict[str, Any]] = []
    first: Any = None
    for run, recipe in runs:
        path = evaluation_path(run, split)
        if not path.is_file() or not model.facts_path(run).is_file():
            raise ArtifactError(f"{run.root} is not finished; go on with deblora detect train --resume")
        summary, facts = read_facts(path), read_facts(model.facts_path(run))
        ground = _ground(summary)
        first = ground if first is None else first
        if ground != first:
            raise ArtifactError(
                f"{run.root} was evaluated on other images, classes, groups or another protocol than "
                f"{runs[0][0].root}; compare runs of the same data"
            )
        lines += _lines(summary, facts, method_name(recipe, facts), split)
    found = pd.DataFrame(lines)
    twice = found[found.duplicated(["method", "seed", "level", "name"])]
    if len(twice):
        method, seed = twice.iloc[0][["method", "seed"]]
        raise ArtifactError(f"two runs of {method} have the seed {seed}; leave one out")
    order: dict[str, int] = {name: i for i, name in enumerate(METHODS)}
    place = found["method"].str.split(",").str[0].map(order).fillna(len(order))
    names = pd.Categorical(found["method"], categories=found["method"].unique()).codes
    found = found.assign(place=place, names=names)
    return found.sort_values(["place", "names", "seed"], kind="stable", ignore_index=True)


def _lines(summary: dict[str, Any], facts: dict[str, Any], method: str, split: str) -> list[dict[str, Any]]:
    run = {
        "method": method,
        "seed": facts["seed"],
        "split": split,
        "protocol": summary["protocol"],
        "images": summary["n_images"],
        "n_extractor": facts["n_extractor"],
        "n_trained": facts["n_extractor_trained"],
    }
    groups = [
        {**run, "level": "group", "name": name, "group": name}
        | {measure: summary["groups"][measure][name] for measure in MEASURES}
        for name in GROUPS
    ]
    classes = [
        {**run, "level": "class", "name": row["class"], "group": row["group"]}
        | {"train_objects": row["n_train"], "objects": row["n_ground_truth"]}
        | {measure: row[key] for measure, key in MEASURES.items()}
        for row in summary["classes"]
    ]
    return [*groups, *classes]


def _ground(summary: dict[str, Any]) -> dict[str, Any]:
    return {
        "protocol": summary["protocol"],
        "n_images": summary["n_images"],
        "classes": [(row["class"], row["group"], row["n_ground_truth"]) for row in summary["classes"]],
    }


def method_name(recipe: DetectionRecipe, facts: dict[str, Any]) -> str:
    """Return method, backbone and where the adapter comes from, in words."""
    adapter = {None: "", "joint": ", joint", NO_ADAPTER: ", frozen"}.get(facts["adapter"], ", from chips")
    return f"{recipe.method.name}, {facts['backbone']}{adapter}"


def comparison_table(found: pd.DataFrame) -> Table:
    """Return parameters, groups (mean over seeds, with least and largest value) and seeds of each method.

    Args:
        found: See :func:`compare_runs`.
    """
    rows = []
    for method, own in only(found, level="group").groupby("method", sort=False):
        first = own.iloc[0]
        cells = [
            Cell(method, style="name"),
            Cell(", ".join(map(str, own["seed"].unique()))),
            Cell(f"{first['n_extractor'] / 1e6:.2f}"),
            Cell(f"{first['n_trained'] / 1e6:.2f}"),
        ]
        for group in GROUPS:
            values = only(own, name=group)["map50"].astype(float)
            spread = between(values.min(), values.max()) if len(values) > 1 else ""
            cells.append(Cell(percent(values.mean()), spread))
        rows.append(tuple(cells))
    header = ("Method", "Seeds", "Params (M)", "Trained (M)", *(name.capitalize() for name in GROUPS))
    return Table(header, tuple(rows), 2)


def comparison_text(folders: Sequence[Path]) -> str:
    """Return the comparison as Markdown."""
    found = compare_runs(folders)
    first = found.iloc[0]
    title = f"mAP50 (VOC07) in percent, {first['protocol']}, {first['images']} merged {first['split']} images"
    note = "(mean over seeds; in brackets the least and the largest)"
    return f"{title}\n{note}\n\n{markdown_table(comparison_table(found))}\n"


def comparison_csv(folders: Sequence[Path]) -> str:
    """Return the scores of runs that can be compared as CSV; empty where nothing is defined."""
    found = compare_runs(folders).astype(dict.fromkeys(("train_objects", "objects"), "Int64"))
    ordered = found.sort_values(["method", "seed"], kind="stable")[list(COLUMNS)]
    return str(ordered.to_csv(index=False, float_format="%.5f", lineterminator="\n"))
