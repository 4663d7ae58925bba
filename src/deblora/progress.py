"""Progress bars: what they are called when several runs share a terminal, and when there are none."""

import os
import sys
from contextvars import ContextVar

_NAME: ContextVar[str] = ContextVar("name of the run", default="")


def name_bars(name: str) -> None:
    """Call every later bar of this process after a run; an empty name takes that back."""
    _NAME.set(name)


def titled(title: str) -> str:
    """Return the title of a bar, behind the name of the run if it has one."""
    return f"{_NAME.get()}: {title}" if _NAME.get() else title


def no_bar(*, short: bool = False) -> bool:
    """Tell whether a bar is left out: for short work, with ``TQDM_DISABLE`` (which ``--quiet`` sets), or into a file.

    Args:
        short: Whether there is too little to do for a bar.
    """
    return short or bool(os.environ.get("TQDM_DISABLE")) or not sys.stderr.isatty()
