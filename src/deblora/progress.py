"""What progress bars are called: several runs may share a terminal, and then every bar names its run."""

from contextvars import ContextVar

_NAME: ContextVar[str] = ContextVar("name of the run", default="")


def name_bars(name: str) -> None:
    """Call every later bar of this process after a run; an empty name takes that back."""
    _NAME.set(name)


def titled(title: str) -> str:
    """Return the title of a bar, behind the name of the run if it has one."""
    return f"{_NAME.get()}: {title}" if _NAME.get() else title
