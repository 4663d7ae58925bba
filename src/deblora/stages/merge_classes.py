"""What the page of a comparison says of classes and of costs, read from the tables of its runs."""

import json
from collections.abc import Mapping, Sequence

import numpy as np

from deblora.config import Recipe
from deblora.errors import ArtifactError
from deblora.evaluate.metrics import per_class_f1
from deblora.report.compare_content import ClassGain, ClassGap, CostRow
from deblora.run_dir import RunDir
from deblora.stages.costs import costs_of
from deblora.stages.finished_run import PREDICTION_COLUMNS
from deblora.stages.mismatch import MISMATCH, MISMATCH_COLUMNS, SEPARATION, SEPARATION_COLUMNS
from deblora.stages.tables import read_lines

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
