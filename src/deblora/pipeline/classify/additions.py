"""What labeling has added to a run: chips, labels, classes, their features, and the classifier fitted with them.

``updates/current.json`` names the folder that counts; it is replaced last, so that an update is there as a whole or not
at all. What the audit froze stays as it is: validation, test and groups are those of the run, and added chips train.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from deblora.data.longtail import Groups
from deblora.errors import ArtifactError
from deblora.evaluate.classifiers.classifier import Classifier
from deblora.evaluate.classifiers.files import load_classifier, save_classifier
from deblora.files import file_sha256, remove_leftovers, write_atomic
from deblora.pipeline.audited import class_names, groups_of, train_counts
from deblora.pipeline.classify.evaluate.choose import FILE
from deblora.pipeline.classify.queue import as_table, read_rows, run_id
from deblora.run.artifacts import FeatureTable
from deblora.run.run_dir import RunDir

VERSION = 1
TABLES = frozenset({"base", "lora", "deblora"})
COLUMNS = ("content", "id", "path", "pool", "label", "queue")


@dataclass(frozen=True)
class AddedChip:
    """A chip with its label: hash of its pixels, name and file in its pool, and the queue that it was labeled in."""

    content: str
    id: str
    path: str
    pool: str
    label: str
    queue: str


@dataclass(frozen=True)
class Additions:
    """Chips that labeling added, in the order they came, and what was made with them.

    Attributes:
        chips: With labels.
        class_names: Classes of the run, then founded ones.
        tables: Features of the chips by table, one row per chip, by content.
        classifier: Fitted with the chips; none before the first fit.
        notes: Of the classifier: method, tables, settings, scores before and after.
    """

    chips: tuple[AddedChip, ...]
    class_names: tuple[str, ...]
    tables: Mapping[str, FeatureTable]
    classifier: Classifier | None = None
    notes: Mapping[str, Any] = ()  # type: ignore[assignment]

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        """Class of each chip."""
        index = {name: i for i, name in enumerate(self.class_names)}
        return np.array([index[chip.label] for chip in self.chips], dtype=np.int64)

    @property
    def counts(self) -> Int[np.ndarray, " c"]:
        """Added chips per class."""
        return np.bincount(self.labels, minlength=len(self.class_names))


def n_labels(run: RunDir, added: Additions) -> Int[np.ndarray, " c"]:
    """Return the training chips per class with the added ones, founded classes last."""
    counts = added.counts
    counts[: len(train_counts(run))] += train_counts(run)
    return counts


def grouped(run: RunDir, names: Sequence[str]) -> Groups:
    """Return the frozen groups; founded classes are in the tail."""
    frozen = groups_of(run)
    return Groups(frozen.head, frozen.middle, (*frozen.tail, *range(len(class_names(run)), len(names))))


def _folder(run: RunDir) -> Path:
    return run.root / "updates"


def model_state(run: RunDir, tables: Sequence[str]) -> dict[str, Any]:
    """Return what the features and the classifier of an update rest on: chips, choice and extractions of the run."""
    stages = run.manifest()["stages"]
    return {
        "run": run_id(run),
        "choice": file_sha256(run.evaluation(FILE)),
        "features": {table: stages.get(f"extract-{table}", {}).get("fingerprint", "") for table in tables},
    }


def read_additions(run: RunDir, *, any_state: bool = False) -> Additions | None:
    """Return what labeling has added; None if nothing.

    Args:
        run: The run.
        any_state: Also where the run was made anew since: then without classifier, and with those features only whose
            extraction is still the same.

    Raises:
        ArtifactError: If it is damaged, or was made for an earlier state of the run.
    """
    path = _folder(run) / "current.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}, known is {VERSION}")
        state, names = content["state"], tuple(str(name) for name in content["class_names"])
        folder = _folder(run) / str(int(content["number"]))
        for name, digest in content["files"].items():
            if file_sha256(folder / Path(name).name) != digest:
                raise ValueError(f"{name} is not what was written")
        if not set(state["features"]) <= TABLES:
            raise ValueError("it names unknown features")
        now = model_state(run, list(state["features"]))
        if now != state and not any_state:
            raise ArtifactError(
                f"stale: {run.root} was made anew since labels were added to it; run deblora update {run.root} first"
            )
        kept = [
            table
            for table, print_ in state["features"].items()
            if print_ and now["features"][table] == print_
        ]
        chips = tuple(
            AddedChip(**{key: row[key] for key in COLUMNS})
            for row in read_rows(folder / "labels.csv", COLUMNS)
        )
        tables = {table: FeatureTable.load(folder / f"{table}.safetensors") for table in kept}
        if now != state:
            own = class_names(run)
            founded = [chip.label for chip in chips if chip.label not in own]
            return Additions(chips, (*own, *dict.fromkeys(founded)), tables)
        if names[: len(class_names(run))] != class_names(run) or not {chip.label for chip in chips} <= set(
            names
        ):
            raise ValueError("its classes are not those of the run")
        head, notes = load_classifier(folder / "classifier.safetensors")
        _check(head, notes, tables, len(names))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path} is damaged ({error}); delete {_folder(run)} and update the run again from its queues"
        ) from error
    return Additions(chips, names, tables, head, notes)


def _check(
    head: Classifier, notes: Mapping[str, Any], tables: Mapping[str, FeatureTable], n_classes: int
) -> None:
    """Raise a ValueError unless a classifier and its notes belong to these features and classes."""
    read = [str(table) for table in notes["tables"]]
    str(notes["method"]), str(notes["classifier"]), dict(notes["settings"])
    if not read or not set(read) <= set(tables) or not 0 < float(notes["temperature"]) < math.inf:
        raise ValueError("its classifier reads other features, or has no temperature")
    width = sum(tables[table].features.shape[1] for table in read)
    if head.logits(np.zeros((1, width))).shape[1] != n_classes:
        raise ValueError(f"its classifier is not of {n_classes} classes")


def write_additions(run: RunDir, added: Additions) -> None:
    """Write chips, features and classifier beside the earlier ones, which stay for readers, and make them count."""
    assert added.classifier is not None
    remove_leftovers(_folder(run))
    folders = [path for path in _folder(run).glob("*") if path.is_dir()] if _folder(run).is_dir() else []
    number = 1 + max((int(path.name) for path in folders if path.name.isdigit()), default=0)
    before = _current_number(run)
    folder = _folder(run) / str(number)
    rows = [[getattr(chip, key) for key in COLUMNS] for chip in added.chips]
    write_atomic(folder / "labels.csv", as_table(COLUMNS, rows))
    for table, features in added.tables.items():
        features.save(folder / f"{table}.safetensors")
    save_classifier(folder / "classifier.safetensors", added.classifier, dict(added.notes))
    content = {
        "version": VERSION,
        "number": number,
        "class_names": list(added.class_names),
        "state": model_state(run, list(added.tables)),
        "files": {path.name: file_sha256(path) for path in sorted(folder.iterdir())},
    }
    write_atomic(_folder(run) / "current.json", json.dumps(content, indent=1, ensure_ascii=False))
    for earlier in folders:
        if earlier.name != str(before):
            shutil.rmtree(earlier)


def _current_number(run: RunDir) -> int | None:
    try:
        return int(json.loads((_folder(run) / "current.json").read_text(encoding="utf-8"))["number"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def queue_key(root: Path) -> str:
    """Return a short hash of a queue's chips, by which labels of the same queue are known again."""
    return sha256((root / "queue.csv").read_bytes()).hexdigest()[:16]
