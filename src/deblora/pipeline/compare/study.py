"""Studies: variants of a recipe over seeds; what two variants share is computed once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from deblora.data.simulate.chip_folder import Simulation, draw_chips
from deblora.errors import ArtifactError
from deblora.files import remove_leftovers, write_atomic
from deblora.pipeline.classify.chips import read_source
from deblora.pipeline.classify.road import check_inputs
from deblora.pipeline.compare.merge import FILES, FinishedRun, machine, mean_costs, read_run, shared_settings
from deblora.pipeline.compare.over_seeds import (
    BALANCED,
    differences_to_first,
    mean_scores,
    paired_differences,
)
from deblora.pipeline.compare.seeds import check_out, is_finished, stages_of
from deblora.pipeline.tables import NAME, only
from deblora.recipe.classify import Recipe, to_yaml
from deblora.recipe.methods import SAYS
from deblora.recipe.study import Study, read_study, with_seed
from deblora.report.page import render_html, render_markdown
from deblora.report.sections import STUDY, Report, Varied, report_page
from deblora.run.parallel import Call, in_parallel
from deblora.run.processes import start_log
from deblora.run.run_dir import RunDir, hold_all
from deblora.run.stage import run_stage

__all__ = ["Study", "read_study", "run_study"]


CHIPS = "chips"


def write_study(study: Study, runs: Mapping[str, Sequence[FinishedRun]], out: Path) -> None:
    """Write ``index.html``, ``report.md``, ``results.csv``, ``summary.csv`` and ``results.json``.

    Args:
        study: What was varied, and the methods whose scores are shown.
        runs: Variant -> its runs, one per seed; the variant to compare with first.
        out: Folder for the files.

    Raises:
        ArtifactError: If a run lacks a method of the study.
    """
    results = pd.concat(
        [run.scores.assign(variant=variant) for variant, own in runs.items() for run in own],
        ignore_index=True,
    )
    results = results[["variant", *(name for name in results if name != "variant")]]
    shown = _shown(results, [*(row for row in study.rows if row != BALANCED), BALANCED])
    first = next(iter(runs))
    means = mean_scores(shown, by=["variant"])
    to_first = differences_to_first(shown, first)
    # Chips that are simulated anew per variant share a name, and a variant may change the backbone: seeds pair.
    to_lora = paired_differences(shown, [BALANCED], by=["variant"], run=["variant"])
    report = _report(study, runs, {"scores": means, "to_first": to_first, "to_lora": to_lora})
    page = report_page(report, STUDY)
    remove_leftovers(out, deep=False)
    write_atomic(out / "index.html", render_html(page))
    write_atomic(out / "report.md", render_markdown(page))
    write_atomic(out / "results.csv", results.to_csv(index=False, lineterminator="\n"))
    write_atomic(
        out / "summary.csv", _summary(means, to_first, to_lora).to_csv(index=False, lineterminator="\n")
    )
    write_atomic(out / "results.json", json.dumps(_origin(study, runs), indent=1))


def _shown(results: pd.DataFrame, names: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Return macro F1 of the methods of a study, in their order."""
    parts = [only(results, metric="macro_f1", method=name[0], classifier=name[1]) for name in names]
    for (variant, seed), own in results.groupby(["variant", "seed"], sort=False):
        known = set(own[NAME].itertuples(index=False, name=None))
        absent = [name for name in names if name not in known]
        if absent:
            raise ArtifactError(
                f"variant {variant}, seed {seed} has no row {' '.join(absent[0])}; change rows, known are "
                f"{', '.join(' '.join(name) for name in sorted(known))}"
            )
    return pd.concat(parts, ignore_index=True)


def _report(
    study: Study, runs: Mapping[str, Sequence[FinishedRun]], tables: dict[str, pd.DataFrame]
) -> Report:
    seeds = [run.recipe.seed for run in next(iter(runs.values()))]
    varied = varied_setting({variant.name: variant.settings for variant in study.variants})
    costs = [mean_costs(own).assign(variant=variant) for variant, own in runs.items()]
    methods = {method for method, _ in study.rows} | {BALANCED[0]}
    found = pd.concat(costs)
    if len(found):
        tables = {**tables, "costs": found[found["method"].isin(methods)]}
    first = next(iter(runs.values()))[0]
    return Report(
        title=f"Study {study.name}",
        facts={"Varied": varied.axis, "Variants": str(len(runs)), "Seeds": ", ".join(map(str, seeds))},
        tables=tables,
        recipe_yaml=yaml.safe_dump(shared_settings(first.recipe), sort_keys=False),
        provenance=machine(),
        varied=varied,
        notes=(
            "The settings shown are those of the first variant.",
            "A study shows how scores depend on a setting on the test chips; choose a setting on validation.",
        ),
        says=SAYS,
    )


def varied_setting(variants: Mapping[str, Mapping[str, Any]]) -> Varied:
    """Return what a study varies, and the place of each variant on an axis.

    The places are the values where one setting varies and all its values are numbers, else 0, 1, 2, ...

    Args:
        variants: Name -> settings that differ from the base.
    """
    places = {name: float(i) for i, name in enumerate(variants)}
    keys = {tuple(settings) for settings in variants.values()}
    if len(keys) != 1 or len(next(iter(keys))) != 1:
        return Varied("variant", places, False)
    ((key,),) = keys
    values = {name: settings[key] for name, settings in variants.items()}
    numeric = all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in values.values()
    )
    return Varied(key, {name: float(value) for name, value in values.items()} if numeric else places, numeric)


def _summary(means: pd.DataFrame, to_first: pd.DataFrame, to_lora: pd.DataFrame) -> pd.DataFrame:
    keys = ["variant", *NAME, "metric", "group"]
    numbers = ["value", "ci_lower", "ci_upper", "n_wins"]
    table = means[[*keys, "n_seeds", "value", "sd", "ci_lower", "ci_upper"]].rename(columns={"value": "mean"})
    for prefix, found in (("minus_first_", to_first), ("minus_lora_", to_lora)):
        names = {name: prefix + ("mean" if name == "value" else name) for name in numbers}
        table = table.merge(found[[*keys, *numbers]].rename(columns=names), on=keys, how="left")
    return table


def _origin(study: Study, runs: Mapping[str, Sequence[FinishedRun]]) -> dict[str, Any]:
    first = next(iter(runs.values()))
    return {
        "study": study.name,
        "variants": {variant.name: dict(variant.settings) for variant in study.variants},
        "seeds": [run.recipe.seed for run in first],
        "data_sha256": {
            variant: {str(run.recipe.seed): run.frozen["data_sha256"] for run in own}
            for variant, own in runs.items()
        },
        "recipe": shared_settings(first[0].recipe),
        **machine(),
    }


@dataclass(frozen=True)
class Task:
    """A variant of one seed: its settings, its run folder and the chips it draws, if any."""

    recipe: Recipe
    root: Path
    simulation: Simulation | None


def run_study(study: Study, out: Path, *, n_jobs: int = 1) -> Path:
    """Run every variant and seed that is not finished, and write the report.

    Runs lie in ``out/<variant>/seed-<k>``. The variants of a seed run one after another; a stage whose
    fingerprint equals that of an earlier variant takes over its files. Seeds run side by side.

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
    calls = [Call(run_variants, (own, out / CHIPS, study.methods)) for own in tasks]
    with hold_all(task.root for own in tasks for task in own):
        in_parallel(calls, n_jobs=n_jobs)
    runs = {
        variant.name: [read_run(own[i].root, own[i].root.name) for own in tasks]
        for i, variant in enumerate(study.variants)
    }
    write_study(study, runs, out)
    return out / "index.html"


def run_variants(tasks: Sequence[Task], chips: Path, methods: Sequence[str]) -> None:
    """Run the variants of one seed; each may take over what the ones before it have finished."""
    donors: list[RunDir] = []
    for task in tasks:
        if task.simulation is not None:
            draw_chips(chips, task.simulation, seed=task.recipe.seed)
        stages = stages_of(task.recipe, methods)
        if not is_finished(task.root, task.recipe, stages):
            run = RunDir.create(task.root, resume=True, overwrite=False)
            start_log(run, name="/".join(task.root.parts[-2:]))
            read_source.cache_clear()
            write_atomic(run.recipe, to_yaml(task.recipe))
            for stage in stages:
                run_stage(stage, run, task.recipe, donors=donors)
        donors.append(RunDir.open(task.root))


def _root(out: Path, variant: str, seed: int) -> Path:
    return out / variant / f"seed-{seed}"
