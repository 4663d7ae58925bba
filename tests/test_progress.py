"""Lines and bars on the terminal name their run where it shows several."""

import logging
from pathlib import Path

import pytest

from deblora.progress import name_bars, no_bar, titled
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


def test_there_are_no_bars_in_files_and_none_where_they_are_turned_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    assert no_bar()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert not no_bar() and no_bar(short=True)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert no_bar()


def test_every_bar_asks_whether_it_is_wanted() -> None:
    source = Path(__file__).resolve().parent.parent / "src" / "deblora"
    for path in source.rglob("*.py"):
        text = path.read_text()
        assert text.count("tqdm(") == text.count("disable=no_bar(") + text.count("# not a bar"), path
