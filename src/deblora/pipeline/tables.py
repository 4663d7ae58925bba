"""CSV tables of a run: writing them, and reading them as pandas tables that are checked against a schema."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deblora.errors import ArtifactError
from deblora.evaluate.intervals import Estimate
from deblora.evaluate.metrics import per_class_f1

NAME = ["method", "classifier"]
NUMBERS = frozenset(
    {
        *(
            "value",
            "standard_error",
            "ci_lower",
            "ci_upper",
            "n_classes",
            "n_test",
            "n_trials",
            "seed",
            "n_train",
            "step",
            "loss",
        ),
        *("gap", "chance", "train_scatter", "test_scatter"),
        *("image_size", "views", "brier_score", "seconds_per_chip"),
    }
)
"""Columns that hold numbers; an empty cell is unknown."""
SCORES = (
    "dataset",
    "backbone",
    "method",
    "classifier",
    "metric",
    "group",
    "value",
    "standard_error",
    "ci_lower",
    "ci_upper",
    "n_classes",
    "n_test",
    "test_set",
    "split",
    "n_trials",
    "seed",
)
DIFFERENCES = (
    "method",
    "classifier",
    "baseline",
    "baseline_classifier",
    "group",
    "value",
    "standard_error",
    "ci_lower",
    "ci_upper",
)
PREDICTIONS = ("id", "true", "method", "classifier", "predicted")
CHOICES = ("method", "classifier", "choice", "value")
SEPARATION = ("method", "split", "metric", "value")
MISMATCH = ("method", "class", "group", "n_train", "gap", "chance", "train_scatter", "test_scatter")
HISTORY = ("step", "loss")
LOOK = (
    *("image_size", "views", "group", "value", "standard_error", "ci_lower", "ci_upper"),
    *("brier_score", "seconds_per_chip"),
)


def table(rows: list[dict[str, object]]) -> str:
    """Return rows as CSV."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def estimate_cells(estimate: Estimate) -> dict[str, object]:
    """Return value, standard error and interval as columns, empty where they are unknown."""
    return {name: value if math.isfinite(value) else "" for name, value in vars(estimate).items()}


def say_single_unit(groups: Sequence[str]) -> str:
    """Say why groups have no interval."""
    named = ", ".join(groups)
    return (
        f"No interval (-) for {named}: a class there has a single test chip or scene, which every draw holds."
    )


def read_table(path: Path, columns: Sequence[str], *, command: str, text: Sequence[str] = ()) -> Any:
    """Return a CSV table as a pandas table; unknown numbers are NaN, all other cells text.

    Args:
        path: The file.
        columns: Columns that it has to have; further ones are kept. Those of :data:`NUMBERS` are numbers.
        command: What makes the file again; named in messages.
        text: Columns of this table that hold words though their name is one of :data:`NUMBERS`.

    Raises:
        ArtifactError: If the file is missing or damaged: a column or a cell is missing, a value is no
            number, or it has no rows.
    """
    import pandas as pd

    if not path.is_file():
        raise ArtifactError(f"{path} is missing; make it with: {command}")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = list(csv.reader(file, strict=True)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise damaged(path, error, command) from error
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise damaged(path, f"line {number} has another number of columns than the header", command)
    found = pd.DataFrame(lines, columns=header, dtype=str)
    missing = [column for column in columns if column not in found]
    if missing:
        raise damaged(path, f"the column {missing[0]} is missing", command)
    if found.empty:
        raise damaged(path, "it has no rows", command)
    for column in (NUMBERS & set(columns)).difference(text):
        numbers = pd.to_numeric(found[column].replace("", "nan"), errors="coerce")
        wrong = found[column][numbers.isna() & ~found[column].isin(["", "nan"])]
        if len(wrong):
            raise damaged(path, f"{column} is {wrong.iloc[0]!r}, not a number", command)
        found[column] = numbers
    return found


def damaged(path: Path, why: object, command: str) -> ArtifactError:
    """Return the error that a file is damaged, and how to make it again."""
    return ArtifactError(f"{path} is damaged ({why}); delete it and make it again with: {command}")


def only(frame: Any, **wanted: object) -> Any:
    """Return the rows of a table whose columns have the given values.

    Args:
        frame: A pandas table.
        wanted: Column -> value.
    """
    kept = np.ones(len(frame), dtype=bool)
    for column, value in wanted.items():
        kept &= (frame[column] == value).to_numpy()
    return frame[kept]


def class_f1(predictions: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Return F1 by class of one method and classifier, in the order of ``names``."""
    true, guessed = (
        pd.Categorical(predictions[key], categories=list(names)).codes for key in ("true", "predicted")
    )
    return per_class_f1(true.astype(np.int64), guessed.astype(np.int64), len(names))
