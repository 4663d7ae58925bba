"""Stage ``calibrate``: move the training features of rare classes toward their centers."""

import logging

import numpy as np

from deblora.data.longtail import class_counts
from deblora.debias.calibrate import alpha_from_imbalance, alpha_from_kappa, contract, shift
from deblora.debias.neighbors import fit_kappa
from deblora.debias.spaces import unit_rows
from deblora.pipeline.classify.chips import open_chips
from deblora.recipe.classify import Recipe
from deblora.run.artifacts import Centers, FeatureTable, Targets
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage

log = logging.getLogger("deblora")


def _work(run: RunDir, recipe: Recipe) -> None:
    chips = open_chips(run, recipe).split("train")
    features = FeatureTable.load(run.features("lora")).rows(chips.ids).astype(np.float64)
    counts = class_counts(chips.labels, chips.n_classes)
    settings = recipe.calibrate
    alpha = alpha_from_imbalance(counts, numerator=settings.numerator, imbalance=settings.imbalance)
    centers = Centers.load(run.centers("deblora"))
    move = contract if settings.mode == "contract" else shift
    moved = move(features, chips.labels, centers.centers, centers.classes, alpha)
    still = np.setdiff1d(np.arange(chips.n_classes), centers.classes)
    alpha[still] = 1.0
    Targets(chips.ids, moved, alpha).save(run.targets("deblora"))

    unit = unit_rows(features)
    kappa = fit_kappa(
        unit,
        chips.labels,
        chips.n_classes,
        n_rounds=recipe.shift.n_rounds,
        temperature=recipe.shift.temperature,
        rng=np.random.default_rng(recipe.seed),
    )
    pull = alpha_from_kappa(counts, kappa)
    neighbors = Centers.load(run.centers("shift"))
    shifted = shift(unit, chips.labels, neighbors.centers, neighbors.classes, pull)
    pull[np.setdiff1d(np.arange(chips.n_classes), neighbors.classes)] = 1.0
    targets = Targets(chips.ids, unit_rows(shifted), pull)
    targets.save(run.targets("shift"))
    if targets.moved_nothing:
        log.info("calibrate: the shift moves no class (kappa %.3g), so its row repeats that of lora", kappa)


STAGE = Stage(
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
    work=_work,
)
