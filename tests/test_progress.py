"""Lines and bars on the terminal name their run where it shows several."""

import logging
from pathlib import Path

import pytest

from deblora.progress import name_bars, titled
from deblora.run.processes import start_log
from deblora.run.run_dir import RunDir


def test_terminal_and_bars_name_the_run_and_its_log_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir.create(tmp_path / "seed-3", resume=False, overwrite=False)
    try:
        start_log(run, name="alpha=50%/seed-3")
        logging.getLogger("deblora").info("probe: done in %.1f s", 2)
        assert titled("train") == "alpha=50%/seed-3: train"
    finally:
        name_bars("")
    assert capsys.readouterr().err == "alpha=50%/seed-3: probe: done in 2.0 s\n"
    assert run.log.read_text().endswith("INFO probe: done in 2.0 s\n")
    assert titled("train") == "train"
