"""Errors a user can mend: one message that says what, where and what to do; the shell exits with 2."""


class DebloraError(Exception):
    """Base of every error that the user can mend."""


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
