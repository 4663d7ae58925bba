"""Stage ``audit``: class counts, the long tail, and the split and groups that everything after it reads."""

import json
import logging

import numpy as np

from deblora.data.chips import ChipSet, choose_classes
from deblora.data.decode import Contents, read_contents
from deblora.data.longtail import (
    Groups,
    class_counts,
    groups_by_counts,
    groups_by_names,
    groups_by_shots,
    groups_by_thirds,
    imbalance_ratios,
    long_tailed_indices,
)
from deblora.data.readers.registry import check_trainable
from deblora.data.scenes.dota import GROUP_PRESETS, reference_groups
from deblora.data.splits import note_shared_units, stratified_split, unit_split
from deblora.errors import DataError
from deblora.files import write_atomic
from deblora.pipeline.classify.chips import chips_of
from deblora.pipeline.tables import table
from deblora.recipe.classify import DataRecipe, Recipe
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage


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


log = logging.getLogger("deblora")


def describe(chips: ChipSet, groups: Groups) -> list[dict[str, object]]:
    """Return one row per class, largest first: counts per split, imbalance ratio, group."""
    counts = {
        name: class_counts(chips.split(name).labels, chips.n_classes) for name in ("train", "val", "test")
    }
    ratios = imbalance_ratios(counts["train"])
    group_of = {index: name for name, members in groups.named().items() for index in members}
    return [
        {
            "class": chips.class_names[index],
            "group": group_of.get(index, ""),
            **{name: int(values[index]) for name, values in counts.items()},
            "imbalance_ratio": round(float(ratios[index]), 2),
        }
        for index in np.argsort(-counts["train"], kind="stable")
    ]


def _work(run: RunDir, recipe: Recipe) -> None:
    selected = select_chips(recipe.data, recipe.seed)
    chips, seen = readable(selected, recipe.data)
    groups = choose_groups(chips, recipe.data)
    check_values(seen, recipe.data)
    counts = {
        name: class_counts(chips.split(name).labels, chips.n_classes) for name in ("train", "val", "test")
    }
    write_atomic(run.samples, table(_samples(chips)))
    write_atomic(run.class_counts, table(describe(chips, groups)))
    frozen: dict[str, object] = {
        "class_names": list(chips.class_names),
        "groups": {name: list(members) for name, members in groups.named().items()},
        "rule": recipe.data.groups,
        "counts": {name: values.tolist() for name, values in counts.items()},
        "data_sha256": seen.sha256,
        "bands": seen.bands,
    }
    if recipe.data.scale is not None:
        frozen["black_and_white"] = [recipe.data.offset, recipe.data.scale]
    frozen.update(_remarks(selected, seen))
    imbalance = float(imbalance_ratios(counts["train"]).max())
    if imbalance <= recipe.calibrate.numerator and recipe.calibrate.classes != "all":
        log.warning(
            "audit: the imbalance ratio is %.1f, not above calibrate.numerator %g: literal calibration moves no class",
            imbalance,
            recipe.calibrate.numerator,
        )
    write_atomic(run.groups, json.dumps(frozen, indent=1))
    for split, what in (("val", "no score chooses for them"), ("test", "they are in no mean")):
        absent = [name for name, n in zip(chips.class_names, counts[split], strict=True) if not n]
        if absent:
            log.warning(
                "audit: %d classes without a %s chip, %s: %s",
                len(absent),
                split,
                what,
                ", ".join(absent[:10]),
            )


def _samples(chips: ChipSet) -> list[dict[str, object]]:
    """Return one row per chip; image or scene and caption where the source has them."""
    rows: list[dict[str, object]] = [
        {"id": chip_id, "label": chips.class_names[label], "split": split}
        for chip_id, label, split in zip(chips.ids, chips.labels, chips.splits, strict=True)
    ]
    for name, values in (("unit", chips.units), ("caption", chips.captions)):
        for row, value in zip(rows, values, strict=False):
            row[name] = value
    return rows


def _remarks(chips: ChipSet, seen: Contents) -> dict[str, object]:
    """Say what was left out, in the log and for the report; nothing where nothing was."""
    remarks: dict[str, object] = {}
    for note in chips.notes:
        log.info("audit: %s", note)
    if chips.notes:
        remarks["notes"] = list(chips.notes)
    if seen.copies:
        n_copies, (one, other) = len(seen.copies), seen.copies[0]
        log.warning(
            "audit: %d pictures of training are in validation or test too, first: %s and %s",
            n_copies,
            one,
            other,
        )
    if seen.unreadable:
        log.warning("audit: %s", skipped_line(chips, seen))
        for reason in list(seen.unreadable.values())[:10]:
            log.warning("audit: skipped %s", reason)
        remarks["skipped_summary"] = skipped_line(chips, seen)
        remarks["skipped"] = {chips.ids[i]: reason for i, reason in seen.unreadable.items()}
    return remarks


def skipped_line(chips: ChipSet, seen: Contents) -> str:
    """Count the chips that were left out because they cannot be read, by split."""
    splits = [chips.splits[i] for i in seen.unreadable]
    parts = ", ".join(f"{splits.count(name)} {name}" for name in ("train", "val", "test") if name in splits)
    return f"{len(splits)} of {len(chips)} chips cannot be read and are left out ({parts})"


STAGE = Stage(
    name="audit",
    settings=lambda recipe: [recipe.data, recipe.calibrate.numerator],
    inputs=lambda _: [],
    outputs=lambda run: [run.samples, run.groups, run.class_counts],
    work=_work,
    always_runs=True,
)
