"""Clustering a table on disk gives the clusters of the table in memory, in less memory than the table takes."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from deblora.debias import rows as lloyd_rows
from deblora.debias.kmeans.estimator import cluster_features
from deblora.debias.rows import moments
from deblora.debias.spaces import Space
from deblora.errors import DataError
from deblora.run.artifacts import FeatureTable, save_index

SPACES: tuple[Space, ...] = ("standardize", "raw", "l2", "pca")


def blobs(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Features far from the origin, of unequal scales, with a constant dimension."""
    centers = 4 * rng.standard_normal((6, d))
    x = centers[rng.integers(0, 6, n) ** 2 % 6] + rng.standard_normal((n, d))
    x = x * rng.uniform(0.1, 10, d) + 50
    x[:, 1] = 7.25
    return x.astype(np.float32)


def on_disk(folder: Path, x: np.ndarray, most: int) -> FeatureTable:
    ids = tuple(str(i) for i in range(len(x)))
    paths = []
    for first in range(0, len(x), most):
        paths.append(folder / f"part-{first:06d}.safetensors")
        FeatureTable(ids[first : first + most], x[first : first + most]).save(paths[-1])
    save_index(folder / "index.json", paths)
    return FeatureTable.load(folder / "index.json")


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("rho", [1.0, 2.0, float("inf")])
def test_clusters_are_those_of_the_table_in_memory(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, space: Space, rho: float
) -> None:
    monkeypatch.setattr(lloyd_rows, "BLOCK_ELEMENTS", 1 << 11)  # many blocks
    x = blobs(700, 9, rng)
    table = on_disk(tmp_path, x, 130)
    chosen = tuple(str(i) for i in rng.permutation(700)[:600])
    settings = {"n_clusters": 7, "rho": rho, "space": space, "n_init": 2, "seed": 5}
    labels, centers, floor, inertia = cluster_features(table.rows(chosen), **settings)
    found = cluster_features(table.view(chosen), **settings)
    assert np.array_equal(found[0], labels)
    np.testing.assert_allclose(found[1], centers, rtol=1e-6)
    assert found[1].dtype == centers.dtype and found[2] == floor
    assert found[3] == pytest.approx(inertia, rel=1e-5)


def test_moments_are_those_of_numpy(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lloyd_rows, "BLOCK_ELEMENTS", 100)
    x = blobs(200, 4, rng)
    found = moments(on_disk(tmp_path, x, 33).features)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(found.spread, x.std(axis=0, dtype=np.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("space", SPACES)
def test_memory_stays_far_below_the_table(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, space: Space
) -> None:
    """20 MB on disk, blocks of 0.25 MB; rows times clusters is a 64th of the table."""
    monkeypatch.setattr(lloyd_rows, "BLOCK_ELEMENTS", 1 << 16)
    x = rng.standard_normal((20_000, 256), dtype=np.float32)
    x[:10_000] += 1
    table = on_disk(tmp_path, x, 3000)
    view = table.view(table.ids)
    n_bytes = x.nbytes
    del x
    tracemalloc.start()
    try:
        labels, *_ = cluster_features(view, n_clusters=4, rho=10.0, space=space, n_init=1, seed=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(labels) == 20_000
    assert peak < n_bytes / 3


@pytest.mark.parametrize(
    ("value", "space", "words"),
    [(np.nan, "standardize", "NaN or infinite values, first in row 411"), (0.0, "l2", "row 411 is zero")],
)
def test_bad_rows_on_disk_are_named(
    tmp_path: Path, rng: np.random.Generator, value: float, space: Space, words: str
) -> None:
    x = blobs(500, 6, rng)
    x[411] = value
    with pytest.raises(DataError, match=words):
        cluster_features(on_disk(tmp_path, x, 100).features, n_clusters=3, rho=2.0, space=space, seed=0)
