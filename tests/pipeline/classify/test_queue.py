"""Queues: written and read alike, hardened cells, one file per labeler, disagreements that nobody decides."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from builders import write_toy_queue
from deblora.errors import ArtifactError, DataError
from deblora.pipeline.classify.queue import (
    UNSURE,
    Labels,
    as_table,
    checked_name,
    guarded,
    merge_labels,
    read_labels,
    read_queue,
    unguarded,
)

ODD = (
    '=HYPERLINK("x")',
    "a, b",
    'say "ship"',
    "\N{GREEK SMALL LETTER ALPHA} Schiff \N{SHIP}",
    "'=x",
    "-1",
    "@x",
)


def test_a_queue_is_read_as_it_was_written(tmp_path: Path) -> None:
    queue = write_toy_queue(tmp_path / "queue", names=ODD, ids=("=1.png", "a,b/2.png", "\u00fc.png"))
    assert read_queue(tmp_path / "queue") == queue
    with Image.open(queue.picture(0)) as picture:
        assert max(picture.size) == 256


@given(st.text())
def test_guarding_a_cell_can_be_taken_back_and_leaves_no_formula(text: str) -> None:
    assert unguarded(guarded(text)) == text
    assert not guarded(text).startswith(("=", "+", "-", "@", "\t", "\r"))


@pytest.mark.parametrize("name", ODD)
def test_labels_of_any_class_name_come_back_and_stay_in_order(tmp_path: Path, name: str) -> None:
    queue = write_toy_queue(tmp_path / "queue", names=(name, "other"))
    labels = Labels(queue)
    labels.give(2, name)
    labels.give(0, "other")
    labels.give(1, "", "unsure")
    labels.give(2, name)  # again: now the last one
    again = Labels(queue)
    assert [(key, own.label, own.state) for key, own in again.answers.items()] == [
        ("scene/0.png", "other", "labeled"),
        ("scene/1.png", "", "unsure"),
        ("scene/2.png", name, "labeled"),
    ]
    assert again.undo() == 2 and again.undo() == 1 and again.undo() == 0 and again.undo() is None
    assert Labels(queue).answers == {}


def test_a_filled_list_with_paths_and_labels_is_enough(tmp_path: Path) -> None:
    queue = write_toy_queue(tmp_path / "queue")
    path = queue.labels("page")
    path.write_text(
        "path,proposed,probability,label\n/pool/scene/1.png,rows,0.5,slope\n/pool/scene/2.png,,,\n"
    )
    answers = read_labels(path, queue)
    assert {key: own.label for key, own in answers.items()} == {"scene/1.png": "slope"}


def test_labelers_who_differ_are_listed_and_the_decision_counts(tmp_path: Path) -> None:
    queue = write_toy_queue(tmp_path / "queue")
    anna, ben = Labels(queue, "anna"), Labels(queue, "ben")
    for row, (one, other) in enumerate([("rows", "rows"), ("rows", "slope"), ("rows", ""), ("rows", None)]):
        anna.give(row, one)
        if other is not None:
            ben.give(row, other, "labeled" if other else "unsure")
    ben.give(4, "", "skipped")
    ben.give(5, "", "unsure")
    merged = merge_labels(queue)
    assert merged.labels == {"scene/0.png": "rows", "scene/3.png": "rows"}
    assert merged.disagreements == {
        "scene/1.png": {"anna": "rows", "ben": "slope"},
        "scene/2.png": {"anna": "rows", "ben": UNSURE},
    }
    assert (merged.n_unsure, merged.n_skipped, merged.labelers) == (1, 1, ("anna", "ben"))
    Labels(queue, "decided").give(1, "checks")
    assert merge_labels(queue).labels["scene/1.png"] == "checks"
    assert list(merge_labels(queue).disagreements) == ["scene/2.png"]


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 81, "Rows", "ro ws\u200b", "SHIP_yard"])
def test_names_that_no_new_class_can_have(name: str) -> None:
    with pytest.raises(DataError):
        checked_name(name, ["rows", "ship yard"])
    assert checked_name(" rows ", ["rows"]) == "rows"


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "a b", "x" * 41])
def test_a_labeler_is_no_path(tmp_path: Path, name: str) -> None:
    queue = write_toy_queue(tmp_path / "queue")
    with pytest.raises(DataError, match="--labeler"):
        Labels(queue, name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the column label is missing"),
        ("id,label\nscene/0.png\n", "line 2 has another number of columns"),
        ("id,label\nelsewhere,rows\n", "'elsewhere' as labeled, which is not in the queue"),
        ("id,label\nscene/0.png,rows\nscene/0.png,rows\n", "twice"),
        ("id,label,state\nscene/0.png,rows,sure\n", "as sure"),
        ("id,label\nscene/0.png,\x07\n", "printable"),
    ],
)
def test_damaged_labels_are_refused_and_named(tmp_path: Path, text: str, message: str) -> None:
    queue = write_toy_queue(tmp_path / "queue")
    queue.labels().write_text(text)
    with pytest.raises(ArtifactError, match=message):
        merge_labels(queue)


@pytest.mark.parametrize(
    "change", ["no queue", "version", "classes", "not JSON", "no picture", "no chip", "a column", "a number"]
)
def test_damaged_queues_are_refused(tmp_path: Path, change: str) -> None:
    queue = write_toy_queue(tmp_path / "queue")
    notes = queue.root / "queue.json"
    content = json.loads(notes.read_text())
    table = queue.root / "queue.csv"
    match change:
        case "no queue":
            notes.unlink()
        case "version":
            notes.write_text(json.dumps({**content, "version": 99}))
        case "classes":
            notes.write_text(json.dumps({**content, "classes": [*content["classes"]] * 2}))
        case "not JSON":
            notes.write_text("{")
        case "no picture":
            queue.picture(3).unlink()
        case "no chip":
            table.write_text("id,path,proposed,probability,group\n")
        case "a column":
            table.write_text(table.read_text().replace("proposed", "guessed"))
        case "a number":
            table.write_text(table.read_text().replace("0.500000", "half"))
    with pytest.raises(ArtifactError, match="queue anew|deblora suggest"):
        read_queue(queue.root)


def test_a_table_is_plain_csv() -> None:
    assert as_table(("a", "b"), [("=1", "x,y")]) == 'a,b\n\'=1,"x,y"\n'
