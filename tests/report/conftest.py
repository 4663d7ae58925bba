import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deblora.data.longtail import Groups
from deblora.report.content import DifferenceRow, Projection, ReportContent, ScoreRow

NAMES = (
    "cargo",
    "tanker",
    "container",
    "fishing boat",
    "bulk carrier",
    "tug",
    "dredger",
    "passenger",
    "law enforcement",
    "wing-in-ground <script>alert(1)</script>",
    "sail & $pleasure$ \x00",
    "救助船",
)
COUNTS = np.array([900, 610, 380, 210, 150, 96, 60, 41, 25, 14, 9, 5])
METHODS = (("frozen", 0.62, 0.18), ("lora", 0.71, 0.27), ("cdal <b>", 0.70, 0.30), ("deblora", 0.705, 0.41))
PROBES = ("linear", "balanced")


def scores_and_differences() -> tuple[tuple[ScoreRow, ...], tuple[DifferenceRow, ...]]:
    rows, differences = [], []
    for method, head, tail in METHODS:
        for j, probe in enumerate(PROBES):
            for group, value in (
                ("head", head - 0.02 * j),
                ("middle", 0.5),
                ("tail", tail + 0.05 * j),
                ("all", 0.5),
            ):
                width = 0.08 if group == "tail" else 0.03
                value = (2 * head + tail) / 3 if group == "all" else value
                if (method, probe, group) != ("frozen", "balanced", "middle"):
                    rows.append(ScoreRow(method, probe, group, value, value - width, value + width))
                if method != "lora":
                    gain = {
                        "tail": tail - 0.27,
                        "head": head - 0.71 - 0.01 * j,
                        "middle": 0.004,
                        "all": 0.01,
                    }[group]
                    ends = (gain - width / 1.6, gain + width / 1.6)
                    differences.append(DifferenceRow(method, probe, "lora", probe, group, gain, *ends))
    return tuple(rows), tuple(differences)


def projection(title: str, spread: float, seed: int) -> Projection:
    rng = np.random.default_rng(seed)
    middles = rng.normal(0, 20, (12, 2))
    labels = np.repeat(np.arange(12), np.minimum(COUNTS, 90))
    points = middles[labels] + rng.normal(0, spread, (len(labels), 2))
    means = {"training mean": middles, "test mean": middles + 4.0, "center": middles * 0.4}
    means["test mean"][11] = np.nan
    return Projection(title, points, labels, rng.random(len(labels)) < 0.3, means)


def labeled_f1() -> dict[str, np.ndarray]:
    base = np.linspace(0.85, 0.1, 12)
    rng = np.random.default_rng(3)
    tables = {"lora · linear": base}
    for i, name in enumerate(("frozen · linear", "deblora · linear", "deblora · balanced")):
        drift = np.linspace(-0.06, 0.1, 12) * i + rng.normal(0, 0.04, 12)
        tables[name] = np.clip(base + drift, 0, 1)
    return tables


@pytest.fixture
def content() -> ReportContent:
    """A full report with seeded numbers and hostile names."""
    rng = np.random.default_rng(0)
    rows, differences = scores_and_differences()
    confusion = {
        name: np.array(
            [rng.multinomial(30, 0.6 * np.eye(12)[i] + 0.4 * rng.dirichlet(np.ones(12))) for i in range(12)]
        )
        for name in ("lora · linear", "deblora · linear")
    }
    steps = np.arange(0, 600, 10)
    curves = {
        "lora": tuple((int(s), float(2.2 * np.exp(-s / 160) + 0.3 + rng.normal(0, 0.03))) for s in steps),
        "deblora": tuple((int(s), float(0.9 * np.exp(-s / 220) + 0.08 + rng.normal(0, 0.01))) for s in steps),
    }
    alpha = np.array([1.0] * 8 + [0.36, 0.25, 0.17, 0.1])
    return ReportContent(
        title="De-biased LoRA on simulated SAR ships",
        dataset="simulated SAR, 12 classes",
        backbone="galileo-nano",
        seeds=(0, 1, 2),
        class_names=NAMES,
        counts={"train": COUNTS, "val": np.full(12, 8), "test": np.full(12, 30)},
        groups=Groups((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)),
        rows=rows,
        differences=differences,
        per_class_f1=labeled_f1(),
        confusion=confusion,
        projections=(projection("Before: frozen features", 5.0, 1), projection("After: deblora", 3.0, 2)),
        composition=rng.dirichlet(np.full(16, 0.25), 12),
        alpha_per_class={"10 / ratio": alpha},
        curves=curves,
        separation={
            "frozen": {"inter_head_tail": 0.41, "inter_tail_tail": 0.22, "intra_tail": 0.31},
            "deblora": {"inter_head_tail": 0.55, "inter_tail_tail": 0.47, "intra_tail": float("nan")},
        },
        recipe_yaml="backbone:\n  name: galileo-nano\nlora:\n  rank: 8\n  note: '</pre><script>'\n",
        provenance={"weights sha256": "9f" * 32, "deblora": "0.1.0", "machine": "16 cores, 1 GPU"},
        timings={"audit": 1.2, "extract": 83.0, "cluster": 4.4, "train": 1911.5},
        notes=("The test split has 30 chips per class.",),
    )


@pytest.fixture
def changed(content: ReportContent) -> Callable[..., ReportContent]:
    """Return the full report with some parts replaced."""
    return lambda **parts: dataclasses.replace(content, **parts)


@pytest.fixture
def empty() -> ReportContent:
    """A report in which every part is absent."""
    nothing: dict[str, Any] = {
        name: {} for name in ("counts", "per_class_f1", "confusion", "alpha_per_class")
    }
    return ReportContent(
        title="",
        dataset="",
        backbone="",
        seeds=(),
        class_names=(),
        groups=Groups((), (), ()),
        rows=(),
        differences=(),
        projections=(),
        composition=None,
        curves={},
        separation={},
        recipe_yaml="",
        provenance={},
        timings={},
        notes=(),
        **nothing,
    )
