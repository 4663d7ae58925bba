"""The method on plain arrays: clusters with a size floor, de-biased centers, calibration."""

from typing import TYPE_CHECKING, Any

from deblora.debias.calibrate import alpha_from_imbalance, alpha_from_kappa, contract, shift
from deblora.debias.centers import (
    class_mean_centers,
    class_means,
    debiased_centers,
    global_mean_centers,
    random_head_centers,
)
from deblora.debias.kmeans.assignment import constrained_assignment
from deblora.debias.kmeans.estimator import SizeConstrainedKMeans, cluster_features, minimum_size
from deblora.debias.neighbors import fit_kappa, kernel_neighbor_centers

if TYPE_CHECKING:
    from deblora.debias.estimator import Debiaser

__all__ = [
    "Debiaser",
    "SizeConstrainedKMeans",
    "alpha_from_imbalance",
    "alpha_from_kappa",
    "class_mean_centers",
    "class_means",
    "cluster_features",
    "constrained_assignment",
    "contract",
    "debiased_centers",
    "fit_kappa",
    "global_mean_centers",
    "kernel_neighbor_centers",
    "minimum_size",
    "random_head_centers",
    "shift",
]


def __getattr__(name: str) -> Any:
    """Import the estimator on first use: its base class pulls in scikit-learn."""
    if name == "Debiaser":
        from deblora.debias.estimator import Debiaser

        return Debiaser
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
