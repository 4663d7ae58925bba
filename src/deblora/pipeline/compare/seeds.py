"""The comparison: the road and every head over several seeds, then one table of paired differences."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deblora.errors import ArtifactError, DataError
from deblora.files import write_atomic
from deblora.pipeline.classify import report
from deblora.pipeline.classify.chips import read_source
from deblora.pipeline.classify.evaluate.choose import judging_stages
from deblora.pipeline.classify.evaluate.costs import write_costs
from deblora.pipeline.classify.evaluate.heads import DEFAULT_METHODS, EVERY_METHOD, features_of, with_current
from deblora.pipeline.classify.road import ROAD, check_inputs
from deblora.pipeline.compare.baselines import row_stages
from deblora.pipeline.compare.merge import FILES, read_run, write_report
from deblora.recipe.classify import ROWS, Recipe, to_yaml
from deblora.run.log import start_log
from deblora.run.parallel import Call, in_parallel
from deblora.run.processes import on_first
from deblora.run.run_dir import MANIFEST, RunDir
from deblora.run.stage import Stage, run_stage, stage_key

SHORT_ROAD = ("audit", "train-lora", "extract-base", "extract-lora")


def compare(
    recipe: Recipe,
    out: Path,
    *,
    n_seeds: int = 5,
    methods: Sequence[str] = DEFAULT_METHODS,
    n_jobs: int = 1,
    road: Sequence[Stage] = ROAD,
) -> Path:
    """Run every seed that is not finished, and write one report over all of them.

    Seeds are ``recipe.seed`` and the numbers after it; each draws its own long tail, split, adapters and
    clusters, in ``out/seed-<k>``. A finished seed is skipped without a look at its chips; ``deblora audit``
    on its folder looks.

    Args:
        recipe: Settings of all seeds.
        out: Folder of the comparison.
        n_seeds: At least 1; intervals over seeds need 2, and 5 are a fair number (ours).
        methods: Kinds of features the heads are fitted on; those of ``ROWS`` have a training of their own.
        n_jobs: Seeds that run at the same time.
        road: Stages before the heads; :func:`short_road` leaves out the second adapter.

    Returns:
        The page.

    Raises:
        ArtifactError: If ``out`` holds something else.
        DebloraError: What is wrong with recipe or data.
        ValueError: If ``n_seeds`` or ``n_jobs`` is below 1.
    """
    if n_seeds < 1 or n_jobs < 1:
        raise ValueError(f"n_seeds and n_jobs must be at least 1, got {n_seeds} and {n_jobs}")
    stages = stages_of(road, methods)
    check_out(out, FILES, Path(recipe.data.source))
    recipes = [replace(recipe, seed=recipe.seed + k) for k in range(n_seeds)]
    roots = [out / f"seed-{own.seed}" for own in recipes]
    names = tuple(stage.name for stage in road)
    todo = [
        (own, root) for own, root in zip(recipes, roots, strict=True) if not is_finished(root, own, stages)
    ]
    for own, _ in todo[:1]:
        check_inputs(own)
    calls: list[Call] = []
    for own, root in todo:
        calls += calls_of(own, root, names, tuple(methods), first=len(calls))
    in_parallel(calls, n_jobs=n_jobs)
    return write_report([read_run(root, root.name, stage="heads") for root in roots], out)


def short_road() -> tuple[Stage, ...]:
    """Return the stages up to the features of the first adapter, all that heads and feature-space rows need."""
    return tuple(stage for stage in ROAD if stage.name in SHORT_ROAD)


def chosen_methods(asked: Sequence[str], recipe: Recipe) -> tuple[str, ...]:
    """Return the rows of a comparison: those asked for, or all that need no training, and the recipe's own ones.

    ``all`` stands for every row.
    """
    if "all" in asked:
        return EVERY_METHOD
    return tuple(dict.fromkeys((*(asked or DEFAULT_METHODS), *recipe.rows.names)))


def trained_rows(methods: Sequence[str]) -> tuple[Stage, ...]:
    """Return the stages of the rows that have a training of their own."""
    return row_stages([name for name in methods if name in ROWS])


def stages_of(road: Sequence[Stage], methods: Sequence[str]) -> tuple[Stage, ...]:
    """Return the stages of a run whose rows are judged by every head: the report, which shows the choice, is last."""
    before = [stage for stage in road if stage.name != report.STAGE.name]
    last = [stage for stage in road if stage.name == report.STAGE.name]
    stages = (*before, *trained_rows(methods), *judging_stages(methods), *last)
    return tuple(
        {stage.name: stage for stage in stages}.values()
    )  # the road has the semi-supervised row as well


def calls_of(
    recipe: Recipe, root: Path, road: Sequence[str], methods: Sequence[str], *, first: int
) -> list[Call]:
    """Return the calls that make a seed: the road, then every row at its own pace, then the tables over all rows.

    Args:
        recipe: Settings of the seed.
        root: Its run folder.
        road: Names of the stages of :data:`~deblora.pipeline.classify.road.ROAD` that come before the rows.
        methods: Rows.
        first: Position of the first call among all calls.
    """
    known = stages_of([stage for stage in ROAD if stage.name in road], methods)
    at_last = (report.STAGE.name,)
    before = [stage.name for stage in known if stage.name in road and stage.name not in at_last]
    rows: dict[str, list[str]] = {}
    for stage in known:
        if stage.name not in before and (row := row_of(stage)):
            rows.setdefault(row, []).append(stage.name)
    taken = {*before, *(name for own in rows.values() for name in own)}
    last = [stage.name for stage in known if stage.name not in taken]
    each = tuple(Call(run_part, (recipe, root, own, tuple(methods)), (first,)) for own in rows.values())
    behind = tuple(range(first, first + 1 + len(each)))
    return [
        Call(run_part, (recipe, root, before, tuple(methods))),
        *each,
        Call(run_last, (recipe, root, last, tuple(methods)), behind),
    ]


def row_of(stage: Stage) -> str:
    """Return the row that a stage trains, extracts or judges; nothing for a stage that serves all rows."""
    prefixes = ("train-row-", "extract-row-", "heads-")
    return next((stage.name.removeprefix(own) for own in prefixes if stage.name.startswith(own)), "")


def run_part(recipe: Recipe, root: Path, names: Sequence[str], methods: Sequence[str]) -> None:
    """Run some stages of a comparison in a run folder; finished stages are skipped."""
    run = RunDir.create(root, resume=True, overwrite=False)
    start_log(run, name=root.name)
    read_source.cache_clear()
    write_atomic(run.recipe, to_yaml(recipe))
    for stage in stages_of(ROAD, methods):
        if stage.name in names:
            run_stage(stage, run, recipe)


def run_last(recipe: Recipe, root: Path, names: Sequence[str], methods: Sequence[str]) -> None:
    """Run the stages that serve all rows of a seed, and write what every row cost."""
    run_part(recipe, root, names, methods)
    write_costs(RunDir.open(root), recipe)


def run_heads(run: RunDir, recipe: Recipe) -> None:
    """Fit every head on the features that a run has, and show the choice on its page if it has one."""
    start_log(run)
    read_source.cache_clear()
    judge_rows(run, recipe, (*DEFAULT_METHODS, *ROWS))
    if run.record(report.STAGE.name):
        run_stage(report.STAGE, run, recipe)


def judge_rows(run: RunDir, recipe: Recipe, methods: Sequence[str]) -> None:
    """Fit and judge the heads of rows whose features are there; rows that were fitted before stay in the tables.

    The features of the second adapter and of rows with their own training may be missing. Whichever rows are
    asked for first, tables and choice end up the same.
    """

    def there() -> list[str]:
        optional = ("deblora", *ROWS)
        found = [name for name in methods if name not in optional or features_of(run, name).is_file()]
        return list(with_current(run, recipe, found))

    for stage in judging_stages(on_first(there)):
        run_stage(stage, run, recipe)


def is_finished(root: Path, recipe: Recipe, stages: Sequence[Stage]) -> bool:
    """Tell whether all stages are done with these settings; what the audit depends on is not looked at."""
    if not (root / MANIFEST).is_file():
        return False
    run = RunDir.open(root)
    try:
        if not run.recipe.is_file() or run.recipe.read_text(encoding="utf-8") != to_yaml(recipe):
            return False
        return all(
            run.record(stage.name)
            if stage.always_runs
            else run.is_done(stage.name, stage_key(stage, run, recipe))
            for stage in stages
        )
    except (ArtifactError, OSError):
        return False


def check_out(out: Path, files: Sequence[str], source: Path, *, folders: str = "seed-*") -> None:
    """Check that a folder can hold a comparison.

    Raises:
        ArtifactError: If it is a file, or holds what no comparison writes.
        DataError: If it lies inside the data.
    """
    if out.exists() and not out.is_dir():
        raise ArtifactError(f"{out} is a file; name a folder for the comparison")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{out} lies inside the data, {source}; name a folder outside")
    for path in sorted(out.iterdir()) if out.is_dir() else ():
        own = path.match(folders) and path.is_dir() if path.name not in files else path.is_file()
        if not own:
            raise ArtifactError(f"{path} is no part of a comparison; choose another folder")
