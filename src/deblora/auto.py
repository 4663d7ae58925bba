"""``deblora run DATA``: the default recipe on somebody's own chips, and validation chooses among a short list.

The short list (``stages.choose.SHORT_LIST``) is zero-shot, LoRA and de-biased features and the kernel-neighbor
shift, each with every head that is known for them, and the semi-supervised head. What was chosen, why, and the
gain to be expected are in ``eval/choice.json``.
"""

import logging
from dataclasses import replace

from deblora.compare import judge_rows
from deblora.config import Recipe
from deblora.run_dir import RunDir
from deblora.stages.choose import SHORT_LIST
from deblora.stages.selection import select_chips

MIN_PER_CLUSTER = 8
"""Training chips per cluster that the default number of clusters is lowered to (ours)."""


def fit_to_data(recipe: Recipe) -> Recipe:
    """Return the recipe with no more clusters than a small data set can fill.

    Raises:
        DebloraError: If the chips cannot be read or split.
    """
    n_train = len(select_chips(recipe.data, recipe.seed).split("train"))
    most = max(2, n_train // MIN_PER_CLUSTER)
    if recipe.cluster.n_clusters <= most:
        return recipe
    logging.getLogger("deblora").warning(
        "cluster.n_clusters lowered from %d to %d for %d training chips",
        recipe.cluster.n_clusters,
        most,
        n_train,
    )
    return replace(recipe, cluster=replace(recipe.cluster, n_clusters=most))


def judge_short_list(run: RunDir, recipe: Recipe) -> None:
    """Fit the heads of the short list on the features of a run, and choose one of them."""
    judge_rows(run, recipe, SHORT_LIST)
