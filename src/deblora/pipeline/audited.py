"""What the audit froze: ids, labels, splits, groups and pixel range of a run."""

import csv
import json
from collections.abc import Sequence
from typing import Any

from deblora.data.chips import SPLITS, Pixels, RescaledPixels
from deblora.data.longtail import Groups
from deblora.errors import ArtifactError, DataError
from deblora.run.run_dir import RunDir


def as_audited(run: RunDir, pixels: Pixels) -> Pixels:
    """Return pixels in the range that the audit froze: black and white of the recipe, or as they are."""
    black_and_white = _frozen(run).get("black_and_white")
    return RescaledPixels(pixels, *black_and_white) if black_and_white else pixels


def check_bands(run: RunDir, n_bands: int, backbone: str, *, named: Sequence[str] = ()) -> None:
    """Check that the backbone takes the chips as the audit saw them; a single gray band is repeated.

    Raises:
        DataError: If chips have another number of bands than the backbone or than are named; names one.
    """
    for count, chip_id in _frozen(run).get("bands", {}).items():
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
    return frozenset(int(count) for count in _frozen(run).get("bands", {}))


def class_names(run: RunDir) -> tuple[str, ...]:
    """Return the class names in label order."""
    return tuple(_frozen(run)["class_names"])


def groups_of(run: RunDir) -> Groups:
    """Return the frozen head, middle and tail classes."""
    groups = _frozen(run)["groups"]
    return Groups(*(tuple(groups[name]) for name in ("head", "middle", "tail")))


def _samples(run: RunDir) -> list[dict[str, str]]:
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


def _frozen(run: RunDir) -> dict[str, Any]:
    """Return what the audit froze beside the samples.

    Raises:
        ArtifactError: If the file is damaged.
    """
    try:
        frozen = json.loads(run.groups.read_text(encoding="utf-8"))
        classes = range(len(frozen["class_names"]))
        members = [index for name in ("head", "middle", "tail") for index in frozen["groups"][name]]
        if sorted(members) != list(classes):
            raise ValueError("groups and classes disagree")
        if not all(isinstance(name, str) for name in frozen["class_names"]):
            raise ValueError("class names are not texts")
        if any(
            len(counts) != len(classes) for counts in (frozen["counts"]["train"], *frozen["counts"].values())
        ):
            raise ValueError("counts and classes disagree")
        dict(frozen.get("bands", {})), str(frozen["rule"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{run.groups} is damaged ({error}); make it again with deblora audit {run.root}"
        ) from error
    return dict(frozen)
