"""What the audit froze: ids, labels, splits, groups and pixel range of a run.

All that stages after the extraction need; only the audit, training and extraction open the chips themselves.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int

from deblora.data.chips import SPLITS, Pixels, RescaledPixels
from deblora.data.longtail import Groups
from deblora.errors import ArtifactError, DataError
from deblora.run.run_dir import RunDir


@dataclass(frozen=True)
class Audited:
    """The chips of a run, or of one of its splits, without their pixels.

    Attributes:
        ids: Unique name of each chip.
        labels: Class of each chip.
        splits: ``train``, ``val`` or ``test`` of each chip.
        class_names: In label order.
        groups: Head, middle and tail classes.
        units: Scene, image or flight of each chip; empty if unknown.
    """

    ids: tuple[str, ...]
    labels: Int[np.ndarray, " n"]
    splits: tuple[str, ...]
    class_names: tuple[str, ...]
    groups: Groups
    units: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_classes(self) -> int:
        """Number of classes, those without a chip included."""
        return len(self.class_names)

    @cached_property
    def counts(self) -> Int[np.ndarray, " c"]:
        """Chips per class."""
        return np.bincount(self.labels, minlength=self.n_classes)

    def split(self, name: str) -> "Audited":
        """Return the chips of a split, in their order."""
        kept = [i for i, split in enumerate(self.splits) if split == name]
        return Audited(
            tuple(self.ids[i] for i in kept),
            self.labels[kept],
            (name,) * len(kept),
            self.class_names,
            self.groups,
            tuple(self.units[i] for i in kept) if self.units else (),
        )


def read_audited(run: RunDir) -> Audited:
    """Return ids, labels, splits and groups of the chips of a run.

    Raises:
        ArtifactError: If what the audit froze is damaged.
    """
    rows, names = sample_rows(run), class_names(run)
    index = {name: i for i, name in enumerate(names)}
    return Audited(
        tuple(row["id"] for row in rows),
        np.array([index[row["label"]] for row in rows], dtype=np.int64),
        tuple(row["split"] for row in rows),
        names,
        groups_of(run),
        tuple(row["unit"] for row in rows) if "unit" in rows[0] else (),
    )


def train_counts(run: RunDir) -> Int[np.ndarray, " c"]:
    """Return the training chips per class."""
    return np.array(frozen(run)["counts"]["train"], dtype=np.int64)


def without_chips(run: RunDir, split: str) -> list[str]:
    """Return the names of the classes that have no chip in a split: no mean there holds them."""
    counts = frozen(run)["counts"][split]
    return [name for name, n in zip(class_names(run), counts, strict=True) if not n]


def say_unjudged(run: RunDir) -> str:
    """Say over how many classes the means are, and which have no test chip; empty if all have one."""
    absent = without_chips(run, "test")
    if not absent:
        return ""
    some = ", ".join(absent[:10]) + (f" and {len(absent) - 10} more" if len(absent) > 10 else "")
    n_classes = len(class_names(run))
    return f"Means are over {n_classes - len(absent)} of {n_classes} classes; without a test chip: {some}."


def as_audited(run: RunDir, pixels: Pixels) -> Pixels:
    """Return pixels in the range that the audit froze: black and white of the recipe, or as they are."""
    black_and_white = frozen(run).get("black_and_white")
    return RescaledPixels(pixels, *black_and_white) if black_and_white else pixels


def check_bands(run: RunDir, n_bands: int, backbone: str, *, named: Sequence[str] = ()) -> None:
    """Check that the backbone takes the chips as the audit saw them; a single gray band is repeated.

    Raises:
        DataError: If chips have another number of bands than the backbone or than are named; names one.
    """
    for count, chip_id in frozen(run).get("bands", {}).items():
        if int(count) not in (1, n_bands):
            raise DataError(
                f"{chip_id} has {count} bands, but the backbone {backbone} takes {n_bands} (or one gray band, "
                f"repeated); set backbone.n_bands to {count}, convert the chips, or choose another backbone.name or "
                "backbone.sensor"
            )
        if named and int(count) != len(named):
            raise DataError(
                f"{chip_id} has {count} bands, but data.band_names names {len(named)}; name every band once"
            )


def band_counts(run: RunDir) -> frozenset[int]:
    """Return the numbers of bands that the chips of the run have; empty where the audit did not record them."""
    return frozenset(int(count) for count in frozen(run).get("bands", {}))


def class_names(run: RunDir) -> tuple[str, ...]:
    """Return the class names in label order."""
    return tuple(frozen(run)["class_names"])


def groups_of(run: RunDir) -> Groups:
    """Return the frozen head, middle and tail classes."""
    groups = frozen(run)["groups"]
    return Groups(*(tuple(groups[name]) for name in ("head", "middle", "tail")))


def sample_rows(run: RunDir) -> list[dict[str, str]]:
    """Return id, label and split of each chip of the run.

    Raises:
        ArtifactError: If the table is damaged or was changed by hand into something that is none.
    """
    names, seen = set(class_names(run)), set()
    try:
        with run.samples.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = []
            for row in reader:
                if (
                    None in row
                    or not row["id"]
                    or row["label"] not in names
                    or row["split"] not in SPLITS[:3]
                ):
                    raise ValueError(f"line {reader.line_num} is not an id, a known class and a split")
                if row["id"] in seen:
                    raise ValueError(f"line {reader.line_num} repeats {row['id']}")
                seen.add(row["id"])
                rows.append(row)
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise ArtifactError(
            f"{run.samples} is damaged ({error}); make it again with deblora audit {run.root}"
        ) from error
    missing = {"train", "val", "test"} - {row["split"] for row in rows}
    if missing:
        raise ArtifactError(
            f"{run.samples} has no chip in {sorted(missing)}; make it again with deblora audit {run.root}"
        )
    return rows


def frozen(run: RunDir) -> dict[str, Any]:
    """Return what the audit froze beside the samples.

    Raises:
        ArtifactError: If the file is damaged.
    """
    try:
        content = json.loads(run.groups.read_text(encoding="utf-8"))
        classes = range(len(content["class_names"]))
        members = [index for name in ("head", "middle", "tail") for index in content["groups"][name]]
        if sorted(members) != list(classes):
            raise ValueError("groups and classes disagree")
        if not all(isinstance(name, str) for name in content["class_names"]):
            raise ValueError("class names are not texts")
        if any(
            len(counts) != len(classes)
            for counts in (content["counts"]["train"], *content["counts"].values())
        ):
            raise ValueError("counts and classes disagree")
        dict(content.get("bands", {})), str(content["rule"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{run.groups} is damaged ({error}); make it again with deblora audit {run.root}"
        ) from error
    return dict(content)
