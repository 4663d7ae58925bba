"""Compare K-means with scikit-learn and k-means-constrained, in turns, on the same rows and starts; write JSON.

Example: ``python benchmarks/kmeans.py --out benchmarks/results/kmeans-cpu.json``

Three parts: ``free`` (no floor, and initialization, beside scikit-learn), ``floors`` (beside k-means-constrained) and
``memory`` (peak beyond the data, in a fresh process). scikit-learn reassigns the rows once more after its last
iteration, so ours runs one iteration more. All inertias are recomputed from the labels in float64. Ratios are ours
over theirs: medians over the repeats of CPU seconds and of wall seconds.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine

from deblora.debias import SizeConstrainedKMeans
from deblora.debias.kmeans.lloyd import greedy_start
from deblora.debias.matmul import torch_products
from deblora.debias.rows import centered_rows

PACKAGES = ("numpy", "scipy", "scikit-learn", "k-means-constrained", "ortools", "torch")
FLOORS = (0.25, 0.5, 1.0)
Run = dict[str, Any]


def long_tailed_rows(n_samples: int, n_dimensions: int, n_outliers: int, seed: int) -> np.ndarray:
    """Draw classes with sizes that fall 100:1 and scatter in a few directions, plus far outliers."""
    rng = np.random.default_rng(seed)
    n_classes, n_directions = 15, 16
    shares = np.geomspace(1.0, 0.01, n_classes)
    labels = rng.choice(n_classes, size=n_samples, p=shares / shares.sum())
    rows = rng.standard_normal((n_samples, n_dimensions), dtype=np.float32)
    means = 0.5 * rng.standard_normal((n_classes, n_dimensions), dtype=np.float32)
    directions = 0.25 * rng.standard_normal((n_classes, n_directions, n_dimensions), dtype=np.float32)
    for first in range(0, n_samples, 4096):
        part, classes = rows[first : first + 4096], labels[first : first + 4096]
        part *= 0.3
        part += means[classes]
        for c in range(n_classes):
            members = np.flatnonzero(classes == c)
            part[members] += (
                rng.standard_normal((len(members), n_directions), dtype=np.float32) @ directions[c]
            )
    rows[:n_outliers] *= 20
    return rows


def timed(work: Callable[[], Any]) -> tuple[Any, Run]:
    """Run once; return the result with its wall and CPU seconds and the load before it."""
    load = os.getloadavg()[0]
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    seconds = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    return result, {**{name: round(value, 4) for name, value in seconds.items()}, "load": round(load, 2)}


def described(name: str, fit: Callable[[], Any], rows: np.ndarray, n_clusters: int) -> Run:
    """Time one fit; the inertia is recomputed from the labels, the same way for all."""
    model, seconds = timed(fit)
    inertia = 0.0
    for k in range(n_clusters):
        members = rows[model.labels_ == k].astype(np.float64)
        inertia += float(((members - members.mean(axis=0)) ** 2).sum()) if len(members) else 0.0
    smallest = int(np.bincount(model.labels_, minlength=n_clusters).min())
    return {
        "name": name,
        **seconds,
        "iterations": int(model.n_iter_),
        "inertia": inertia,
        "smallest": smallest,
    }


def in_turns(repeats: int, contenders: dict[str, Callable[[], Run]]) -> list[Run]:
    """Alternate the contenders and swap who goes first."""
    runs = []
    for repeat in range(repeats):
        names = list(contenders) if repeat % 2 == 0 else list(contenders)[::-1]
        runs += [{"repeat": repeat, **contenders[name]()} for name in names]
    return runs


def ratios(runs: list[Run]) -> dict[str, float]:
    """Return medians of ours over theirs; the relative excess of our inertia where there is one."""
    ours = [run for run in runs if run["name"].startswith("ours")]
    theirs = [run for run in runs if not run["name"].startswith("ours")]

    def middle(part: list[Run], key: str) -> float:
        return float(np.median([run[key] for run in part]))

    found = {key: round(middle(ours, key) / middle(theirs, key), 4) for key in ("cpu_s", "wall_s")}
    if "inertia" in ours[0]:
        found["inertia_excess"] = middle(ours, "inertia") / middle(theirs, "inertia") - 1
    return found


def compare_free(args: argparse.Namespace) -> Run:
    """Fits without a floor, and starts, beside scikit-learn."""
    from sklearn.cluster import KMeans, kmeans_plusplus

    torch_products(
        np.ones((2, 2), np.float32), np.ones((2, 2), np.float32)
    )  # loads torch before the first time
    rows = long_tailed_rows(args.samples, args.dimensions, args.samples // 1000, 0)
    squares = centered_rows(rows)[1]
    start = kmeans_plusplus(rows[: args.samples // 10], args.clusters, random_state=0)[0]
    shared = {"init": start, "n_init": 1, "tol": 0}

    def begin(name: str, work: Callable[[], Any]) -> Run:
        return {"name": name, **timed(work)[1]}

    fits = {
        "ours": lambda: described(
            "ours",
            lambda: SizeConstrainedKMeans(args.clusters, max_iter=args.iterations + 1, **shared).fit(rows),
            rows,
            args.clusters,
        ),
        "scikit-learn": lambda: described(
            "scikit-learn",
            lambda: KMeans(args.clusters, max_iter=args.iterations, algorithm="lloyd", **shared).fit(rows),
            rows,
            args.clusters,
        ),
    }
    starts = {
        "ours": lambda: begin(
            "ours", lambda: greedy_start(rows, squares, args.clusters, np.random.default_rng(0))
        ),
        "scikit-learn": lambda: begin(
            "scikit-learn", lambda: kmeans_plusplus(rows, args.clusters, random_state=0)
        ),
    }
    fitted = in_turns(args.repeats, fits)
    started = in_turns(args.repeats, starts)
    return {
        "fit": {"ratios": ratios(fitted), "runs": fitted},
        "start": {"ratios": ratios(started), "runs": started},
    }


def compare_floors(args: argparse.Namespace) -> list[Run]:
    """Fits with binding floors beside k-means-constrained, both capped at the same iterations."""
    from k_means_constrained import KMeansConstrained

    table = []
    torch_products(
        np.ones((2, 2), np.float32), np.ones((2, 2), np.float32)
    )  # loads torch before the first time
    for n_samples in args.floor_samples:
        rows = long_tailed_rows(n_samples, args.dimensions, n_samples // 1000, 0)
        start = rows[np.random.default_rng(0).choice(n_samples, args.clusters, replace=False)]
        shared = {"init": start, "n_init": 1, "tol": 0}
        for share in FLOORS:
            floor = int(share * n_samples / args.clusters)

            def ours(floor: int = floor, shared: Run = shared, rows: np.ndarray = rows) -> Run:
                model = SizeConstrainedKMeans(
                    args.clusters, min_size=floor, max_iter=args.floor_iterations + 1, **shared
                )
                return described("ours", lambda: model.fit(rows), rows, args.clusters)

            def theirs(floor: int = floor, shared: Run = shared, rows: np.ndarray = rows) -> Run:
                model = KMeansConstrained(
                    args.clusters, size_min=floor, max_iter=args.floor_iterations, **shared
                )
                return described("k-means-constrained", lambda: model.fit(rows), rows, args.clusters)

            runs = in_turns(args.floor_repeats, {"ours": ours, "k-means-constrained": theirs})
            entry = {
                "samples": n_samples,
                "share": share,
                "floor": floor,
                "ratios": ratios(runs),
                "runs": runs,
            }
            print(json.dumps({key: entry[key] for key in ("samples", "share", "ratios")}), file=sys.stderr)
            table.append(entry)
    return table


def peak_memory(args: argparse.Namespace) -> Run:
    """Measure the peak of one fit in a fresh process."""
    command = [sys.executable, __file__, "--probe-memory"]
    for name in ("samples", "dimensions", "clusters", "iterations"):
        command += [f"--{name}", str(getattr(args, name))]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    probed: Run = json.loads(output)
    return probed


def probe_memory(args: argparse.Namespace) -> Run:
    """Fit in this process; torch is loaded before, its own size is reported apart."""

    def status(field: str) -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"this system reports no {field}")

    rows = long_tailed_rows(args.samples, args.dimensions, args.samples // 1000, 0)
    without_torch = status("VmRSS")
    import torch

    torch.ones(64, 64) @ torch.ones(64, 64)
    before = status("VmRSS")
    # Writing 5 resets the peak of the resident set (proc(5)).
    Path("/proc/self/clear_refs").write_text("5")
    SizeConstrainedKMeans(
        args.clusters, min_size=0, n_init=1, tol=0, max_iter=args.iterations, random_state=0
    ).fit(rows)
    peak_free = status("VmHWM") - before
    floor = args.samples // args.clusters // 2
    Path("/proc/self/clear_refs").write_text("5")
    SizeConstrainedKMeans(args.clusters, min_size=floor, n_init=1, tol=0, max_iter=2, random_state=0).fit(
        rows
    )
    peak_floor = status("VmHWM") - before
    return {
        "data_bytes": rows.nbytes,
        "beyond_data_bytes": peak_free,
        "beyond_data_share": round(peak_free / rows.nbytes, 4),
        "floor": floor,
        "beyond_data_bytes_floor": peak_floor,
        "beyond_data_share_floor": round(peak_floor / rows.nbytes, 4),
        "torch_itself_bytes": before - without_torch,
    }


def main() -> None:
    """Run the three parts, or those asked for, and write every repeat."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=1280)
    parser.add_argument("--clusters", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--floor-samples", type=int, nargs="*", default=[20_000, 50_000])
    parser.add_argument("--floor-iterations", type=int, default=3)
    parser.add_argument("--floor-repeats", type=int, default=3)
    parser.add_argument("--parts", nargs="*", default=["memory", "free", "floors"])
    parser.add_argument("--out", type=Path, help="JSON file; without it the result is printed")
    parser.add_argument("--probe-memory", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.probe_memory:
        print(json.dumps(probe_memory(args)))
        return
    parts = {"memory": peak_memory, "free": compare_free, "floors": compare_floors}
    hidden = ("out", "probe_memory")
    settings = {name: value for name, value in vars(args).items() if name not in hidden}
    result: Run = {"settings": settings, "machine": describe_machine(*PACKAGES)}
    for name in args.parts:
        result[name] = parts[name](args)
        text = json.dumps(result, indent=2)
        if args.out:
            args.out.write_text(text + "\n")
    if not args.out:
        print(text)


if __name__ == "__main__":
    main()
