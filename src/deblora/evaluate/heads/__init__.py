"""Long-tail classifiers on frozen features: each ``fit_*`` returns a :class:`~deblora.evaluate.heads.head.Head`.

What they share (checks, standardization, selection on validation) is in ``head``, the convex objective in
``softmax``. The head that also sees features without labels is in ``unlabeled``. Training the backbone together with
such a loss is left to ``train``.
"""

from deblora.evaluate.heads.cosine import CosineHead, fit_ldam_drw, fit_lift, ldam_margins
from deblora.evaluate.heads.distribution import (
    Calibration,
    calibrated_gaussians,
    fit_distribution_calibrated,
    tukey,
)
from deblora.evaluate.heads.head import Head, Standardizer, select
from deblora.evaluate.heads.linear import (
    effective_number_weights,
    fit_balanced_softmax,
    fit_cross_entropy,
    fit_crt,
    fit_effective_number,
    fit_inverse_frequency,
    fit_logit_adjusted,
    fit_reweighted,
    fit_tau_normalized,
    inverse_frequency_weights,
    tau_normalize,
)
from deblora.evaluate.heads.nearest_mean import (
    CosineMeans,
    EuclideanMeans,
    fit_nearest_mean_cosine,
    fit_nearest_mean_euclidean,
)
from deblora.evaluate.heads.reslt import ResltHead, fit_reslt
from deblora.evaluate.heads.sade import SadeHead, dropout_views, fit_sade, inverse_log_prior, stable_weights
from deblora.evaluate.heads.semi_supervised import SharedGaussians, Start, fit_shared_gaussians

__all__ = [
    "Calibration",
    "CosineHead",
    "CosineMeans",
    "EuclideanMeans",
    "Head",
    "ResltHead",
    "SadeHead",
    "SharedGaussians",
    "Standardizer",
    "Start",
    "calibrated_gaussians",
    "dropout_views",
    "effective_number_weights",
    "fit_balanced_softmax",
    "fit_cross_entropy",
    "fit_crt",
    "fit_distribution_calibrated",
    "fit_effective_number",
    "fit_inverse_frequency",
    "fit_ldam_drw",
    "fit_lift",
    "fit_logit_adjusted",
    "fit_nearest_mean_cosine",
    "fit_nearest_mean_euclidean",
    "fit_reslt",
    "fit_reweighted",
    "fit_sade",
    "fit_shared_gaussians",
    "fit_tau_normalized",
    "inverse_frequency_weights",
    "inverse_log_prior",
    "ldam_margins",
    "select",
    "stable_weights",
    "tau_normalize",
    "tukey",
]
