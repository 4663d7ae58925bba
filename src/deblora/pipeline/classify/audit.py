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
    black = recipe.offset if recipe.scale is not None else 0.0
    seen = read_contents(chips, black=black, white=255.0 if recipe.scale is None else recipe.scale)
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


LEAST_RANGE, MOST_BEYOND = 0.005, 0.5
"""Least share of black to white that all values together take, and largest share of values beyond: what lies outside is
no picture but a wrong ``data.scale`` (ours)."""


def check_values(seen: Contents, recipe: DataRecipe) -> None:
    """Refuse values whose black and white nobody named, or that do not fit them: backbones were trained on 0 to 255.

    Raises:
        DataError: If chips are not all 8-bit and ``data.scale`` is not set, types are mixed, or black and white are
            wrong by orders of magnitude.
    """
    named = ", ".join(f"{first} is {kind}" for kind, first in seen.types.items())
    if len(seen.types) > 1:
        raise DataError(f"chips differ in the type of their values: {named}; convert them to one type")
    if recipe.scale is None and "uint8" not in seen.types:
        raise DataError(
            f"{named}, with values from {seen.lowest:g} to {seen.highest:g}: set data.scale to the value that counts "
            "as white and data.offset to the one that counts as black (only 8-bit chips need neither)"
        )
    if recipe.scale is None:
        return
    span = recipe.scale - recipe.offset
    if seen.beyond > MOST_BEYOND or seen.highest - seen.lowest < LEAST_RANGE * span:
        raise DataError(
            f"values from {seen.lowest:g} to {seen.highest:g} do not fit data.offset {recipe.offset:g} (black) and "
            f"data.scale {recipe.scale:g} (white); set both to what counts as black and white in these chips"
        )


FEW_BEYOND, ALIKE, BALANCED = 0.01, 0.8, 2.0
"""From which share of values beyond black and white, mean likeness of chips, and up to which imbalance the audit warns
(ours)."""


def doubts(chips: ChipSet, seen: Contents, recipe: DataRecipe) -> list[str]:
    """Return what may ruin results without being an error, a line each."""
    lines = []
    for pairs, what in (
        (seen.copies.across_splits, "chips of validation or test show what a training chip shows"),
        (seen.copies.two_classes, "pairs of training chips of two classes show the same"),
    ):
        if pairs:
            some = ", ".join(f"{chips.ids[i]} = {chips.ids[j]}" for i, j in pairs[:3])
            part = (
                ""
                if seen.copies.n_compared >= len(chips) // 2
                else f" (of {seen.copies.n_compared} compared)"
            )
            lines.append(
                f"{len(pairs)} {what}, as it is, turned, mirrored or recompressed{part}: {some}"
                + (" ..." if len(pairs) > 3 else "")
                + "; scores on them mean nothing"
            )
    if seen.far_beyond > FEW_BEYOND:
        lines.append(
            f"{100 * seen.far_beyond:.1f} % of the values lie far beyond black and white ({seen.lowest:g} to "
            f"{seen.highest:g}): missing values that nobody declared, or a wrong data.scale or data.offset"
        )
    if seen.alike > ALIKE:
        lines.append(
            f"all chips look alike (mean cosine of thumbnails {seen.alike:.2f}); is this the right folder?"
        )
    counts = class_counts(chips.split("train").labels, chips.n_classes)
    if counts.min() > 0 and counts.max() / counts.min() < BALANCED and recipe.groups in ("thirds", "names"):
        lines.append(
            f"classes are about equally frequent ({counts.max()} and {counts.min()} training chips): none is rare, "
            "and head and tail are names only"
        )
    return lines


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
    frozen.update(_remarks(selected, seen, doubts(chips, seen, recipe.data)))
    imbalance = float(imbalance_ratios(counts["train"]).max())
    if imbalance <= recipe.calibrate.numerator and recipe.calibrate.classes != "all":
        log.warning(
            "audit: the imbalance ratio is %.1f, not above calibrate.numerator %g: literal calibration moves no class",
            imbalance,
            recipe.calibrate.numerator,
        )
    write_atomic(run.groups, json.dumps(frozen, indent=1))
    for line in unjudged(chips):
        log.warning("audit: %s", line)


def unjudged(chips: ChipSet) -> list[str]:
    """Name the classes without a chip of validation or test, a line per split that lacks some."""
    lines = []
    for split, what in (("val", "no score chooses for them"), ("test", "they are in no mean")):
        counts = class_counts(chips.split(split).labels, chips.n_classes)
        absent = [name for name, n in zip(chips.class_names, counts, strict=True) if not n]
        if absent:
            more = f" and {len(absent) - 10} more" if len(absent) > 10 else ""
            noun = "class" if len(absent) == 1 else "classes"
            lines.append(
                f"{len(absent)} {noun} without a {split} chip, {what}: {', '.join(absent[:10])}{more}"
            )
    return lines


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


def _remarks(chips: ChipSet, seen: Contents, doubtful: list[str]) -> dict[str, object]:
    """Say what was left out, in the log and for the report; nothing where nothing was."""
    remarks: dict[str, object] = {}
    for note in chips.notes:
        log.info("audit: %s", note)
    for line in doubtful:
        log.warning("audit: %s", line)
    if chips.notes or doubtful:
        remarks["notes"] = [*chips.notes, *doubtful]
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
