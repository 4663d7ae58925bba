"""The comparison: the pipeline with more methods over several seeds, then one table of paired differences."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from deblora.errors import ArtifactError, DataError
from deblora.files import is_leftover, write_atomic
from deblora.pipeline.classify import look
from deblora.pipeline.classify.chips import read_source
from deblora.pipeline.classify.evaluate.costs import write_costs
from deblora.pipeline.classify.road import check_inputs, pipeline_of
from deblora.pipeline.compare.baselines import row_stages
from deblora.pipeline.compare.merge import FILES, read_run, write_report
from deblora.pipeline.open_model import note_weights
from deblora.recipe.classify import Recipe, to_yaml
from deblora.recipe.methods import METHODS, check_methods, default_list
from deblora.run.parallel import Call, in_parallel
from deblora.run.processes import start_log
from deblora.run.run_dir import MANIFEST, RunDir, hold_all
from deblora.run.stage import Stage, run_stage, stage_key


def compare(
    recipe: Recipe, out: Path, *, n_seeds: int = 5, methods: Collection[str] = (), n_jobs: int = 1
) -> Path:
    """Run every seed that is not finished, and write one report over all of them.

    Seeds are ``recipe.seed`` and the numbers after it; each draws its own long tail, split, adapters and
    clusters, in ``out/seed-<k>``. A finished seed is skipped without a look at its chips; ``deblora audit``
    on its folder looks.

    Args:
        recipe: Settings of all seeds.
        out: Folder of the comparison.
        n_seeds: At least 1; intervals over seeds need 2, and 5 are a fair number (ours).
        methods: Methods of the table; those of the default list if empty.
        n_jobs: Seeds, and methods of a seed, that run at the same time.

    Returns:
        The page.

    Raises:
        ArtifactError: If ``out`` holds something else, or another process works in it.
        DebloraError: What is wrong with recipe or data.
        ValueError: If ``n_seeds`` or ``n_jobs`` is below 1.
    """
    if n_seeds < 1 or n_jobs < 1:
        raise ValueError(f"n_seeds and n_jobs must be at least 1, got {n_seeds} and {n_jobs}")
    names = tuple(methods) or default_list()
    check_methods(names)
    check_out(out, FILES, Path(recipe.data.source))
    roots = [out / f"seed-{recipe.seed + k}" for k in range(n_seeds)]
    if recipe.look.enabled:
        recipe = _looked(recipe, roots[0])
    recipes = [replace(recipe, seed=recipe.seed + k) for k in range(n_seeds)]
    todo = [
        (own, root)
        for own, root in zip(recipes, roots, strict=True)
        if not is_finished(root, own, stages_of(own, names))
    ]
    for own, _ in todo[:1]:
        check_inputs(own)
    calls: list[Call] = []
    for own, root in todo:
        calls += calls_of(own, root, names, first=len(calls))
    with hold_all(root for _, root in todo):
        in_parallel(calls, n_jobs=n_jobs)
    return write_report([read_run(root, root.name) for root in roots], out)


def _looked(recipe: Recipe, root: Path) -> Recipe:
    """Return the recipe with the input size and views that the first look of the first seed chooses for all seeds."""
    check_inputs(recipe)
    run = RunDir.create(root, resume=True, overwrite=False)
    with run.hold():
        start_log(run, name=root.name)
        read_source.cache_clear()
        for stage in (pipeline_of(recipe)[0], look.STAGE):
            run_stage(stage, run, recipe)
        return look.settled(run, recipe)


def chosen_methods(asked: Sequence[str], recipe: Recipe, *, skip_deblora: bool = False) -> tuple[str, ...]:
    """Return the methods of a comparison: those asked for, or the default list, and those that the recipe names.

    Args:
        asked: Names; ``all`` stands for every method.
        recipe: Its ``rows.names`` come on top.
        skip_deblora: Leave out every method that needs the second adapter.

    Raises:
        RecipeError: If a name is unknown.
    """
    names = tuple(METHODS) if "all" in asked else (*(asked or default_list()), *recipe.rows.names)
    check_methods(names)
    return tuple(
        name for name in METHODS if name in names and not (skip_deblora and "deblora" in METHODS[name].reads)
    )


def stages_of(recipe: Recipe, methods: Collection[str]) -> tuple[Stage, ...]:
    """Return the stages of a run over these methods, with those that train methods on their own."""
    trained = row_stages([name for name in methods if METHODS[name].trains])
    return pipeline_of(recipe, methods, trained=trained)


def calls_of(recipe: Recipe, root: Path, methods: Collection[str], *, first: int) -> list[Call]:
    """Return the calls that make a seed: what all methods need, then each method at its own pace, then the tables.

    Args:
        recipe: Settings of the seed.
        root: Its run folder.
        methods: Methods.
        first: Position of the first call among all calls.
    """
    stages = stages_of(recipe, methods)
    of_methods = [i for i, stage in enumerate(stages) if stage.method]
    before = [stage.name for stage in stages[: of_methods[0]]]
    last = [stage.name for stage in stages[of_methods[-1] + 1 :]]
    own: dict[str, list[str]] = {}
    for i in of_methods:
        own.setdefault(stages[i].method, []).append(stages[i].name)
    each = tuple(Call(run_part, (recipe, root, names, tuple(methods)), (first,)) for names in own.values())
    behind = tuple(range(first, first + 1 + len(each)))
    return [
        Call(run_part, (recipe, root, before, tuple(methods))),
        *each,
        Call(run_last, (recipe, root, last, tuple(methods)), behind),
    ]


def run_part(recipe: Recipe, root: Path, names: Collection[str], methods: Collection[str]) -> None:
    """Run some stages of a comparison in a run folder; finished stages are skipped."""
    run = RunDir.create(root, resume=True, overwrite=False)
    start_log(run, name=root.name)
    read_source.cache_clear()
    write_atomic(run.recipe, to_yaml(recipe))
    for stage in stages_of(recipe, methods):
        if stage.name in names:
            run_stage(stage, run, recipe)


def run_last(recipe: Recipe, root: Path, names: Collection[str], methods: Collection[str]) -> None:
    """Run the stages that serve all methods of a seed, and write what every method cost."""
    run_part(recipe, root, names, methods)
    run = RunDir.open(root)
    note_weights(run, recipe)
    write_costs(run, recipe)


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
        if not own and not is_leftover(path):
            raise ArtifactError(f"{path} is no part of a comparison; choose another folder")
