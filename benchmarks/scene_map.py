"""Time and memory of ``deblora predict --tile`` on a large scene of noise, in a process of its own.

python benchmarks/scene_map.py RUN --work FOLDER --out benchmarks/results/scene-map.json
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from machine import describe_machine


def write_scene(path: Path, side: int, *, n_bands: int = 3) -> None:
    """Write a square 8-bit GeoTIFF of noise, block by block."""
    import rasterio
    from rasterio.windows import Window

    rng = np.random.default_rng(0)
    place = rasterio.Affine(1, 0, 500_000, 0, -1, 5_600_000)
    shape = {"height": side, "width": side, "count": n_bands, "dtype": "uint8"}
    blocks = {"tiled": True, "blockxsize": 256, "blockysize": 256, "nodata": 0}
    with rasterio.open(
        path, "w", driver="GTiff", crs="EPSG:32633", transform=place, **shape, **blocks
    ) as file:
        for top in range(0, side, 1024):
            n = min(1024, side - top)
            file.write(rng.integers(1, 255, (n_bands, n, side), np.uint8), window=Window(0, top, side, n))


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--side", type=int, default=12_000)
    parser.add_argument("--tile", type=int, default=128)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    scene, found = options.work / f"scene-{options.side}.tif", {}
    write_scene(scene, options.side)
    small = options.work / "small.tif"
    write_scene(small, options.tile)  # one tile: what the model and the libraries take by themselves
    for name, path in {"one_tile": small, "scene": scene}.items():
        call = [str(options.run), str(path), "--tile", str(options.tile), "--out", str(options.work / "map")]
        start = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", "deblora", "predict", *call, "--overwrite", "--quiet"]
        )
        _, status, used = os.wait4(child.pid, 0)
        if status:
            raise SystemExit(f"deblora predict ended with {os.waitstatus_to_exitcode(status)}")
        seconds = round(time.perf_counter() - start, 1)
        found[name] = {"seconds": seconds, "peak_mb": round(used.ru_maxrss / 1024)}
    record = {
        "size": f"{options.side} x {options.side} pixels, 3 bands, uint8",
        "tile": options.tile,
        "stride": (options.tile + 1) // 2,
        "machine": describe_machine("torch", "rasterio"),
    }
    content = json.dumps({**record, **found}, indent=1)
    options.out.write_text(content + "\n", encoding="utf-8")
    print(content)


if __name__ == "__main__":
    main()
