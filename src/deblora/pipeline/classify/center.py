"""Stage ``center``: where each rare class should lie, by clusters (the paper) and by kernel neighbors (ours)."""

import numpy as np

from deblora.data.longtail import Groups
from deblora.debias.centers import (
    class_mean_centers,
    debiased_centers,
    global_mean_centers,
    random_head_centers,
)
from deblora.debias.neighbors import kernel_neighbor_centers
from deblora.debias.spaces import unit_rows
from deblora.debias.variants import moved_classes
from deblora.errors import DataError
from deblora.pipeline.audited import groups_of
from deblora.pipeline.classify.chips import open_chips
from deblora.recipe.classify import Recipe
from deblora.run.artifacts import Centers, Clusters, FeatureTable
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage


def check_groups(groups: Groups, recipe: Recipe) -> None:
    """Check that there are classes to move and, where the recipe draws on them, head classes.

    Raises:
        DataError: If there are none; says which setting made it so.
    """
    if not len(moved_classes(groups, recipe.calibrate)):
        raise DataError(
            f"no class is in the {recipe.calibrate.classes.replace('+', ' or ')}, so nothing can be de-biased; change "
            f"data.groups ({recipe.data.groups}) or its limits, or calibrate.classes"
        )
    if recipe.center.method == "random_head_mean" and not groups.head:
        raise DataError(
            "center.method is random_head_mean, but no class is in the head; change data.groups or its limits"
        )


def _work(run: RunDir, recipe: Recipe) -> None:
    chips = open_chips(run, recipe).split("train")
    features = FeatureTable.load(run.features("lora")).rows(chips.ids)
    groups = groups_of(run)
    check_groups(groups, recipe)
    classes = moved_classes(groups, recipe.calibrate)
    weights = np.zeros((len(classes), 0))  # the controls have no sources
    if recipe.center.method == "debiased":
        clusters = Clusters.load(run.clusters)
        centers, weights = debiased_centers(clusters.centers, clusters.of(chips.ids), chips.labels, classes)
    elif recipe.center.method == "class_mean":
        centers = class_mean_centers(features, chips.labels, classes)
    elif recipe.center.method == "global_mean":
        centers = global_mean_centers(features, classes)
    elif recipe.center.method == "kernel_neighbors":
        every, shares, _ = kernel_neighbor_centers(
            features, chips.labels, chips.n_classes, temperature=recipe.shift.temperature
        )
        centers, weights = every[classes], shares[classes]
    else:
        rng = np.random.default_rng(recipe.seed)
        centers = random_head_centers(features, chips.labels, classes, np.array(groups.head), rng)
    Centers(classes, centers, weights).save(run.centers("deblora"))
    neighbors, shares, has_donors = kernel_neighbor_centers(
        unit_rows(features), chips.labels, chips.n_classes, temperature=recipe.shift.temperature
    )
    donors = np.flatnonzero(has_donors)
    Centers(donors, neighbors[donors], shares[donors]).save(run.centers("shift"))


STAGE = Stage(
    name="center",
    settings=lambda recipe: [recipe.center.__dict__, recipe.calibrate.classes, recipe.shift.__dict__],
    inputs=lambda run: [run.samples, run.groups, run.features("lora"), run.clusters],
    outputs=lambda run: [run.centers("deblora"), run.centers("shift")],
    work=_work,
)
