"""Stage ``audit``: class counts, the long tail, and the split and groups that everything after it reads."""

import csv
import hashlib
import io
import json
import logging
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from deblora.artifacts import Groups, write_atomic
from deblora.config import DataRecipe, Recipe
from deblora.data.chips import ChipSet
from deblora.data.longtail import (
    class_counts,
    groups_by_counts,
    groups_by_names,
    groups_by_thirds,
    imbalance_ratios,
    long_tailed_indices,
)
from deblora.data.readers import check_trainable
from deblora.data.splits import stratified_split
from deblora.errors import DataError
from deblora.run_dir import RunDir
from deblora.stages.chips import read_source
from deblora.stages.stage import Stage

log = logging.getLogger("deblora")


def select_chips(recipe: DataRecipe, seed: int) -> ChipSet:
    """Return the chips of a run: split, and the training part subsampled to a long tail where asked."""
    chips = read_source(recipe.source, recipe.format)
    chips = stratified_split(
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
    chosen = chips.subset(np.sort(np.concatenate([train, others])))
    check_trainable(chosen)
    absent = [name for name in ("val", "test") if name not in chosen.splits]
    if absent:
        raise DataError(
            f"{recipe.source}: no chip is in the split {absent[0]}; mark chips for it, or leave chips without a "
            "split so that it can be drawn"
        )
    return chosen


def choose_groups(chips: ChipSet, recipe: DataRecipe) -> Groups:
    """Return head, middle and tail by the recipe's rule."""
    counts = class_counts(chips.split("train").labels, chips.n_classes)
    if recipe.groups == "names":
        return groups_by_names(chips.class_names, recipe.head, recipe.tail)
    if recipe.groups == "counts":
        return groups_by_counts(counts, head_above=recipe.head_above, tail_below=recipe.tail_below)
    return groups_by_thirds(counts)


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
    chips = select_chips(recipe.data, recipe.seed)
    groups = choose_groups(chips, recipe.data)
    seen = _content(chips)
    check_values(seen, recipe.data)
    counts = {
        name: class_counts(chips.split(name).labels, chips.n_classes) for name in ("train", "val", "test")
    }
    samples = [
        {"id": chip_id, "label": chips.class_names[label], "split": split}
        for chip_id, label, split in zip(chips.ids, chips.labels, chips.splits, strict=True)
    ]
    write_atomic(run.samples, table(samples))
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
    imbalance = float(imbalance_ratios(counts["train"]).max())
    if imbalance <= recipe.calibrate.numerator and recipe.calibrate.classes != "all":
        log.warning(
            "audit: the imbalance ratio is %.1f, not above calibrate.numerator %g: literal calibration moves no class",
            imbalance,
            recipe.calibrate.numerator,
        )
    write_atomic(run.groups, json.dumps(frozen, indent=1))


@dataclass(frozen=True)
class Seen:
    """What decoding every chip once showed; the first chip of each number of bands and of each type of values."""

    sha256: str
    bands: dict[str, str]
    types: dict[str, str]
    lowest: float
    highest: float


def check_values(seen: Seen, recipe: DataRecipe) -> None:
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


def _content(chips: ChipSet) -> Seen:
    """Decode every chip once.

    Raises:
        DataError: If chips cannot be read (all are named up to ten), or differ in bands other than a gray one.
    """
    digest, problems = hashlib.sha256(), []
    bands: dict[str, str] = {}
    types: dict[str, str] = {}
    lowest, highest = np.inf, -np.inf
    for i, chip_id in enumerate(tqdm(chips.ids, desc="audit", unit="chip", disable=len(chips) < 2000)):
        try:
            pixels = np.ascontiguousarray(chips.pixels.read(i))
        except DataError as error:
            problems.append(str(error))
            continue
        digest.update(f"{chip_id}\0{chips.splits[i]}\0{pixels.shape}{pixels.dtype}".encode())
        digest.update(pixels.data)
        bands.setdefault(str(pixels.shape[2]), chip_id)
        types.setdefault(pixels.dtype.name, chip_id)
        lowest, highest = min(lowest, float(pixels.min())), max(highest, float(pixels.max()))
    if problems:
        raise DataError(
            f"{len(problems)} chips cannot be read:\n" + "\n".join(f"  - {p}" for p in problems[:10])
        )
    colored = [(count, first) for count, first in bands.items() if count != "1"]
    if len(colored) > 1:
        found = ", ".join(f"{first} has {count}" for count, first in colored)
        raise DataError(f"chips differ in their number of bands: {found}; convert them to one number")
    return Seen(digest.hexdigest(), bands, types, lowest, highest)


def table(rows: list[dict[str, object]]) -> str:
    """Return rows as CSV."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


STAGE = Stage(
    name="audit",
    settings=lambda recipe: [recipe.data, recipe.calibrate.numerator],
    inputs=lambda _: [],
    outputs=lambda run: [run.samples, run.groups, run.class_counts],
    work=_work,
    always_runs=True,
)
