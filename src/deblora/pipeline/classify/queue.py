"""A queue of chips to label: the folder that ``suggest`` writes, ``label`` fills and ``update`` reads.

``queue.json`` says of which run, strategy and pool it is; ``queue.csv`` has one line per chip in the order to label;
``pictures/<row>.png`` shows it. Every labeler has a file of their own, ``labels.csv`` or ``labels-<name>.csv``.
Class names and paths are not trusted: a cell that a spreadsheet would take for a formula is written behind an
apostrophe, and read without it.
"""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from deblora.errors import ArtifactError, DataError
from deblora.files import write_atomic
from deblora.run.run_dir import RunDir

VERSION = 1
MAX_BYTES = 1 << 28
"""Largest table or JSON file that is read: a million chips have about half of it (ours)."""
MAX_SIDE = 256
"""Longest side of a picture, pixels."""
LONGEST_NAME = 80
"""Characters of a class that labeling founds (ours)."""
QUEUE_COLUMNS = ("id", "path", "proposed", "probability", "group")
LABEL_COLUMNS = ("id", "path", "label", "labeler", "time", "state")
DECIDED = "decided"
"""The labeler whose word is final where others disagree."""
State = Literal["labeled", "unsure", "skipped"]
STATES: tuple[State, ...] = ("labeled", "unsure", "skipped")


@dataclass(frozen=True)
class QueueClass:
    """A class that can be given: its group, and how many labels it had when the queue was made."""

    name: str
    group: str
    n_labels: int


@dataclass(frozen=True)
class QueueChip:
    """A chip to label, with the class it is proposed for and how probable that is, in [0, 1]."""

    id: str
    path: str
    proposed: str
    probability: float
    group: str


@dataclass(frozen=True)
class Queue:
    """What ``queue.json`` and ``queue.csv`` hold.

    Attributes:
        root: The folder.
        run: :func:`run_id` of the run that it was made for.
        run_folder: Where that run was.
        pool: Where the chips come from.
        classes: Classes of the run.
        strategy: How chips were chosen.
        n: How many were asked for.
        seed: Of the strategy.
        chips: In the order to label.
    """

    root: Path
    run: str
    run_folder: str
    pool: str
    classes: tuple[QueueClass, ...]
    strategy: str
    n: int
    seed: int
    chips: tuple[QueueChip, ...] = field(repr=False)

    def picture(self, row: int) -> Path:
        """Return the file of a chip's picture."""
        return self.root / "pictures" / f"{row}.png"

    def labels(self, labeler: str = "") -> Path:
        """Return the file of a labeler.

        Raises:
            DataError: If the name is none that a file can have.
        """
        if labeler and not re.fullmatch(r"[\w][\w.-]{0,39}", labeler):
            raise DataError(
                f"--labeler {labeler!r} has to be letters, digits, points, hyphens or underscores, 40 at most"
            )
        return self.root / (f"labels-{labeler}.csv" if labeler else "labels.csv")


def run_id(run: RunDir) -> str:
    """Return a short hash of what the audit froze: ids, labels, splits, classes and groups of a run."""
    return sha256(run.samples.read_bytes() + run.groups.read_bytes()).hexdigest()[:16]


# --- cells and names --------------------------------------------------------------------------------------------

_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def guarded(text: str) -> str:
    """Return a cell that no spreadsheet runs as a formula; :func:`unguarded` takes that back.

    Example:
        >>> guarded("=SUM(A1)"), guarded("ship"), unguarded(guarded("'-x"))
        ("'=SUM(A1)", 'ship', "'-x")
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(text: str) -> str:
    """Return the text that :func:`guarded` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def as_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows of text as CSV with guarded cells."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([guarded(cell) for cell in row] for row in rows)
    return buffer.getvalue()


def read_rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file with these columns, maybe among others, as :func:`as_table` was given them.

    Raises:
        ArtifactError: If it is missing, too large or damaged.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"the column {missing[0]} is missing")
            rows = []
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError(f"line {reader.line_num} has another number of columns than the header")
                rows.append({name: unguarded(cell) for name, cell in row.items()})
    except (OSError, ValueError, csv.Error) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); restore it or make the queue anew") from error
    return rows


def checked_name(text: str, known: Iterable[str] = ()) -> str:
    """Return the name of a class as it is kept: one spelling of its characters, no space around it.

    Raises:
        DataError: If it is empty, too long, has characters that cannot be printed, or differs from a known class in
            its case or spaces only.
    """
    name = unicodedata.normalize("NFC", text).strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise DataError(
            f"a class needs a name of 1 to {LONGEST_NAME} printable characters, got {text[:100]!r}"
        )
    alike = [own for own in known if own != name and _folded(own) == _folded(name)]
    if alike:
        raise DataError(f"{name!r} is nearly the class {alike[0]!r}; take that one or choose another name")
    return name


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()


# --- the queue --------------------------------------------------------------------------------------------------


def write_queue(queue: Queue, pictures: Iterable[UInt8[np.ndarray, "h w 3"]]) -> None:
    """Write a queue whose folder is new or empty; ``queue.json`` last, so that a cut one is none.

    Args:
        queue: What to write, and where.
        pictures: One per chip, RGB; larger ones are made smaller.
    """
    from PIL import Image

    for row, picture in enumerate(pictures):
        image = Image.fromarray(picture)
        image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        write_atomic(queue.picture(row), buffer.getvalue())
    rows = [[c.id, c.path, c.proposed, f"{c.probability:.6f}", c.group] for c in queue.chips]
    write_atomic(queue.root / "queue.csv", as_table(QUEUE_COLUMNS, rows))
    notes = {name: value for name, value in vars(queue).items() if name not in ("root", "chips", "classes")}
    content = {"version": VERSION, **notes, "classes": [asdict(own) for own in queue.classes]}
    write_atomic(queue.root / "queue.json", json.dumps(content, indent=1, ensure_ascii=False))


def read_queue(root: Path) -> Queue:
    """Read a queue.

    Raises:
        ArtifactError: If the folder is no queue, is damaged, or a picture is missing.
    """
    path = root / "queue.json"
    if not path.is_file():
        raise ArtifactError(
            f"{root} is no queue (queue.json is missing); make one with: deblora suggest RUN POOL"
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}, known is {VERSION}")
        classes = tuple(
            QueueClass(str(own["name"]), str(own["group"]), int(own["n_labels"]))
            for own in content["classes"]
        )
        if len({own.name for own in classes}) < len(classes):
            raise ValueError("a class is named twice")
        texts = {name: str(content[name]) for name in ("run", "run_folder", "pool", "strategy")}
        numbers = {name: int(content[name]) for name in ("n", "seed")}
        chips = tuple(
            QueueChip(row["id"], row["path"], row["proposed"], float(row["probability"] or 0), row["group"])
            for row in read_rows(root / "queue.csv", QUEUE_COLUMNS)
        )
        if not chips or len({chip.id for chip in chips}) < len(chips):
            raise ValueError("queue.csv has no chip, or one twice")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is damaged ({error}); make the queue anew with deblora suggest"
        ) from error
    queue = Queue(root, classes=classes, chips=chips, **texts, **numbers)  # type: ignore[arg-type]
    absent = [row for row in range(len(chips)) if not queue.picture(row).is_file()]
    if absent:
        raise ArtifactError(
            f"{queue.picture(absent[0])} is missing; make the queue anew with deblora suggest"
        )
    return queue


# --- labels -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a labeler said of a chip; ``label`` is empty unless the state is labeled."""

    label: str
    state: State
    time: str


class Labels:
    """The answers of one labeler, in the order they were given; every change is on the disk before it returns."""

    def __init__(self, queue: Queue, labeler: str = "") -> None:
        """Read what was saved before.

        Raises:
            ArtifactError: If the file is damaged.
            DataError: If the name of the labeler is none that a file can have.
        """
        self.queue, self.labeler, self.path = queue, labeler, queue.labels(labeler)
        self.answers = read_labels(self.path, queue) if self.path.exists() else {}

    def give(self, row: int, label: str, state: State = "labeled") -> None:
        """Save an answer for a chip; an earlier one for it is replaced."""
        chip = self.queue.chips[row]
        answers = {chip_id: own for chip_id, own in self.answers.items() if chip_id != chip.id}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._save({**answers, chip.id: Answer(label if state == "labeled" else "", state, now)})

    def undo(self) -> int | None:
        """Take the last answer back; return the row of its chip, none if there is no answer."""
        if not self.answers:
            return None
        *kept, (last, _) = self.answers.items()
        self._save(dict(kept))
        return next(row for row, chip in enumerate(self.queue.chips) if chip.id == last)

    def _save(self, answers: dict[str, Answer]) -> None:
        path_of = {chip.id: chip.path for chip in self.queue.chips}
        rows = [
            (chip_id, path_of[chip_id], own.label, self.labeler, own.time, own.state)
            for chip_id, own in answers.items()
        ]
        write_atomic(self.path, as_table(LABEL_COLUMNS, rows))
        self.answers = answers


def read_labels(path: Path, queue: Queue) -> dict[str, Answer]:
    """Return the answers in a file by chip id; also one that the static page exported, or that was filled by hand.

    Only ``id`` (or ``path``) and ``label`` are needed; lines without a label and a state are passed over.

    Raises:
        ArtifactError: If the file is damaged, names a chip that is not in the queue, or one twice.
    """
    id_of = {chip.path: chip.id for chip in queue.chips}
    known = {chip.id for chip in queue.chips}
    answers: dict[str, Answer] = {}
    for row in read_rows(path, ("label",)):
        chip_id = row.get("id") or id_of.get(row.get("path", ""), "")
        state = row.get("state") or ("labeled" if row["label"].strip() else "")
        if not state:
            continue
        if chip_id not in known or chip_id in answers or state not in STATES:
            fault = "twice" if chip_id in answers else f"as {state}, which is not in the queue"
            named = chip_id or row.get("path", "")
            raise ArtifactError(f"{path} names the chip {named!r} {fault}; mend or delete that line")
        try:
            label = checked_name(row["label"]) if state == "labeled" else ""
        except DataError as error:
            raise ArtifactError(f"{path}: {chip_id}: {error}") from error
        answers[chip_id] = Answer(label, state, row.get("time", ""))
    return answers


@dataclass(frozen=True)
class Merged:
    """What all labelers of a queue say together.

    Attributes:
        labels: Class by chip id, where all who answered agree, or who decides has spoken.
        disagreements: By chip id what each labeler says, where they differ; such chips are in no other part.
        n_unsure: Chips that were left as unsure.
        n_skipped: Chips that were passed over.
        labelers: Names; an empty one for ``labels.csv``.
    """

    labels: Mapping[str, str]
    disagreements: Mapping[str, Mapping[str, str]]
    n_unsure: int
    n_skipped: int
    labelers: tuple[str, ...]


UNSURE = "(unsure)"


def merge_labels(queue: Queue) -> Merged:
    """Bring the answers of all labelers together; nothing is decided by majority.

    A chip that one labels and another leaves as unsure is a disagreement too; a skip says nothing. The answers of the
    labeler ``decided`` replace those of the others.

    Raises:
        ArtifactError: If a file is damaged.
    """
    files = [path for path in sorted(queue.root.glob("labels*.csv")) if re.match(r"labels(-.+)?$", path.stem)]
    said = {path.stem.removeprefix("labels").removeprefix("-"): read_labels(path, queue) for path in files}
    final = said.get(DECIDED, {})
    labels: dict[str, str] = {}
    disagreements: dict[str, dict[str, str]] = {}
    n_unsure = n_skipped = 0
    for chip in queue.chips:
        answers = {name: own[chip.id] for name, own in said.items() if chip.id in own and name != DECIDED}
        if chip.id in final and final[chip.id].state != "skipped":
            answers = {DECIDED: final[chip.id]}
        opinions = {
            name: own.label or UNSURE for name, own in answers.items() if own.state in ("labeled", "unsure")
        }
        different = set(opinions.values())
        if len(different) > 1:
            disagreements[chip.id] = opinions
        elif different == {UNSURE}:
            n_unsure += 1
        elif different:
            labels[chip.id] = different.pop()
        else:
            n_skipped += bool(answers)
    return Merged(labels, disagreements, n_unsure, n_skipped, tuple(said))
