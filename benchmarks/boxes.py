"""Time rotated IoU and NMS beside shapely and supervision, in turns, on the same boxes; write JSON.

Supervision is no dependency: its rows say why they are absent where it cannot be imported.
Example: ``python benchmarks/boxes.py --repeats 3 --out benchmarks/results/boxes-cpu.json``
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import torch
from machine import describe_machine

from deblora.detect.boxes import corners
from deblora.detect.overlap import pairwise_iou, rotated_nms

NMS_THRESHOLD = 0.1


def uniform_boxes(n: int, span: float, rng: np.random.Generator) -> torch.Tensor:
    """Draw boxes with sides of 10 to 100 pixels, evenly over a square."""
    center, sides = rng.uniform(0, span, (n, 2)), rng.uniform(10, 100, (n, 2))
    return torch.from_numpy(np.column_stack([center, sides, rng.uniform(-np.pi / 2, np.pi / 2, n)]))


def crowded_boxes(n: int, n_objects: int, span: float, rng: np.random.Generator) -> torch.Tensor:
    """Draw noisy copies of a few objects, as a dense detector puts out."""
    noise = rng.normal(size=(n, 5)) * [3, 3, 3, 3, 0.05]
    objects = uniform_boxes(n_objects, span, rng)[rng.integers(n_objects, size=n)]
    boxes = objects + torch.from_numpy(noise)
    boxes[:, 2:4] = boxes[:, 2:4].clamp(min=5)
    return boxes


def polygons_of(boxes: torch.Tensor) -> Any:
    """Return the boxes as shapely polygons; not part of any timing."""
    return shapely.polygons(corners(boxes).numpy())


def shapely_iou(a: Any, b: Any) -> np.ndarray:
    """Return the matrix of IoU with a tree for candidates and vectorized clipping."""
    rows, columns = shapely.STRtree(b).query(a)
    shared = shapely.area(shapely.intersection(a[rows], b[columns]))
    out = np.zeros((len(a), len(b)))
    out[rows, columns] = shared / (shapely.area(a)[rows] + shapely.area(b)[columns] - shared)
    return out


def shapely_loop_nms(polygons: Any, scores: np.ndarray, *, tree: bool) -> list[int]:
    """Suppress greedily, one kept box at a time, with or without a tree for candidates."""
    areas, alive, kept = shapely.area(polygons), np.ones(len(polygons), dtype=bool), []
    index = shapely.STRtree(polygons) if tree else None
    for i in np.argsort(-scores, kind="stable").tolist():
        if not alive[i]:
            continue
        kept.append(i)
        alive[i] = False
        others = np.flatnonzero(alive) if index is None else index.query(polygons[i])
        others = others[alive[others]]
        shared = shapely.area(shapely.intersection(polygons[i], polygons[others]))
        alive[others[shared / (areas[i] + areas[others] - shared) > NMS_THRESHOLD]] = False
    return kept


def supervision_nms() -> tuple[Callable[[torch.Tensor, np.ndarray], list[int]] | None, str]:
    """Return the peer and its version, or None and the reason."""
    try:
        from supervision.detection.utils.iou_and_nms import oriented_box_non_max_suppression
    except ImportError as error:
        return None, f"not measured: {error}"

    def suppress(quads: torch.Tensor, scores: np.ndarray) -> list[int]:
        points = quads.numpy()
        rows = np.column_stack([points.min(axis=1), points.max(axis=1), scores])
        keep = np.flatnonzero(oriented_box_non_max_suppression(rows, points, iou_threshold=NMS_THRESHOLD))
        return sorted(keep.tolist(), key=lambda i: -scores[i])

    return suppress, metadata.version("supervision")


def timed(function: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Run once; the CPU time is what a busy machine disturbs least."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def compare(
    contenders: dict[str, Callable[[], Any]], repeats: int, once: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run all contenders in turns; return the last results, all times and the ratios to the first.

    Those named in ``once`` take seconds and run in the first turn only.
    """
    times: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    results: dict[str, Any] = {}
    for turn in range(repeats):
        for name, function in contenders.items():
            if turn and name in once:
                continue
            results[name], spent = timed(function)
            times[name].append(spent)
    median = {
        name: {key: statistics.median(run[key] for run in runs) for key in ("wall_s", "cpu_s")}
        for name, runs in times.items()
    }
    ours = next(iter(contenders))
    ratios = {name: {key: value[key] / median[ours][key] for key in value} for name, value in median.items()}
    return results, {"times": times, "median": median, "ratio_to_ours": ratios}


def iou_scenes(n: int, repeats: int, seed: int) -> dict[str, Any]:
    """Compare the matrix of n x n boxes in a sparse and a dense scene, and where nearly all overlap."""
    entries = {}
    for name, span, n_rows in (
        ("sparse, 4000 px", 4000, n),
        ("dense, 1024 px", 1024, n),
        ("all, 20 px", 20, n // 20),
    ):
        rng = np.random.default_rng(seed)
        a, b = uniform_boxes(n_rows, span, rng), uniform_boxes(n, span, rng)
        first, second = polygons_of(a), polygons_of(b)
        contenders = {
            "ours": lambda a=a, b=b: pairwise_iou(a, b),
            "shapely": lambda first=first, second=second: shapely_iou(first, second),
        }
        pairwise_iou(a[:9], b)
        results, entry = compare(contenders, repeats)
        ours = results["ours"].numpy()
        entry["pairs"] = [n_rows, n]
        entry["n_overlapping"] = int((ours > 1e-12).sum())
        entry["largest_difference"] = float(np.abs(ours - results["shapely"]).max())
        entries[name] = entry
    return entries


def nms_scenes(n: int, repeats: int, seed: int, skip_slow: bool) -> dict[str, Any]:
    """Compare greedy suppression of n boxes."""
    peer, note = supervision_nms()
    rng = np.random.default_rng(seed)
    scenes = {
        "uniform, 4000 px": uniform_boxes(n, 4000, rng),
        "200 objects x 50": crowded_boxes(n, 200, 2000, rng),
        "uniform, 1024 px": uniform_boxes(n, 1024, rng),
        "all overlapping": uniform_boxes(n, 20, rng),
    }
    entries: dict[str, Any] = {"supervision": note}
    for name, boxes in scenes.items():
        scores = torch.from_numpy(rng.permutation(n) / n)
        polygons, quads = polygons_of(boxes), corners(boxes)
        contenders: dict[str, Callable[[], Any]] = {
            "ours": lambda boxes=boxes, scores=scores: rotated_nms(boxes, scores, NMS_THRESHOLD).tolist(),
            "shapely, tree": lambda p=polygons, s=scores: shapely_loop_nms(p, s.numpy(), tree=True),
        }
        # Without a tree each kept box meets all that are left: only where few are kept.
        if not skip_slow and name in ("200 objects x 50", "all overlapping"):
            contenders["shapely, plain loop"] = lambda p=polygons, s=scores: shapely_loop_nms(
                p, s.numpy(), tree=False
            )
        # Its matrix of all pairs takes minutes where nearly all of them overlap.
        if not skip_slow and peer is not None and name != "all overlapping":
            contenders["supervision"] = lambda q=quads, s=scores: peer(q, s.numpy())
        contenders["ours"]()
        results, entry = compare(contenders, repeats, once=("shapely, plain loop", "supervision"))
        entry["n_kept"] = len(results["ours"])
        entry["same_kept"] = {other: kept == results["ours"] for other, kept in results.items()}
        entries[name] = entry
    return entries


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iou-boxes", type=int, default=2000)
    parser.add_argument("--nms-boxes", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip-slow", action="store_true", help="leave the plain loop and supervision out")
    parser.add_argument("--out", type=Path, help="print when absent")
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = {
        "settings": {key: str(value) for key, value in vars(args).items()},
        "machine": describe_machine("torch", "numpy", "shapely"),
        "pairwise_iou": iou_scenes(args.iou_boxes, args.repeats, args.seed),
        "nms": nms_scenes(args.nms_boxes, args.repeats, args.seed, args.skip_slow),
    }
    text = json.dumps(report, indent=2) + "\n"
    if args.out is None:
        print(text)
    else:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
