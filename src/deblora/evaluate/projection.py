"""Features in the plane, for figures only."""

import numpy as np
from jaxtyping import Float, Int


def tsne_2d(
    features: Float[np.ndarray, "n d"], *, seed: int, max_samples: int = 1500
) -> tuple[Float[np.ndarray, "m 2"], Int[np.ndarray, " m"]]:
    """Embed features by t-SNE, a random subset when there are more than ``max_samples``.

    Args:
        features: One row per sample.
        seed: Chooses the subset and seeds t-SNE.
        max_samples: Largest number of points (ours: a readable figure in seconds).

    Returns:
        The points, and the ascending row of ``features`` that each one shows. Perplexity is 30 (default of
        scikit-learn), or a third of the points where there are fewer than 91.

    Raises:
        ValueError: If there are fewer than 4 samples to show, or features are not finite.
    """
    from sklearn.manifold import TSNE

    n_shown = min(len(features), max_samples)
    if features.ndim != 2 or n_shown < 4:
        raise ValueError(
            f"need at least 4 samples, got features of shape {features.shape}, at most {max_samples}"
        )
    if not np.isfinite(features).all():
        raise ValueError("features hold values that are not finite")
    rows = np.sort(np.random.default_rng(seed).choice(len(features), size=n_shown, replace=False))
    init = "pca" if features.shape[1] >= 2 else "random"
    tsne = TSNE(n_components=2, perplexity=min(30.0, (n_shown - 1) / 3), init=init, random_state=seed)
    return np.asarray(tsne.fit_transform(features[rows]), dtype=np.float64), rows
