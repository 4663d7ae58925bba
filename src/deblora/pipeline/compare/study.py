"""Studies: variants of a recipe over seeds; what two variants share is computed once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from deblora.data.simulate.chip_folder import Simulation, draw_chips
from deblora.errors import ArtifactError
from deblora.evaluate.seeds import Entry, Unit, paired_spread, spread
from deblora.files import write_atomic
from deblora.pipeline.classify.chips import read_source
from deblora.pipeline.classify.road import ROAD, check_inputs
from deblora.pipeline.compare.finished_run import RESULT_COLUMNS
from deblora.pipeline.compare.seeds import check_out, is_finished, short_road
from deblora.pipeline.compare.seeds import stages_of as rows_and_heads
from deblora.pipeline.compare.tables import machine, mean_costs, read_lines, scores_of, shared_settings
from deblora.pipeline.tables import table
from deblora.recipe.classify import Recipe, to_yaml
from deblora.recipe.study import Study, read_study, with_seed
from deblora.report.seeds_content import GROUPS, StudyContent, StudyPoint
from deblora.report.study_page import render_study_markdown, render_study_page
from deblora.run.log import start_log
from deblora.run.parallel import Call, in_parallel
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage, run_stage

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


__all__ = ["Study", "read_study", "run_study"]

FILES = ("index.html", "report.md", "results.csv", "summary.csv", "results.json")
CHIPS = "chips"


@dataclass(frozen=True)
class Task:
    """A variant of one seed: its settings, its run folder and the chips it draws, if any."""

    recipe: Recipe
    root: Path
    simulation: Simulation | None


def run_study(study: Study, out: Path, *, n_jobs: int = 1) -> Path:
    """Run every variant and seed that is not finished, and write the report.

    Runs lie in ``out/<variant>/seed-<k>``. The variants of a seed run one after another; a stage whose fingerprint
    equals that of an earlier variant takes over its files. Seeds run side by side.

    Args:
        study: See :func:`read_study`.
        out: Folder of the study.
        n_jobs: Seeds at the same time.

    Returns:
        The page.

    Raises:
        ArtifactError: If ``out`` holds something else.
        DebloraError: What is wrong with recipe or data.
    """
    first = study.variants[0]
    check_out(out, FILES, Path(first.recipe.data.source), folders="*")
    tasks = [
        [
            Task(
                with_seed(variant, k, out / CHIPS),
                _root(out, variant.name, variant.recipe.seed + k),
                variant.simulation,
            )
            for variant in study.variants
        ]
        for k in range(study.n_seeds)
    ]
    if first.simulation is None:
        for variant in study.variants:
            check_inputs(variant.recipe)
    calls = [Call(run_variants, (own, out / CHIPS, study.judge, study.methods)) for own in tasks]
    in_parallel(calls, n_jobs=n_jobs)
    merge_study(
        study.name,
        [(variant.name, variant.settings) for variant in study.variants],
        {
            variant.name: [(RunDir.open(own[i].root), own[i].recipe) for own in tasks]
            for i, variant in enumerate(study.variants)
        },
        table_name="results.csv" if study.judge == "probe" else "heads.csv",
        rows=study.rows,
        out=out,
    )
    return out / "index.html"


def run_variants(tasks: Sequence[Task], chips: Path, judge: str, methods: Sequence[str]) -> None:
    """Run the variants of one seed; each may take over what the ones before it have finished."""
    stages = stages_of(judge, methods)
    donors: list[RunDir] = []
    for task in tasks:
        if task.simulation is not None:
            draw_chips(chips, task.simulation, seed=task.recipe.seed)
        if not is_finished(task.root, task.recipe, stages):
            run = RunDir.create(task.root, resume=True, overwrite=False)
            start_log(run, name="/".join(task.root.parts[-2:]))
            read_source.cache_clear()
            write_atomic(run.recipe, to_yaml(task.recipe))
            for stage in stages:
                run_stage(stage, run, task.recipe, donors=donors)
        donors.append(RunDir.open(task.root))


def stages_of(judge: str, methods: Sequence[str]) -> tuple[Stage, ...]:
    """Return the stages of a study: the road to the probe, or the short one to the heads."""
    to_probe = ROAD[: [stage.name for stage in ROAD].index("probe") + 1]
    if judge == "probe":
        return to_probe
    return rows_and_heads(to_probe if "deblora" in methods else short_road(), methods)


def _root(out: Path, variant: str, seed: int) -> Path:
    return out / variant / f"seed-{seed}"
