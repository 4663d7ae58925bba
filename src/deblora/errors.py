"""Errors a user can mend: one message that says what, where and what to do; the shell exits with 2."""

import re

_LONG = re.compile(r"\S{401,}")


class DebloraError(Exception):
    """Base of every error that the user can mend.

    Messages quote what stands in files; a word of more than 400 letters is shortened to its ends.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_LONG.sub(lambda found: f"{found[0][:160]} ... {found[0][-160:]}", message))


class RecipeError(DebloraError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(DebloraError):
    """Chips, lists or labels are missing, unreadable or inconsistent."""


class ModelError(DebloraError):
    """Weights or an adapter are missing, foreign, damaged or unsafe to load."""


class ArtifactError(DebloraError):
    """A run folder, or a file in it, is missing, damaged or belongs to something else."""


class LauncherError(DebloraError):
    """Several processes were started in a way that does not make them one run."""
