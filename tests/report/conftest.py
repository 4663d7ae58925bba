"""A full report of one run."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from deblora.report.sections import RUN, Report, report_page
from report_builders import (
    NAMES,
    class_f1,
    classes,
    confusion,
    history,
    projection,
    scores_and_differences,
    write_page,
)


@pytest.fixture(scope="session")
def report() -> Report:
    """A full report of one run."""
    rng = np.random.default_rng(0)
    scores, differences = scores_and_differences()
    shares = pd.DataFrame(rng.dirichlet(np.full(16, 0.25), 12), index=list(NAMES))
    distances = [
        ("lora", "inter_head_tail", 0.41),
        ("lora", "intra_tail", np.nan),
        ("deblora", "inter_head_tail", 0.55),
    ]
    return Report(
        title="De-biased LoRA on simulated SAR ships",
        facts={"Data set": "ships", "Backbone": "galileo-nano"},
        tables={
            "scores": scores,
            "differences": differences,
            "classes": classes(),
            "class_f1": class_f1(),
            "confusion": confusion(),
            "projection": pd.concat([projection("Before", 5.0, 1), projection("After", 3.0, 2)]),
            "composition": shares,
            "history": history(),
            "separation": pd.DataFrame(
                [{"method": m, "split": "test", "metric": key, "value": value} for m, key, value in distances]
            ),
            "timings": pd.DataFrame({"stage": ["audit", "extract"], "seconds": [1.2, 83.0]}),
            "costs": pd.DataFrame({"method": ["lora"], "n_trained": [1.5e6], "stored_bytes": [6e6]}),
        },
        recipe_yaml="backbone:\n  name: galileo-nano\nlora:\n  note: '</pre><script>'\n",
        provenance={"weights sha256": "9f" * 32, "deblora": "0.1.0"},
        says={
            "lora": "A first LoRA adapter.",
            "deblora": "A second adapter trained toward calibrated features.",
        },
        choice={
            "method": "deblora",
            "classifier": "balanced_softmax",
            "best": ["deblora", "balanced_softmax"],
            "floor": ["lora", "balanced_softmax_cv"],
            "reference": ["zero-shot", "balanced_softmax_cv"],
            "gains": {
                "tail": {"value": 0.09, "ci_lower": 0.02, "ci_upper": 0.15},
                "all": {"value": 0.08, "ci_lower": 0.03, "ci_upper": 0.12},
            },
            "sure": 0.97,
            "floor_scores": {"lora": 0.41, "zero-shot": 0.44},
            "is_refitted": True,
            "n_val": 96,
            "fewest_val": 12,
            "candidates": [
                {"method": "deblora", "classifier": "balanced_softmax", "macro_f1": 0.6},
                {"method": "lora", "classifier": "balanced_softmax", "macro_f1": 0.55},
            ],
        },
        notes=("The test split has 30 chips per class.",),
    )


@pytest.fixture(scope="session")
def changed(report: Report) -> Callable[..., Report]:
    """Return the full report with some tables replaced, or left out when None."""

    def change(**parts: pd.DataFrame | None) -> Report:
        tables = {**report.tables, **parts}
        return dataclasses.replace(
            report, tables={name: table for name, table in tables.items() if table is not None}
        )

    return change


@pytest.fixture(scope="session")
def page(report: Report) -> str:
    return write_page(report_page(report, RUN), "run")
