"""Which chips a run uses: its classes, its split, the long tail cut out of it, the groups, and what can be read."""

import numpy as np

from deblora.artifacts import Groups
from deblora.config import DataRecipe
from deblora.data.chips import ChipSet
from deblora.data.class_choice import choose_classes
from deblora.data.contents import Contents, read_contents
from deblora.data.dota import GROUP_PRESETS, reference_groups
from deblora.data.longtail import (
    class_counts,
    groups_by_counts,
    groups_by_names,
    groups_by_shots,
    groups_by_thirds,
    long_tailed_indices,
)
from deblora.data.readers import check_trainable
from deblora.data.splits import note_shared_units, stratified_split, unit_split
from deblora.errors import DataError
from deblora.stages.chips import chips_of


def select_chips(recipe: DataRecipe, seed: int) -> ChipSet:
    """Return the chips of a run: its classes, split, the training part subsampled to a long tail where asked."""
    chips = choose_classes(chips_of(recipe), keep=recipe.classes, ignore=recipe.ignore)
    draw = unit_split if chips.units and recipe.split_by == "auto" else stratified_split
    chips = draw(
        chips,
        val_fraction=recipe.val_fraction,
        test_fraction=recipe.test_fraction,
        val_per_class=recipe.val_per_class,
        seed=seed,
    )
    splits = np.array(chips.splits)
    train = np.flatnonzero(splits == "train")
    if recipe.largest is not None and recipe.imbalance_factor is not None:
        kept = long_tailed_indices(
            chips.labels[train],
            n_classes=chips.n_classes,
            largest=recipe.largest,
            imbalance_factor=recipe.imbalance_factor,
            seed=seed,
            class_names=chips.class_names,
        )
        train = train[kept]
    others = np.flatnonzero((splits == "val") | (splits == "test"))
    chosen = note_shared_units(chips.subset(np.sort(np.concatenate([train, others]))))
    _check_splits(chosen, recipe)
    return chosen


def _check_splits(chosen: ChipSet, recipe: DataRecipe) -> None:
    """Check that every class can be trained and that there is something to choose and to judge on."""
    check_trainable(chosen)
    absent = [name for name in ("val", "test") if name not in chosen.splits]
    if absent:
        raise DataError(
            f"{recipe.source}: no chip is in the split {absent[0]}; mark chips for it, or leave chips without a "
            "split so that it can be drawn"
        )


def choose_groups(chips: ChipSet, recipe: DataRecipe) -> Groups:
    """Return head, middle and tail by the recipe's rule."""
    counts = class_counts(chips.split("train").labels, chips.n_classes)
    if recipe.groups == "names":
        return groups_by_names(chips.class_names, recipe.head, recipe.tail)
    if recipe.groups in GROUP_PRESETS:
        return reference_groups(chips.class_names, GROUP_PRESETS[recipe.groups])
    if recipe.groups == "shots":
        return groups_by_shots(counts)
    if recipe.groups == "counts":
        return groups_by_counts(counts, head_above=recipe.head_above, tail_below=recipe.tail_below)
    return groups_by_thirds(counts)


def readable(chips: ChipSet, recipe: DataRecipe) -> tuple[ChipSet, Contents]:
    """Decode every chip once and return those that can be read, with what was seen.

    Raises:
        DataError: If chips cannot be read and ``data.on_error`` is stop (all are named up to ten), nothing is left to
            train on, or chips differ in bands other than a gray one.
    """
    seen = read_contents(chips)
    if seen.unreadable and recipe.on_error == "stop":
        lines = [f"  - {reason}" for reason in list(seen.unreadable.values())[:10]]
        raise DataError(
            f"{len(seen.unreadable)} chips cannot be read:\n" + "\n".join(lines) + "\n"
            "restore them, or leave them out with data.on_error: skip"
        )
    if seen.unreadable:
        kept = np.array([i for i in range(len(chips)) if i not in seen.unreadable], dtype=np.int64)
        if not len(kept):
            raise DataError(f"none of the {len(chips)} chips can be read, first: {seen.unreadable[0]}")
        chips = chips.subset(kept)
        _check_splits(chips, recipe)
    colored = [(count, first) for count, first in seen.bands.items() if count != "1"]
    if len(colored) > 1:
        found = ", ".join(f"{first} has {count}" for count, first in colored)
        raise DataError(f"chips differ in their number of bands: {found}; convert them to one number")
    return chips, seen


def check_values(seen: Contents, recipe: DataRecipe) -> None:
    """Refuse values whose black and white nobody named: backbones were trained on 0 to 255.

    Raises:
        DataError: If chips are not all 8-bit and ``data.scale`` is not set, or their types are mixed.
    """
    named = ", ".join(f"{first} is {kind}" for kind, first in seen.types.items())
    if len(seen.types) > 1:
        raise DataError(f"chips differ in the type of their values: {named}; convert them to one type")
    if recipe.scale is None and "uint8" not in seen.types:
        raise DataError(
            f"{named}, with values from {seen.lowest:g} to {seen.highest:g}: set data.scale to the value that counts "
            "as white and data.offset to the one that counts as black (only 8-bit chips need neither)"
        )
