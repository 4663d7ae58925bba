"""De-biased LoRA adapters for long-tailed remote-sensing imagery.

Rooms, from the ground up: ``data`` (chips, readers, long tail, simulator), ``models`` (backbones, adapters), ``train``
(loop, objectives, extraction), ``debias`` (clusters, centers, calibration), ``evaluate`` (classifiers, metrics),
``detect`` (oriented detection); then the shell: ``recipe`` (settings), ``run`` (run folders, stages), ``report``
(pages), ``pipeline`` (the stages in order), ``model`` (all of it from Python), ``cli``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deblora.debias import Debiaser, SizeConstrainedKMeans
    from deblora.errors import DebloraError
    from deblora.model import Model, audit, compare, fit, load

__version__ = "0.1.0"

__all__ = [
    "Debiaser",
    "DebloraError",
    "Model",
    "SizeConstrainedKMeans",
    "audit",
    "compare",
    "fit",
    "load",
]

_HOMES = {
    **dict.fromkeys(("Model", "audit", "compare", "fit", "load"), "deblora.model"),
    **dict.fromkeys(("Debiaser", "SizeConstrainedKMeans"), "deblora.debias"),
    "DebloraError": "deblora.errors",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for on first use: torch and scikit-learn take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*__all__, "__version__"])
