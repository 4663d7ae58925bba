"""Tables of a study: every variant over its seeds, paired with the first variant and with LoRA."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from deblora.artifacts import write_atomic
from deblora.config import Recipe
from deblora.errors import ArtifactError
from deblora.evaluate.seeds import Entry, Unit, paired_spread, spread
from deblora.report.study_content import GROUPS, StudyContent, StudyPoint
from deblora.report.study_page import render_study_markdown, render_study_page
from deblora.run_dir import RunDir
from deblora.stages.audit import table
from deblora.stages.finished_run import RESULT_COLUMNS
from deblora.stages.merge_classes import mean_costs
from deblora.stages.merge_heads import machine, read_lines, scores_of
from deblora.stages.seed_tables import shared_settings

BASELINE = ("lora", "balanced_softmax")
Scores = Mapping[Unit, Mapping[Entry, float]]


def merge_study(
    name: str,
    variants: Sequence[tuple[str, Mapping[str, Any]]],
    runs: Mapping[str, Sequence[tuple[RunDir, Recipe]]],
    *,
    table_name: str,
    rows: Sequence[tuple[str, str]],
    out: Path,
) -> None:
    """Write ``index.html``, ``report.md``, ``results.csv``, ``summary.csv`` and ``results.json``.

    Args:
        name: Of the study.
        variants: Name and settings of each, the one to compare with first.
        runs: Variant -> its runs, one per seed.
        table_name: Table of a run that holds the scores.
        rows: Method and probe of every curve.
        out: Folder for the files.

    Raises:
        ArtifactError: If a table is missing, damaged, or lacks a row.
    """
    lines: list[dict[str, object]] = []
    scores: dict[str, dict[Unit, dict[Entry, float]]] = {}
    for variant, own in runs.items():
        for run, recipe in own:
            found = read_lines(run, table_name, RESULT_COLUMNS)
            # Chips that are simulated anew per variant share a name, and pairing is by seed.
            unit = Unit(Path(recipe.data.source).name, recipe.backbone.name, recipe.seed)
            scores.setdefault(variant, {})[unit] = scores_of(run.evaluation(table_name), found)
            lines += [{"variant": variant, **line} for line in found]
    every = tuple(dict.fromkeys((*(row for row in rows if row != BASELINE), BASELINE)))
    _check_rows(every, scores)
    first = variants[0][0]
    points = tuple(
        _point(variant, row, group, scores[variant], scores[first] if variant != first else None)
        for row in every
        for variant, _ in variants
        for group in GROUPS
    )
    content = StudyContent(
        title=f"Study {name}",
        variants=dict(variants),
        seeds=tuple(recipe.seed for _, recipe in runs[first]),
        rows=every,
        points=points,
        recipe_yaml=yaml.safe_dump(shared_settings(runs[first][0][1]), sort_keys=False),
        provenance=machine(),
        notes=(
            "Intervals are 95 % t intervals over seeds, not corrected for the number of comparisons.",
            "A study shows how scores depend on a setting on the test chips; choose a setting on validation.",
        ),
        costs={variant: mean_costs(own) for variant, own in runs.items()},
    )
    write_atomic(out / "index.html", render_study_page(content))
    write_atomic(out / "report.md", render_study_markdown(content))
    write_atomic(out / "results.csv", table(lines))
    write_atomic(out / "summary.csv", table([_summary(point) for point in points]))
    write_atomic(out / "results.json", json.dumps(_provenance(content, runs), indent=1))


def _check_rows(rows: Sequence[tuple[str, str]], scores: Mapping[str, Scores]) -> None:
    for variant, by_unit in scores.items():
        for unit, found in by_unit.items():
            have = {(entry.method, entry.probe) for entry in found}
            absent = [row for row in rows if row not in have]
            if absent:
                known = ", ".join(" ".join(row) for row in sorted(have))
                raise ArtifactError(
                    f"variant {variant}, seed {unit.seed} has no row {' '.join(absent[0])}; change rows, known "
                    f"are {known}"
                )


def _point(
    variant: str, row: tuple[str, str], group: str, scores: Scores, first: Scores | None
) -> StudyPoint:
    def values(of: Scores, name: tuple[str, str]) -> dict[Unit, float]:
        entry = Entry(*name, "macro_f1", group)
        # Only the seed pairs: a variant may change backbone or data.
        return {Unit("", "", unit.seed): found[entry] for unit, found in of.items() if entry in found}

    own = values(scores, row)
    return StudyPoint(
        variant=variant,
        row=row,
        group=group,
        spread=spread(np.array(list(own.values()))),
        to_first=None if first is None else paired_spread(own, values(first, row)),
        to_lora=None if row == BASELINE else paired_spread(own, values(scores, BASELINE)),
    )


def _summary(point: StudyPoint) -> dict[str, object]:
    line: dict[str, object] = {
        "variant": point.variant,
        "method": point.row[0],
        "probe": point.row[1],
        "group": point.group,
        "n_seeds": point.spread.n,
        "mean": point.spread.mean,
        "sd": point.spread.sd,
        "ci_lower": point.spread.ci_lower,
        "ci_upper": point.spread.ci_upper,
    }
    for prefix, found in (("minus_first_", point.to_first), ("minus_lora_", point.to_lora)):
        line[f"{prefix}mean"] = found.spread.mean if found else ""
        line[f"{prefix}ci_lower"] = found.spread.ci_lower if found else ""
        line[f"{prefix}ci_upper"] = found.spread.ci_upper if found else ""
        line[f"{prefix}n_wins"] = found.n_wins if found else ""
    return line


def _provenance(content: StudyContent, runs: Mapping[str, Sequence[tuple[RunDir, Recipe]]]) -> dict[str, Any]:
    return {
        "study": content.title,
        "variants": {name: dict(settings) for name, settings in content.variants.items()},
        "seeds": list(content.seeds),
        "data_sha256": {
            variant: {
                str(recipe.seed): json.loads(run.groups.read_text(encoding="utf-8"))["data_sha256"]
                for run, recipe in own
            }
            for variant, own in runs.items()
        },
        "recipe": yaml.safe_load(content.recipe_yaml),
        **dict(content.provenance),
    }
