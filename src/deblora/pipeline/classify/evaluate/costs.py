"""What every row of a run cost: trained parameters, stored bytes, time and memory of training and extraction."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from deblora.errors import ArtifactError
from deblora.files import write_atomic
from deblora.models.adapters.files import WEIGHTS as ADAPTER_WEIGHTS
from deblora.models.adapters.kinds import SHARED
from deblora.pipeline.classify.train_deblora import RESIDUAL, is_map
from deblora.pipeline.tables import table
from deblora.recipe.classify import Recipe
from deblora.recipe.methods import TRAINED
from deblora.run.run_dir import ADAPTER, ADAPTERS, FACTS, HEAD, WEIGHTS, RunDir

COSTS = "costs.csv"
COLUMNS = (
    "method",
    "n_trained",
    "stored_bytes",
    "n_train_chips",
    "train_seconds",
    "train_cpu_seconds",
    "train_peak_bytes",
    "extract_seconds",
    "extract_cpu_seconds",
    "extract_peak_bytes",
)
"""Of ``eval/costs.csv``. A value that was not measured (a run of an earlier version) is empty."""

_BEFORE_DEBLORA = ("train-lora", "extract-lora", "cluster", "center", "calibrate", "train-deblora")


def write_costs(run: RunDir, recipe: Recipe) -> None:
    """Write ``eval/costs.csv`` from what finished stages used.

    Raises:
        ArtifactError: If a file of a row is damaged.
    """
    rows = costs_of(run, recipe)
    if rows:
        write_atomic(run.evaluation(COSTS), table(rows))


def costs_of(run: RunDir, recipe: Recipe) -> list[dict[str, object]]:
    """Return one line per row whose features are extracted.

    The time of ``deblora`` is that of everything before its features: first adapter, clusters, centers, second adapter.
    Parameters are those of the extractor; probes and heads that are thrown away do not count. Peak memory is that of
    the whole process while a stage ran.

    Raises:
        ArtifactError: If a file of a row is damaged.
    """
    stages = run.manifest()["stages"]
    n_chips = _n_train_chips(run)
    lora, second = run.adapter("lora"), run.adapter("deblora")
    placement = recipe.deblora.placement
    together = placement == "stack" or is_map(placement)  # features pass through both
    parts: list[tuple[str, str, Sequence[str], int, Sequence[Path], int]] = [
        ("zero-shot", "extract-base", (), 0, (), 0),
        ("lora", "extract-lora", ("train-lora",), _n_stored(lora), (lora,), n_chips),
        (
            "deblora",
            "extract-deblora",
            _BEFORE_DEBLORA,
            _n_stored(lora) + _n_stored(second),
            (lora, second) if together else (second,),
            n_chips,
        ),
    ]
    for name in TRAINED:
        facts, folder = _facts(run, name), run.row(name)
        kept = tuple(folder / file for file in (ADAPTER, ADAPTERS, WEIGHTS, HEAD))
        trained = (f"train-row-{name}",)
        parts.append(
            (name, f"extract-row-{name}", trained, facts.get("n_trained", 0), kept, facts.get("n_chips", 0))
        )
    return [
        {
            "method": name,
            "n_trained": n_trained,
            "stored_bytes": sum(_n_bytes(path) for path in kept),
            "n_train_chips": n_used,
            **_used("train", [stages[stage] for stage in before if stage in stages]),
            **_used("extract", [stages[extraction]]),
        }
        for name, extraction, before, n_trained, kept, n_used in parts
        if extraction in stages
    ]


def _used(prefix: str, records: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """Add up times and take the largest peak; 0 for no stage, empty where one of them was not measured."""
    found: dict[str, object] = {}
    for key in ("seconds", "cpu_seconds", "peak_bytes"):
        values = [float(record[key]) for record in records if key in record]
        total = max(values, default=0.0) if key == "peak_bytes" else sum(values)
        shown = int(total) if key == "peak_bytes" else round(total, 2)
        found[f"{prefix}_{key}"] = shown if len(values) == len(records) else ""
    return found


def _n_stored(folder: Path) -> int:
    """Count the numbers of an adapter, without matrices that are fixed."""
    for name in (ADAPTER_WEIGHTS, RESIDUAL):
        file = folder / name
        if file.is_file():
            try:
                with safe_open(file, framework="np") as weights:
                    names: list[str] = list(weights.keys())
                    keys = [key for key in names if not any(part in key for part in SHARED)]
                    shapes = [weights.get_slice(key).get_shape() for key in keys]
            except (SafetensorError, OSError) as error:
                raise ArtifactError(
                    f"{file} is damaged ({error}); delete it and run its stage again"
                ) from error
            return sum(_product(shape) for shape in shapes)
    return 0


def _product(shape: Sequence[int]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n


def _n_bytes(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else 0


def _facts(run: RunDir, name: str) -> dict[str, int]:
    path = run.row(name) / FACTS
    if not path.is_file():
        return {}
    try:
        return {key: int(value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); delete it and train its row again") from error


def _n_train_chips(run: RunDir) -> int:
    try:
        return sum(json.loads(run.groups.read_text(encoding="utf-8"))["counts"]["train"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{run.groups} is damaged ({error}); make it again with deblora audit") from error
