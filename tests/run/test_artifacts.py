"""Artifacts save, load and refuse."""

from pathlib import Path

import numpy as np
import pytest

from deblora.errors import ArtifactError
from deblora.files import write_atomic
from deblora.run.artifacts import Centers, Clusters, FeatureTable, Targets


def test_every_artifact_reads_back_as_itself(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "deep" / "x.safetensors"
    features = rng.normal(size=(3, 2)).astype(np.float32)
    FeatureTable(("a", "b", "é"), features, {"adapter": "lora"}).save(path)
    table = FeatureTable.load(path)
    assert table.ids == ("a", "b", "é")
    assert table.provenance == {"adapter": "lora"}
    np.testing.assert_array_equal(table.features, features)

    Clusters(("a", "b"), np.array([0, 2]), np.zeros((3, 2)), 1, 0.25).save(path)
    clusters = Clusters.load(path)
    assert (clusters.min_size, clusters.inertia, clusters.sizes.tolist()) == (1, 0.25, [1, 0, 1])

    Centers(np.array([4]), np.ones((1, 2)), np.ones((1, 3))).save(path)
    assert Centers.load(path).classes.tolist() == [4]

    Targets(("a", "b", "c"), features, np.array([1.0, 0.5])).save(path)
    assert Targets.load(path).alpha_per_class.tolist() == [1.0, 0.5]


def test_rows_are_matched_by_id() -> None:
    table = FeatureTable(("a", "b"), np.array([[1.0], [2.0]]))
    assert table.rows(("b", "a")).tolist() == [[2.0], [1.0]]
    with pytest.raises(ArtifactError, match="1 chips have no features, first: c"):
        table.rows(("a", "c"))


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is missing"):
        Clusters.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not a safetensors file at all")
    with pytest.raises(ArtifactError, match="is damaged"):
        Clusters.load(tmp_path / "bad.safetensors")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_atomic(path, "old")
    with pytest.raises(TypeError):
        write_atomic(path, None)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]
