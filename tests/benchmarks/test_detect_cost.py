"""The count of what detection costs, with shapes small enough to count by hand."""

import json
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY_ROOT


def test_costs_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY_ROOT / "benchmarks"))
    import detect_cost

    out = tmp_path / "cost.json"
    recipe = str(REPOSITORY_ROOT / "recipes" / "detect" / "dota.yaml")
    monkeypatch.setattr(sys, "argv", ["detect_cost.py", recipe, "--smoke", "--out", str(out)])
    detect_cost.main()
    found = json.loads(out.read_text())
    assert found["smoke"] and found["tile"] == 64 and found["precision"] == "bf16"
    rows = {name: row for name, row in found["rows"].items() if isinstance(row, dict)}
    assert set(rows) == {"zero-shot", "lora", "fine-tune"}
    frozen, lora, whole = rows.values()
    # By hand: 16 patches and a class token, two layers of width 32, and the pyramid's first layers (x2, x1, x1/2).
    n, d = 17, 32
    linear, attention, patches = 2 * 2 * n * (4 * d * d + 2 * d * 64), 2 * 4 * n * n * d, 2 * 16 * 768 * d
    pyramid = 2 * d * 16 * (16 * 4 + 16 + 4)
    assert frozen["tflop_forward"] > 1e-12 * (linear + attention + patches + pyramid)
    assert frozen["tflop_forward"] < lora["tflop_forward"] < 1.5 * frozen["tflop_forward"]
    assert frozen["tflop_forward"] == whole["tflop_forward"]
    # Two products per layer go back, five per attention, one to the patches; and what the pyramid passes on.
    extra = 1e-12 * (2 * linear + 2.5 * attention + patches + pyramid)
    assert whole["tflop_step"] - frozen["tflop_step"] == pytest.approx(extra, rel=1e-6)
    assert frozen["tflop_step"] < lora["tflop_step"]
    assert frozen["extractor_trained"] == 0 < lora["extractor_trained"] < whole["extractor_trained"]
    assert frozen["gb_per_tile"] < lora["gb_per_tile"]
    for row in rows.values():
        assert row["gb_of_batch"] == pytest.approx(row["gb_steady"] + 4 * row["gb_per_tile"])
