"""Studies: variants of a recipe over seeds; what two variants share is computed once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deblora.artifacts import write_atomic
from deblora.compare import check_out, is_finished, short_road
from deblora.compare import stages_of as rows_and_heads
from deblora.config import Recipe, to_yaml
from deblora.parallel import Call, in_parallel
from deblora.pipeline import ROAD, check_inputs, start_log
from deblora.run_dir import RunDir
from deblora.simulated import Simulation, draw_chips
from deblora.stages.chips import read_source
from deblora.stages.merge_study import merge_study
from deblora.stages.stage import Stage, run_stage
from deblora.study_recipe import Study, read_study, with_seed

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
