"""Time our K-means beside scikit-learn and k-means-constrained, in turns, on the same rows; print JSON.

Example: ``python benchmarks/kmeans.py --samples 20000 --dimensions 64 --clusters 32 --rho 10 --repeats 3``
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np

from deblora.debias import SizeConstrainedKMeans, minimum_size


def long_tailed_rows(n_samples: int, n_dimensions: int, n_outliers: int, seed: int) -> np.ndarray:
    """Draw Gaussian classes with sizes that fall 100:1, plus far outliers that steal clusters."""
    rng = np.random.default_rng(seed)
    n_classes = 15
    shares = np.geomspace(1.0, 0.01, n_classes)
    labels = rng.choice(n_classes, size=n_samples, p=shares / shares.sum())
    rows = rng.standard_normal((n_samples, n_dimensions), dtype=np.float32)
    rows += rng.standard_normal((n_classes, n_dimensions), dtype=np.float32)[labels]
    rows[:n_outliers] *= 20
    return rows


def contenders(
    rows: np.ndarray, args: argparse.Namespace, min_size: int, seed: int
) -> dict[str, Callable[[], Any]]:
    """Return one fit per contender; the floor is named where it holds."""
    from sklearn.cluster import KMeans

    shared = {"n_init": 1, "max_iter": args.iterations, "random_state": seed}
    fits: dict[str, Callable[[], Any]] = {
        "ours, floor 0": lambda: SizeConstrainedKMeans(args.clusters, tol=0, **shared).fit(rows),
        "scikit-learn, floor 0": lambda: KMeans(args.clusters, tol=0, **shared).fit(rows),
        f"ours, floor {min_size}": lambda: SizeConstrainedKMeans(
            args.clusters, min_size=min_size, tol=0, **shared
        ).fit(rows),
    }
    if not args.skip_flow:
        from k_means_constrained import KMeansConstrained

        fits[f"k-means-constrained, floor {min_size}"] = lambda: KMeansConstrained(
            args.clusters, size_min=min_size, tol=0, **shared
        ).fit(rows)
    return fits


def measure(fit: Callable[[], Any], rows: np.ndarray, n_clusters: int) -> dict[str, float]:
    """Time one fit; the inertia is recomputed from the labels, the same way for all."""
    wall, cpu = time.perf_counter(), time.process_time()
    model = fit()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    inertia = 0.0
    for k in range(n_clusters):
        members = rows[model.labels_ == k].astype(np.float64)
        inertia += float(((members - members.mean(axis=0)) ** 2).sum()) if len(members) else 0.0
    smallest = int(np.bincount(model.labels_, minlength=n_clusters).min())
    return {
        "wall_s": wall,
        "cpu_s": cpu,
        "iterations": int(model.n_iter_),
        "inertia": inertia,
        "smallest": smallest,
    }


def machine() -> dict[str, Any]:
    """Describe what the times depend on."""
    packages = ("numpy", "scikit-learn", "k-means-constrained")
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "threads": os.environ.get("OMP_NUM_THREADS", "unset"),
        "packages": {name: metadata.version(name) for name in packages},
    }


def main() -> None:
    """Run the contenders in turns and print every repeat."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--clusters", type=int, default=32)
    parser.add_argument("--outliers", type=int, default=20)
    parser.add_argument("--rho", type=float, default=10.0)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip-flow", action="store_true", help="leave k-means-constrained out")
    args = parser.parse_args()
    min_size = minimum_size(args.samples, args.clusters, args.rho)
    runs: list[dict[str, Any]] = []
    for seed in range(args.repeats):
        rows = long_tailed_rows(args.samples, args.dimensions, args.outliers, seed)
        for name, fit in contenders(rows, args, min_size, seed).items():
            runs.append({"name": name, "seed": seed, **measure(fit, rows, args.clusters)})
    print(json.dumps({"settings": vars(args), "machine": machine(), "runs": runs}, indent=2))


if __name__ == "__main__":
    main()
