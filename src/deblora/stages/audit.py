"""Stage ``audit``: class counts, the long tail, and the split and groups that everything after it reads."""

import csv
import io
import json
import logging

import numpy as np

from deblora.artifacts import Groups, write_atomic
from deblora.config import Recipe
from deblora.data.chips import ChipSet
from deblora.data.contents import Contents
from deblora.data.longtail import class_counts, imbalance_ratios
from deblora.run_dir import RunDir
from deblora.stages.selection import check_values, choose_groups, readable, select_chips
from deblora.stages.stage import Stage

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
