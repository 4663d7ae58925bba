"""Tables of a run as lines of text, checked for what a reader of them needs."""

import csv
from collections.abc import Sequence

from deblora.errors import ArtifactError
from deblora.run_dir import RunDir

Lines = list[dict[str, str]]


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
