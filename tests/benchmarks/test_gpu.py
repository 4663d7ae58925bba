"""The benchmark for GPUs runs with tiny shapes on any machine."""

import json
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY_ROOT


def test_the_gpu_benchmark_runs_with_tiny_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY_ROOT / "benchmarks"))
    import gpu

    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--smoke", "--out", str(out)])
    gpu.main()
    found = json.loads(out.read_text())
    assert found["smoke"] and found["precision"] == "bf16" and found["machine"]["device"] == "cpu"
    assert found["ceiling"]["tflops"] > 0
    for name in ("satmae-vit-large", "sd-1.5-unet"):
        row = found[name]
        if "left_out" in row:
            assert name == "sd-1.5-unet"  # diffusers is an extra
            continue
        assert row["forward"]["tflops"] > 0 and row["extract_features"]["chips_per_s"] > 0
        assert 0 < row["trainable_parameters"] < 100_000
        # Backward through frozen weights costs about one more forward, and a LoRA step is both.
        flops = {key: row[key]["tflops"] * row[key]["seconds"][0] for key in ("forward", "lora_step")}
        assert 1.5 < flops["lora_step"] / flops["forward"] < 4


def test_without_a_gpu_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY_ROOT / "benchmarks"))
    import gpu

    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "gpu.json")])
    with pytest.raises(SystemExit) as caught:
        gpu.main()
    assert caught.value.code == 2 and "no GPU is found" in capsys.readouterr().err
