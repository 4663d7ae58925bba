"""Stages ``center`` and ``calibrate``: where each rare class should lie, and the training features moved there.

Both write two files, ``deblora`` (the center and mode of the recipe) and ``shift`` (kernel neighbors, ours). They need
ids and labels of the audit, no picture.
"""

import logging

import numpy as np

from deblora.data.longtail import Groups
from deblora.debias.spaces import unit_rows
from deblora.debias.variants import VARIANTS, Toward, alpha_of, centers_of, move, moved_classes
from deblora.errors import DataError
from deblora.pipeline.audited import read_audited
from deblora.recipe.classify import Recipe
from deblora.run.artifacts import Centers, Clusters, FeatureTable, Targets
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage

log = logging.getLogger("deblora")
SHIFT = VARIANTS["shift"]


def check_groups(groups: Groups, recipe: Recipe) -> None:
    """Check that there are classes to move and, where the recipe draws on them, head classes.

    Raises:
        DataError: If there are none; says which setting made it so.
    """
    if not len(moved_classes(groups, recipe.calibrate.classes)):
        raise DataError(
            f"no class is in the {recipe.calibrate.classes.replace('+', ' or ')}, so nothing can be de-biased; change "
            f"data.groups ({recipe.data.groups}) or its limits, or calibrate.classes"
        )
    if recipe.center.method == "random_head_mean" and not groups.head:
        raise DataError(
            "center.method is random_head_mean, but no class is in the head; change data.groups or its limits"
        )


def _center(run: RunDir, recipe: Recipe) -> None:
    train = read_audited(run).split("train")
    features = FeatureTable.load(run.features("lora")).rows(train.ids)
    check_groups(train.groups, recipe)
    clusters = None
    if recipe.center.method == "debiased":
        found = Clusters.load(run.clusters)
        clusters = (found.of(train.ids), found.centers)
    temperature = recipe.shift.temperature
    toward = centers_of(
        recipe.center.method,
        features,
        train.labels,
        train.n_classes,
        moved_classes(train.groups, recipe.calibrate.classes),
        clusters=clusters,
        head=train.groups.head,
        temperature=temperature,
        seed=recipe.seed,
    )
    _save(toward, run, "deblora")
    every = np.arange(train.n_classes)
    unit = unit_rows(features)
    toward = centers_of(
        SHIFT.center,
        unit,
        train.labels,
        train.n_classes,
        every,
        donors_only=True,
        temperature=temperature,
    )
    _save(toward, run, "shift")


def _save(toward: Toward, run: RunDir, name: str) -> None:
    Centers(toward.classes, toward.centers, toward.weights).save(run.centers(name))


def _toward(run: RunDir, name: str) -> Toward:
    found = Centers.load(run.centers(name))
    return Toward(found.classes, found.centers, found.weights)


def _calibrate(run: RunDir, recipe: Recipe) -> None:
    train = read_audited(run).split("train")
    features = FeatureTable.load(run.features("lora")).rows(train.ids).astype(np.float64)
    alpha, _ = alpha_of(
        "imbalance",
        features,
        train.labels,
        train.n_classes,
        numerator=recipe.calibrate.numerator,
        imbalance=recipe.calibrate.imbalance,
    )
    moved, kept = move(recipe.calibrate.mode, features, train.labels, _toward(run, "deblora"), alpha)
    Targets(train.ids, moved, kept).save(run.targets("deblora"))

    unit = unit_rows(features)
    alpha, kappa = alpha_of(
        SHIFT.law,
        unit,
        train.labels,
        train.n_classes,
        temperature=recipe.shift.temperature,
        n_rounds=recipe.shift.n_rounds,
        seed=recipe.seed,
    )
    moved, kept = move(SHIFT.mode, unit, train.labels, _toward(run, "shift"), alpha)
    targets = Targets(train.ids, unit_rows(moved), kept)
    targets.save(run.targets("shift"))
    if targets.moved_nothing:
        log.info("calibrate: the shift moves no class (kappa %.3g), so shift repeats lora", kappa)


CENTER = Stage(
    name="center",
    settings=lambda recipe: [recipe.center.__dict__, recipe.calibrate.classes, recipe.shift.__dict__],
    inputs=lambda run: [run.samples, run.groups, run.features("lora"), run.clusters],
    outputs=lambda run: [run.centers("deblora"), run.centers("shift")],
    work=_center,
)

CALIBRATE = Stage(
    name="calibrate",
    settings=lambda recipe: [recipe.calibrate.__dict__, recipe.shift.__dict__],
    inputs=lambda run: [
        run.samples,
        run.groups,
        run.features("lora"),
        run.centers("deblora"),
        run.centers("shift"),
    ],
    outputs=lambda run: [run.targets("deblora"), run.targets("shift")],
    work=_calibrate,
)
