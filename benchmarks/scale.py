"""Measure what large data cost: an audit of many files, clustering from disk, classifiers of many classes; write JSON.

Example: ``python benchmarks/scale.py audit kmeans classifiers --out benchmarks/results/scale-cpu.json``

Every part runs in a fresh process; wall and CPU seconds and the peak of resident memory are of that process alone.
Parts that are measured replace those of an earlier file, others stay.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine

PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "safetensors")


def audit(folder: Path, n: int) -> dict[str, Any]:
    """Audit ``n`` small PNG files in 100 class folders, pixels not decoded."""
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(stream, "PNG")
    for c in range(100):
        (folder / f"c{c:02d}").mkdir()
        for i in range(n // 100):
            (folder / f"c{c:02d}" / f"{i:05d}.png").write_bytes(stream.getvalue())
    from deblora.cli.main import main

    return measured(lambda: main(["audit", str(folder)]), n_files=n)


def kmeans(folder: Path, n: int) -> dict[str, Any]:
    """Cluster ``n`` x 256 float32 features from disk into 32 clusters with a floor, standardized."""
    from deblora.debias.kmeans.estimator import cluster_features
    from deblora.run.artifacts import FeatureTable, save_index

    rng = np.random.default_rng(0)
    centers = rng.standard_normal((40, 256), dtype=np.float32)
    shards = []
    for k in range(10):
        own = n // 10
        rows = rng.standard_normal((own, 256), dtype=np.float32)
        rows += centers[rng.integers(0, 40, own)]
        path = folder / f"lora-{k + 1:05d}-of-00010.safetensors"
        FeatureTable(tuple(f"{k}/{i}" for i in range(own)), rows, {}).save(path)
        shards.append(path)
    del rows
    save_index(folder / "lora.index.json", shards)
    table = FeatureTable.load(folder / "lora.index.json")

    def work() -> None:
        cluster_features(table.view(table.ids), n_clusters=32, rho=10.0, seed=0)

    return measured(work, n_rows=n, table_bytes=n * 256 * 4)


def classifiers(_: Path, n: int) -> dict[str, Any]:
    """Fit what a run fits of ``n`` classes on 192 features, 12 chips a class, long-tailed 50:1."""
    from deblora.data.longtail import groups_by_thirds
    from deblora.evaluate.classifiers.search import Samples
    from deblora.evaluate.classifiers.trials import SCALABLE, fit_classifiers

    rng = np.random.default_rng(0)
    shares = np.geomspace(1, 1 / 50, n)
    counts = np.maximum(2, np.round(shares / shares.sum() * 12 * n)).astype(int)
    y, y_val = np.repeat(np.arange(n), counts), np.repeat(np.arange(n), 2)
    means = 0.5 * rng.standard_normal((n, 192))
    x, x_val = ((means[own] + rng.standard_normal((len(own), 192))).astype(np.float32) for own in (y, y_val))
    samples = Samples(x, y, x_val, y_val, n, groups=groups_by_thirds(counts), statistics_of=x, seed=0)
    seconds: dict[str, float] = {}

    def work() -> None:
        last = time.perf_counter()
        for name, _ in fit_classifiers(samples, SCALABLE):
            seconds[name] = round(time.perf_counter() - last, 1)
            last = time.perf_counter()

    return {**measured(work, n_classes=n, n_samples=len(y)), "seconds_by_classifier": seconds}


PARTS = {"audit": (audit, 200_000), "kmeans": (kmeans, 1_000_000), "classifiers": (classifiers, 500)}


def measured(work: Any, **facts: object) -> dict[str, Any]:
    """Run once and return what it took."""
    load, start, cpu = os.getloadavg()[0], time.perf_counter(), time.process_time()
    work()
    return {
        **facts,
        "wall_seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_bytes_of_process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "load_before": round(load, 2),
    }


def main() -> None:
    """Measure the named parts, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=list(PARTS))
    parser.add_argument("--n", type=int, help="size, instead of that of the part")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        work, n = PARTS[options.parts[0]]
        with tempfile.TemporaryDirectory() as folder:
            print("result:" + json.dumps(work(Path(folder), options.n or n)))
        return
    kept = json.loads(options.out.read_text())["parts"] if options.out and options.out.is_file() else {}
    size = [] if options.n is None else ["--n", str(options.n)]
    for name in options.parts:
        done = subprocess.run(
            [sys.executable, __file__, name, "--alone", *size], stdout=subprocess.PIPE, text=True, check=True
        )
        kept[name] = json.loads(done.stdout.rpartition("result:")[2])
        print(name, json.dumps(kept[name]), flush=True)
        if options.out:
            text = json.dumps({"machine": describe_machine(*PACKAGES), "parts": kept}, indent=1)
            options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
