"""What travels between stages: small frozen tables of NumPy arrays that save and load themselves.

Arrays are safetensors files with provenance in their metadata; nothing is ever pickled. Which file lives where is
left to ``run_dir``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from deblora.debias.row_blocks import MappedRows, RowBlocks, SelectedRows, Shard
from deblora.errors import ArtifactError
from deblora.files import file_sha256, write_atomic

DAMAGE = (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading a file that was cut, edited or made to do harm may raise."""


def damaged(path: Path, why: object, again: str = "run its stage again") -> ArtifactError:
    """Return the error that a file is damaged, and what to do after deleting it."""
    return ArtifactError(f"{path} is damaged ({why}); delete it and {again}")


@dataclass(frozen=True)
class FeatureTable:
    """One feature vector per chip; rows are matched by id, never by position.

    Features that were loaded from shards stay on disk: ``features`` is then a ``row_blocks.MappedRows``, which reads
    the rows that are asked for.
    """

    ids: tuple[str, ...]
    features: Float[np.ndarray, "n d"]
    provenance: dict[str, str] = field(default_factory=dict)

    def rows(self, ids: tuple[str, ...]) -> Float[np.ndarray, "m d"]:
        """Return the features of ``ids`` in that order; raises an ArtifactError if an id has no row."""
        return np.asarray(self.features[_positions(self.ids, ids, "features", "extract")])

    def view(self, ids: tuple[str, ...]) -> Float[np.ndarray, "m d"]:
        """Return the features of ``ids`` as :meth:`rows` does, but leave on disk what is on disk.

        The result is then a ``row_blocks.RowBlocks``, which whoever works block by block takes for an array.
        """
        if not isinstance(self.features, RowBlocks):
            return self.rows(ids)
        positions = _positions(self.ids, ids, "features", "extract")
        return cast("np.ndarray", SelectedRows(self.features, positions))

    def save(self, path: Path) -> None:
        """Write atomically, as one file."""
        features = np.asarray(self.features, dtype=np.float32)
        save_arrays(path, {"features": features}, self.provenance, list(self.ids))

    @classmethod
    def load(cls, path: Path) -> "FeatureTable":
        """Read from ``path``, a file or the index that :func:`save_index` wrote."""
        if path.suffix == ".json":
            return _open_shards(path)
        arrays, provenance, ids = load_arrays(path, {"features": ("f", 2)}, by_chip=("features",))
        return cls(tuple(ids), arrays["features"], provenance)


@dataclass(frozen=True)
class Clusters:
    """K-means with a floor: assignments of the training chips and centers in the original feature space."""

    ids: tuple[str, ...]
    assignments: Int[np.ndarray, " n"]
    centers: Float[np.ndarray, "k d"]
    min_size: int
    inertia: float

    @property
    def sizes(self) -> Int[np.ndarray, " k"]:
        """Samples per cluster."""
        return np.bincount(self.assignments, minlength=len(self.centers))

    def of(self, ids: tuple[str, ...]) -> Int[np.ndarray, " m"]:
        """Return the clusters of ``ids`` in that order; raises an ArtifactError if an id has no cluster."""
        return np.asarray(self.assignments[_positions(self.ids, ids, "cluster", "cluster")])

    def save(self, path: Path) -> None:
        """Write atomically."""
        notes = {"min_size": str(self.min_size), "inertia": repr(self.inertia)}
        save_arrays(path, {"assignments": self.assignments, "centers": self.centers}, notes, list(self.ids))

    @classmethod
    def load(cls, path: Path) -> "Clusters":
        """Read from ``path``."""
        schema = {"assignments": ("i", 1), "centers": ("f", 2)}
        arrays, notes, ids = load_arrays(path, schema, by_chip=("assignments",))
        assignments, centers = arrays["assignments"], arrays["centers"]
        try:
            min_size, inertia = int(notes["min_size"]), float(notes["inertia"])
        except (KeyError, ValueError) as error:
            raise damaged(path, f"its notes lack {error}") from error
        if len(assignments) and not 0 <= int(assignments.min()) <= int(assignments.max()) < len(centers):
            raise damaged(path, f"assignments name clusters beyond its {len(centers)}")
        return cls(tuple(ids), assignments, centers, min_size, inertia)


@dataclass(frozen=True)
class Centers:
    """One center per moved class; ``weights`` are the shares in its sources (clusters or donor classes)."""

    classes: Int[np.ndarray, " t"]
    centers: Float[np.ndarray, "t d"]
    weights: Float[np.ndarray, "t k"]

    def save(self, path: Path) -> None:
        """Write atomically."""
        save_arrays(path, {"classes": self.classes, "centers": self.centers, "weights": self.weights}, {}, [])

    @classmethod
    def load(cls, path: Path) -> "Centers":
        """Read from ``path``."""
        arrays, _, _ = load_arrays(path, {"classes": ("i", 1), "centers": ("f", 2), "weights": ("f", 2)})
        if len({len(array) for array in arrays.values()}) > 1:
            raise damaged(path, "classes, centers and weights differ in length")
        return cls(**arrays)


@dataclass(frozen=True)
class Targets:
    """Calibrated training features and the weight ``alpha`` of the original feature, per class."""

    ids: tuple[str, ...]
    features: Float[np.ndarray, "n d"]
    alpha_per_class: Float[np.ndarray, " c"]

    @property
    def moved_nothing(self) -> bool:
        """True when every class keeps its features: all weights are 1."""
        return bool(np.all(self.alpha_per_class == 1.0))

    def rows(self, ids: tuple[str, ...]) -> Float[np.ndarray, "m d"]:
        """Return the calibrated features of ``ids`` in that order; raises an ArtifactError if an id has none."""
        return np.asarray(self.features[_positions(self.ids, ids, "calibrated features", "calibrate")])

    def save(self, path: Path) -> None:
        """Write atomically."""
        arrays = {"features": self.features.astype(np.float32), "alpha_per_class": self.alpha_per_class}
        save_arrays(path, arrays, {}, list(self.ids))

    @classmethod
    def load(cls, path: Path) -> "Targets":
        """Read from ``path``."""
        schema = {"features": ("f", 2), "alpha_per_class": ("f", 1)}
        arrays, _, ids = load_arrays(path, schema, by_chip=("features",))
        return cls(tuple(ids), **arrays)


def save_index(path: Path, shards: Sequence[Path]) -> None:
    """Write the list of the files that make up one table, atomically, with their hashes.

    Args:
        path: The index, ``*.json``.
        shards: Files in the same folder, each written by :meth:`FeatureTable.save`, in the order of their rows.
    """
    files = [{"file": shard.name, "sha256": file_sha256(shard)} for shard in shards]
    write_atomic(path, json.dumps({"shards": files}, indent=1))


def _open_shards(path: Path) -> FeatureTable:
    """Open the files that an index names, reading their ids and not their features."""
    ids: list[str] = []
    provenance: dict[str, str] = {}
    shards: list[Shard] = []
    file = path
    try:
        for entry in json.loads(path.read_text(encoding="utf-8"))["shards"]:
            file = path.parent / Path(entry["file"]).name
            shard = Shard.open(file, "features")
            provenance, own = _notes(file)
            if shard.n_rows != len(own) or (shards and shard.width != shards[0].width):
                raise ValueError(f"features have {shard.n_rows} rows of {shard.width}, and {len(own)} ids")
            shards.append(shard)
            ids += own
    except DAMAGE as error:
        raise damaged(file, error) from error
    if not shards:
        raise damaged(path, "it names no file")
    return FeatureTable(tuple(ids), cast("np.ndarray", MappedRows(tuple(shards))), provenance)


def _positions(known: tuple[str, ...], ids: tuple[str, ...], what: str, stage: str) -> Int[np.ndarray, " m"]:
    """Return where each id is, so that rows are matched by id and never by position."""
    position = {chip_id: i for i, chip_id in enumerate(known)}
    missing = [chip_id for chip_id in ids if chip_id not in position]
    if missing:
        raise ArtifactError(f"{len(missing)} chips have no {what}, first: {missing[0]}; run {stage} again")
    return np.array([position[chip_id] for chip_id in ids], dtype=np.int64)


def save_arrays(path: Path, arrays: dict[str, np.ndarray], notes: dict[str, str], ids: list[str]) -> None:
    """Write arrays, notes and row ids as one safetensors file, atomically."""
    # One key, because the order of several is not reproducible and with it the hash of the file.
    metadata = {"deblora": json.dumps({"ids": ids, "notes": notes}, sort_keys=True)}
    write_atomic(path, save({key: np.ascontiguousarray(value) for key, value in arrays.items()}, metadata))


def load_arrays(
    path: Path, schema: Mapping[str, tuple[str, int]], *, by_chip: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
    """Read what :func:`save_arrays` wrote, after checking that later stages can trust it.

    Args:
        path: The file.
        schema: NumPy's letter for the type (``f`` or ``i``) and the number of dimensions of every array to read.
        by_chip: Those with one row per id.

    Returns:
        Arrays in the order of the schema, notes and row ids.

    Raises:
        ArtifactError: If the file is absent or damaged, or an array is absent, of another shape or type, or holds a
            value that is not finite.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; run the stage that writes it")
    try:
        notes, ids = _notes(path)
        with safe_open(path, framework="np") as file:
            found = {key: file.get_tensor(key) for key in schema if key in set(file.keys())}
    except DAMAGE as error:
        raise damaged(path, error) from error
    for key, (kind, n_dims) in schema.items():
        fault = _fault(found.get(key), kind, n_dims, ids if key in by_chip else None)
        if fault:
            raise damaged(path, f"{key} {fault}")
    return found, notes, ids


def _fault(array: np.ndarray | None, kind: str, n_dims: int, ids: list[str] | None) -> str:
    """Return why an array cannot be used, or nothing."""
    if array is None:
        return "is missing"
    if array.ndim != n_dims or array.dtype.kind != kind or (ids is not None and len(array) != len(ids)):
        return f"has shape {array.shape}, type {array.dtype} and {len(ids or [])} ids"
    if kind == "f" and not np.isfinite(array).all():
        rows = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
        first = ids[rows[0]] if ids is not None else f"row {rows[0]}"
        return f"holds NaN or infinite values in {len(rows)} rows, first: {first}"
    return ""


def _notes(path: Path) -> tuple[dict[str, str], list[str]]:
    """Return notes and row ids of a file."""
    with safe_open(path, framework="np") as file:
        metadata: Any = json.loads((file.metadata() or {}).get("deblora", "{}"))
    return dict(metadata["notes"]), list(metadata["ids"])
