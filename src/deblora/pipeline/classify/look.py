"""Stage ``look``: which input size and how many views suit the chips, before anything is trained.

Frozen features of a part of the labeled chips are compared by cross-validation, with a classifier whose settings need
no validation chip (:mod:`deblora.evaluate.classifiers.cross_validation`). On AID and MSTAR size and views were worth
more than every method on top of them (docs/log.md).
"""

import json
import logging
import time
from dataclasses import replace
from typing import Any, cast

import numpy as np
from threadpoolctl import threadpool_limits

from deblora.data.chips import ChipSet, Pixels
from deblora.errors import ArtifactError, ModelError
from deblora.evaluate.classifiers.cross_validation import CrossValidated, fit_cross_validated
from deblora.evaluate.classifiers.linear import LARGE
from deblora.evaluate.intervals import bootstrap_f1, group_estimates, stratified_draws
from deblora.evaluate.metrics import per_class_f1
from deblora.files import write_atomic
from deblora.pipeline.audited import groups_of
from deblora.pipeline.classify.chips import open_chips
from deblora.pipeline.open_model import model_settings, open_backbone, open_for_chips
from deblora.pipeline.tables import estimate_cells, table
from deblora.recipe.classify import Recipe
from deblora.run.processes import device
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage
from deblora.train.extract import extract_features

log = logging.getLogger("deblora")

SHARES_OF_SIDE = (7 / 8, 1.0, 3 / 2)
"""Input sizes that are tried, over the side of the chips: MSTAR gained below it, AID above it (ours)."""

MULTIPLE = 16
"""Sizes are rounded to patches of 16 pixels, the most common ones (ours)."""

MOST_PIXELS = 512
"""Largest side that is tried unless it is asked for (ours)."""

N_SIZED = 50
"""Chips whose size is looked at."""


def settled(run: RunDir, recipe: Recipe) -> Recipe:
    """Return the recipe with the input size and the views that the look chose; it asks for no further look.

    Raises:
        ArtifactError: If there was no look, or its result is damaged.
    """
    path = run.look("choice.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        size, views = int(found["image_size"]), int(found["views"])
        if size < 1 or views not in (1, 2, 4, 8):
            raise ValueError(f"{size} pixels and {views} views")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); delete it and go on with --resume") from error
    return replace(
        recipe,
        backbone=replace(recipe.backbone, image_size=size),
        extract=replace(recipe.extract, views=cast(Any, views)),
        look=replace(recipe.look, enabled=False),
    )


def _work(run: RunDir, recipe: Recipe) -> None:
    chips = some_of(open_chips(run, recipe), recipe.look.max_chips, seed=recipe.seed)
    sizes = recipe.look.sizes or sizes_to_try(chips.pixels, _native_size(recipe))
    lines: list[dict[str, object]] = []
    tried: dict[tuple[int, int], float] = {}
    for size in sizes:
        try:
            tried |= _at_size(run, recipe, chips, size, lines)
        except ModelError as error:
            if recipe.look.sizes:
                raise
            log.info("look: %d px is not for this model (%s)", size, error)
    if not tried:
        raise ModelError(f"{recipe.backbone.name} takes none of the sizes {sizes}; set backbone.image_size")
    size, views = min(tried, key=tried.__getitem__)
    log.info("look: %d px and %d views", size, views)
    write_atomic(run.look("candidates.csv"), table(lines))
    write_atomic(
        run.look("choice.json"), json.dumps({"image_size": size, "views": views, "n_chips": len(chips)})
    )


def _at_size(
    run: RunDir, recipe: Recipe, chips: ChipSet, size: int, lines: list[dict[str, object]]
) -> dict[tuple[int, int], float]:
    """Add the lines of one size, and return the Brier score of each number of views."""
    sized = replace(recipe, backbone=replace(recipe.backbone, image_size=size))
    backbone = open_for_chips(run, sized, chips).to(device())
    scores: dict[tuple[int, int], float] = {}
    for views in sorted(set(recipe.look.views)):
        start = time.perf_counter()
        x = extract_features(
            backbone,
            chips.pixels,
            chips.ids,
            batch_size=recipe.extract.batch_size,
            n_views=views,
            precision=recipe.extract.precision,
            title=f"look {size} px, {views} views",
        )
        seconds = (time.perf_counter() - start) / len(chips)
        rng = np.random.default_rng(recipe.seed)
        with threadpool_limits(limits=None if x.size * chips.n_classes >= LARGE else 1, user_api="blas"):
            found = fit_cross_validated(x, chips.labels, chips.n_classes, rng=rng, units=chips.units)
        scores[size, views] = found.score
        lines += _lines(run, found, chips, size=size, views=views, seconds=seconds, seed=recipe.seed)
    return scores


def _lines(
    run: RunDir, found: CrossValidated, chips: ChipSet, *, seed: int, **facts: Any
) -> list[dict[str, object]]:
    """Return macro F1 of held-out chips by group, with its interval over chips or scenes."""
    held = np.isfinite(found.held_out).all(axis=1)
    y, predicted = chips.labels[held], found.held_out[held].argmax(axis=1)
    units = [chips.units[i] for i in np.flatnonzero(held)] if chips.units else ()
    draws = stratified_draws(y, chips.n_classes, rng=np.random.default_rng(seed), units=units, n_draws=500)
    drawn, f1 = bootstrap_f1(y, predicted, draws), per_class_f1(y, predicted, chips.n_classes)
    estimates = group_estimates(f1, drawn, groups_of(run), draws.n_units)
    return [
        {
            "image_size": facts["size"],
            "views": facts["views"],
            "group": group,
            **estimate_cells(estimates[group]),
            "brier_score": found.score,
            "seconds_per_chip": round(facts["seconds"], 5),
        }
        for group in ("tail", "all")
    ]


def some_of(chips: ChipSet, most: int, *, seed: int) -> ChipSet:
    """Return labeled chips outside the test: all of rare classes, as many of each of the others as are allowed in all.

    Args:
        chips: Of a run.
        most: Chips in all; a class keeps at least 5.
        seed: Of the draw.
    """
    known = np.flatnonzero(np.array(chips.splits) != "test")
    labels = chips.labels[known]
    counts = np.bincount(labels, minlength=chips.n_classes)
    limit = max(
        (n for n in range(5, int(counts.max()) + 1) if np.minimum(counts, n).sum() <= most), default=5
    )
    rng = np.random.default_rng(seed)
    kept = [rng.permutation(known[labels == c])[:limit] for c in range(chips.n_classes)]
    return chips.subset(np.sort(np.concatenate(kept)))


def sizes_to_try(pixels: Pixels, native: int) -> list[int]:
    """Return the model's own input size, and sizes around the side of the chips, in pixels and rising order."""
    sides = [float(np.sqrt(np.prod(pixels.read(i).shape[:2]))) for i in range(min(N_SIZED, len(pixels)))]
    own = float(np.median(sides))
    around = {MULTIPLE * max(1, round(share * own / MULTIPLE)) for share in SHARES_OF_SIDE}
    return sorted({native, *(size for size in around if MULTIPLE < size <= MOST_PIXELS)})


def _native_size(recipe: Recipe) -> int:
    return open_backbone(recipe.backbone, seed=recipe.seed).spec.image_size


STAGE = Stage(
    name="look",
    settings=lambda recipe: [
        recipe.look.__dict__,
        model_settings(recipe.backbone),
        recipe.extract.precision,
    ],
    inputs=lambda run: [run.samples, run.groups],
    outputs=lambda run: [run.look("candidates.csv"), run.look("choice.json")],
    work=_work,
)
