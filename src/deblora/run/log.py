"""The log of a run, on the terminal and in its folder."""

import logging
import os
import sys

from deblora.progress import name_bars, titled
from deblora.run.processes import device, is_first, world_size
from deblora.run.run_dir import RunDir


def start_log(run: RunDir, *, name: str = "") -> None:
    """Log to the terminal and to the run folder, from the first process.

    Where progress bars are turned off (TQDM_DISABLE), the terminal shows warnings and errors only.

    Args:
        run: Where.
        name: What lines and bars on the terminal begin with, where it shows several runs.
    """
    name_bars(name)
    log = logging.getLogger("deblora")
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    if not is_first():
        log.setLevel(logging.CRITICAL + 1)
        return
    log.setLevel(logging.INFO)
    file = logging.FileHandler(run.log, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(file)
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(logging.WARNING if os.environ.get("TQDM_DISABLE") else logging.INFO)
    terminal.setFormatter(logging.Formatter(titled("").replace("%", "%%") + "%(message)s"))
    log.addHandler(terminal)
    if world_size() > 1:
        log.info("%d processes share training and extraction, on %s", world_size(), device().type)
