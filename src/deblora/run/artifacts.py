"""What travels between stages: small frozen tables of NumPy arrays that save and load themselves.

Arrays are safetensors files with provenance in their metadata; nothing is ever pickled. Which file lives where is
left to ``run_dir``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from deblora.debias.row_blocks import MappedRows, RowBlocks, SelectedRows, Shard
from deblora.errors import ArtifactError
from deblora.files import file_sha256, write_atomic


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
        """Return the features of ``ids`` in that order.

        Raises:
            ArtifactError: If an id has no row.
        """
        return np.asarray(self.features[_positions(self.ids, ids, "features", "extract")])

    def view(self, ids: tuple[str, ...]) -> Float[np.ndarray, "m d"]:
        """Return the features of ``ids`` as :meth:`rows` does, but leave on disk what is on disk.

        The result is then a ``row_blocks.RowBlocks``, which whoever works block by block takes for an array.

        Raises:
            ArtifactError: If an id has no row.
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
        arrays, provenance, ids = load_arrays(path)
        return cls(tuple(ids), _taken(path, arrays, "features", "f", ids=ids), provenance)


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
        """Return the clusters of ``ids`` in that order.

        Raises:
            ArtifactError: If an id has no cluster.
        """
        return np.asarray(self.assignments[_positions(self.ids, ids, "cluster", "cluster")])

    def save(self, path: Path) -> None:
        """Write atomically."""
        notes = {"min_size": str(self.min_size), "inertia": repr(self.inertia)}
        save_arrays(path, {"assignments": self.assignments, "centers": self.centers}, notes, list(self.ids))

    @classmethod
    def load(cls, path: Path) -> "Clusters":
        """Read from ``path``."""
        arrays, notes, ids = load_arrays(path)
        assignments = _taken(path, arrays, "assignments", "i", n_dims=1, ids=ids)
        centers = _taken(path, arrays, "centers", "f")
        try:
            min_size, inertia = int(notes["min_size"]), float(notes["inertia"])
        except (KeyError, ValueError) as error:
            raise _damaged(path, f"its notes lack {error}") from error
        if len(assignments) and not 0 <= int(assignments.min()) <= int(assignments.max()) < len(centers):
            raise _damaged(path, f"assignments name clusters beyond its {len(centers)}")
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
        arrays, _, _ = load_arrays(path)
        classes = _taken(path, arrays, "classes", "i", n_dims=1)
        centers, weights = (_taken(path, arrays, key, "f") for key in ("centers", "weights"))
        if not len(classes) == len(centers) == len(weights):
            raise _damaged(path, "classes, centers and weights differ in length")
        return cls(classes, centers, weights)


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
        """Return the calibrated features of ``ids`` in that order.

        Raises:
            ArtifactError: If an id has none.
        """
        return np.asarray(self.features[_positions(self.ids, ids, "calibrated features", "calibrate")])

    def save(self, path: Path) -> None:
        """Write atomically."""
        arrays = {"features": self.features.astype(np.float32), "alpha_per_class": self.alpha_per_class}
        save_arrays(path, arrays, {}, list(self.ids))

    @classmethod
    def load(cls, path: Path) -> "Targets":
        """Read from ``path``."""
        arrays, _, ids = load_arrays(path)
        features = _taken(path, arrays, "features", "f", ids=ids)
        return cls(tuple(ids), features, _taken(path, arrays, "alpha_per_class", "f", n_dims=1))


def save_index(path: Path, shards: Sequence[Path]) -> None:
    """Write the list of the files that make up one table, atomically, with their hashes.

    Args:
        path: The index, ``*.json``.
        shards: Files in the same folder, each written by :meth:`FeatureTable.save`, in the order of their rows.
    """
    files = [{"file": shard.name, "sha256": file_sha256(shard)} for shard in shards]
    write_atomic(path, json.dumps({"shards": files}, indent=1))


def _open_shards(path: Path) -> FeatureTable:
    """Open the files that an index names, reading their ids and not their features.

    Raises:
        ArtifactError: If the index or a file is missing or damaged.
    """
    try:
        names = [entry["file"] for entry in json.loads(path.read_text(encoding="utf-8"))["shards"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, str(error)) from error
    ids: list[str] = []
    provenance: dict[str, str] = {}
    shards: list[Shard] = []
    for name in names:
        file = path.parent / Path(name).name
        try:
            shard = Shard.open(file, "features")
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise _damaged(file, str(error)) from error
        provenance, own = _notes(file)
        if shard.n_rows != len(own) or (shards and shard.width != shards[0].width):
            raise _damaged(file, f"features have {shard.n_rows} rows of {shard.width}, and {len(own)} ids")
        shards.append(shard)
        ids += own
    if not shards:
        raise _damaged(path, "it names no file")
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


def load_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
    """Read what :func:`save_arrays` wrote.

    Raises:
        ArtifactError: If the file is absent or damaged.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; run the stage that writes it")
    try:
        arrays = load_file(path)
    except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
        raise _damaged(path, str(error)) from error
    return arrays, *_notes(path)


def _notes(path: Path) -> tuple[dict[str, str], list[str]]:
    """Return notes and row ids of a file."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = json.loads((file.metadata() or {}).get("deblora", "{}"))
        return dict(metadata["notes"]), list(metadata["ids"])
    except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
        raise _damaged(path, str(error)) from error


def _taken(
    path: Path,
    arrays: dict[str, np.ndarray],
    key: str,
    kind: str,
    *,
    n_dims: int = 2,
    ids: list[str] | None = None,
) -> np.ndarray:
    """Return one array of a file after checking that later stages can trust it.

    Args:
        path: For messages.
        arrays: What the file holds.
        key: Which array.
        kind: NumPy's letter for the type, ``f`` or ``i``.
        n_dims: Number of dimensions.
        ids: Row ids, if it has one row per chip.

    Raises:
        ArtifactError: If it is absent, of another shape or type, or holds a value that is not finite.
    """
    array = arrays.get(key)
    if array is None:
        raise _damaged(path, f"{key} is missing")
    if array.ndim != n_dims or array.dtype.kind != kind or (ids is not None and len(array) != len(ids)):
        raise _damaged(path, f"{key} has shape {array.shape}, type {array.dtype} and {len(ids or [])} ids")
    if kind == "f" and not np.isfinite(array).all():
        rows = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
        first = ids[rows[0]] if ids is not None else f"row {rows[0]}"
        raise _damaged(path, f"{key} holds NaN or infinite values in {len(rows)} rows, first: {first}")
    return array


def _damaged(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(f"{path} is damaged ({reason}); delete it and run its stage again")
