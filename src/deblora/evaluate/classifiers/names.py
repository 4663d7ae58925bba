"""The names of the classifiers, apart from their code: settings and help know them without SciPy."""

PRIOR_CLASSIFIERS = ("cross_entropy", "balanced_softmax", "logit_adjustment", "tau_norm")
"""The linear classifier and its forms by bias or lengths; ``tau_norm`` is not for moved features."""

FLOOR = "balanced_softmax_cv"
"""Balanced softmax whose settings need no validation chip: what every choice has to beat."""

CLASSIFIERS = (
    *PRIOR_CLASSIFIERS,
    FLOOR,
    "crt",
    "effective_number",
    "ldam_drw",
    "lift",
    "nearest_mean_cosine",
    "nearest_mean_euclidean",
    "reslt",
    "sade",
    "distribution_calibration",
)
"""All classifiers that are fitted unless others are asked for, in the order they are fitted and shown."""

SCALABLE = (*PRIOR_CLASSIFIERS, FLOOR, "nearest_mean_cosine", "nearest_mean_euclidean", "sade")
"""Fitted of large problems (``linear.LARGE``) unless others are asked for: one fit per penalty, and means (ours)."""

ON_REQUEST = ("sgd_probe",)
"""Fitted only when they are named."""
