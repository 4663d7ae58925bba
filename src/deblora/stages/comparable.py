"""Which finished runs may stand in one table: those of a data set and backbone may differ in the seed only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deblora.config import tables
from deblora.errors import ArtifactError
from deblora.stages.finished_run import FinishedRun


def check_comparable(runs: Sequence[FinishedRun]) -> None:
    """Check that runs of one data set and backbone differ in the seed only.

    Raises:
        ArtifactError: If settings, classes or numbers of chips differ, or a seed is there twice.
    """
    for own in by_study(runs).values():
        _check_settings(own)
        _check_data(own)
        for seed in dict.fromkeys(run.unit.seed for run in own):
            same = [str(run.root) for run in own if run.unit.seed == seed]
            if len(same) > 1:
                raise ArtifactError(
                    f"{' and '.join(same)} are the same run ({own[0].unit.dataset} on {own[0].unit.backbone}, seed "
                    f"{seed}); a seed counts once, keep one of them"
                )


def by_study(runs: Sequence[FinishedRun]) -> dict[tuple[str, str], list[FinishedRun]]:
    """Split runs by data set and backbone, in order of first appearance."""
    parts: dict[tuple[str, str], list[FinishedRun]] = {}
    for run in runs:
        parts.setdefault((run.unit.dataset, run.unit.backbone), []).append(run)
    return parts


def _check_settings(runs: Sequence[FinishedRun]) -> None:
    settings = [_settings(run) for run in runs]
    lines = []
    for key in settings[0]:
        holders: dict[str, list[str]] = {}
        for run, values in zip(runs, settings, strict=True):
            holders.setdefault(_shown(values[key]), []).append(run.name)
        if len(holders) > 1:
            values_in = [f"{value} in {' and '.join(names)}" for value, names in holders.items()]
            lines.append(f"  - {key}: {', '.join(values_in)}")
    if lines:
        raise ArtifactError(
            f"runs of {runs[0].unit.dataset} on {runs[0].unit.backbone} must differ in the seed only, but these "
            "settings differ:\n" + "\n".join(lines) + "\nmerge runs of one recipe, the others apart"
        )


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def _settings(run: FinishedRun) -> dict[str, Any]:
    """Return the dotted settings of a run without its seed; a source inside the run folder is named from there."""
    flat = dict(_flat(tables(run.recipe), ""))
    del flat["seed"]
    source = Path(run.recipe.data.source).resolve()
    if source.is_relative_to(run.root.resolve()):
        flat["data.source"] = f"(run folder)/{source.relative_to(run.root.resolve()).as_posix()}"
    return flat


def _flat(values: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return pairs


def _check_data(runs: Sequence[FinishedRun]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if run.class_names != first.class_names:
            odd = sorted(set(run.class_names) ^ set(first.class_names))
            what = f"the class {odd[0]} is in one only" if odd else "their order differs"
            raise ArtifactError(f"{first.name} and {run.name} have other classes ({what}); merge them apart")
        if run.n_chips != first.n_chips:
            raise ArtifactError(
                f"{first.name} and {run.name} have other numbers of chips ({first.n_chips} and {run.n_chips}); "
                "the data have changed between them, run one of them again"
            )
