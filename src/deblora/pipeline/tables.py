"""Tables of a run as lines of text, checked for what a reader of them needs."""

import csv
import io
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from deblora.errors import ArtifactError
from deblora.evaluate.bootstrap import interval
from deblora.run.run_dir import RunDir


def table(rows: list[dict[str, object]]) -> str:
    """Return rows as CSV."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


Lines = list[dict[str, str]]


def interval_cells(draws: Float[np.ndarray, " b"]) -> dict[str, object]:
    """Return the columns ``ci_lower`` and ``ci_upper`` of scores over draws, empty where there is no interval."""
    return dict(zip(("ci_lower", "ci_upper"), map(_cell, interval(draws)), strict=True))


def _cell(end: float) -> float | str:
    return end if math.isfinite(end) else ""


def as_number(text: str) -> float:
    """Return the number of a cell, NaN where it is empty.

    Raises:
        ValueError: If it holds something else.
    """
    return float(text or "nan")


def say_judged_by_one(groups: Sequence[str]) -> str:
    """Say why groups have no interval."""
    return f"No interval (-) for {', '.join(groups)}: a class there has a single test chip, which every draw holds."


def read_lines(run: RunDir, name: str, columns: Sequence[str]) -> Lines:
    """Return the lines of a table of a run.

    Raises:
        ArtifactError: If it is missing, or lacks a column or a value.
    """
    path = run.evaluation(name)
    again = f"delete it and make it again with: deblora heads {run.root}"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            lines = list(reader)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); {again}") from error
    if missing or not lines or any(None in line or None in line.values() for line in lines):
        what = f"the column {missing[0]} is missing" if missing else "lines are missing or cut"
        raise ArtifactError(f"{path} is damaged ({what}); {again}")
    return lines
