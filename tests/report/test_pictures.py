"""Pages of pictures: scores of detections, and what was found among new chips."""

import numpy as np

from deblora.data.longtail import Groups
from deblora.data.scenes.dota import Labels
from deblora.detect.average_precision import summarize_detections
from deblora.detect.task1 import QuadDetections
from deblora.report.page import Picture, render_html, render_markdown
from deblora.report.pictures import Detections, Found, detection_page, found_page
from report_builders import Reader, drawings

NAMES = ("ship", "car<b>", "crane")
SQUARE = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])


def summary() -> dict[str, object]:
    """One ship found with a false alarm after it, one of two cars found, no crane anywhere."""
    truth = {
        "a": Labels(np.stack([SQUARE, SQUARE + 50]), ("ship", "car<b>"), np.zeros(2, dtype=np.int64)),
        "b": Labels(SQUARE[None], ("car<b>",), np.zeros(1, dtype=np.int64)),
    }
    found = QuadDetections(
        ("a", "a", "b"),
        ("ship", "ship", "car<b>"),
        np.array([0.9, 0.8, 0.7]),
        np.stack([SQUARE, SQUARE + 100, SQUARE]),
    )
    groups = Groups((0,), (1,), (2,))
    counts = np.array([30, 20, 1])
    return summarize_detections(found, truth, NAMES, groups, protocol="dota1.5", train_counts=counts)


def test_the_table_by_hand() -> None:
    found = summary()
    assert found["missing"] == ["crane"] and found["protocol"] == "dota1.5" and found["n_images"] == 2
    assert found["groups"]["map50_area"] == {"head": 1.0, "middle": 0.5, "tail": None, "all": 0.75}
    # A recall of 1/2 reaches the first six of the eleven points.
    assert found["groups"]["map50"]["middle"] == 6 / 11
    ship, car, crane = found["classes"]
    assert (ship["n_true"], ship["n_false"], car["n_ground_truth"], crane["ap50"]) == (1, 1, 2, None)
    assert ship["curve"] == {"recall": [1.0, 1.0], "precision": [1.0, 0.5]}
    assert car["group"] == "middle" and car["n_train"] == 20


def content(pictures: tuple[Picture, ...]) -> Detections:
    facts = {
        "method": "ecm",
        "backbone": "embedded",
        "adapter": "joint",
        "n_extractor": 1_320_000,
        "n_extractor_trained": 98_000,
        "n_head": 320_000,
        "seed": 4,
    }
    return Detections(
        title="Detection",
        summary={"split": "val", **summary()},
        facts=facts,
        history=((1, 3.0), (2, 2.0)),
        recipe_yaml="seed: 4",
        overlays=pictures,
        thumbnails={"ship": pictures},
        notes=("A note.",),
    )


def test_the_page_names_protocol_parameters_and_what_is_missing() -> None:
    page = render_html(detection_page(content((Picture("data:image/jpeg;base64,AA", 'a "b" <i>'),))))
    for text in ("dota1.5", "1.32", "0.10", "in no mean: crane", "trained with the head", "A note."):
        assert text in page
    assert "<i>" not in page and "car<b>" not in page and "<script" not in page
    assert len(drawings(page)) == 3


def test_a_page_without_pictures_leaves_them_out() -> None:
    ids = Reader(render_html(detection_page(content(())))).ids
    assert "classes" in ids and not {"overlays", "thumbnails"} & set(ids)


def test_markdown_for_foreign_predictions() -> None:
    text = render_markdown(detection_page(Detections("Evaluation", summary())))
    assert "| ship | head | 30 | 1 |" in text and "dota1.5" in text and "Seed" not in text


def found(**changes: object) -> Found:
    picture = Picture("data:image/jpeg;base64,AA", "0.91", 'x"<i>.png')
    values = {
        "title": "New chips",
        "row": "lora · sade",
        "n_chips": 7,
        "groups": {"rare<b>": "tail", "often": "head"},
        "n_train": {"rare<b>": 2, "often": 90},
        "n_predicted": {"rare<b>": 3, "often": 4},
        "pictures": {"rare<b>": [picture], "often": []},
    }
    return Found(**{**values, **changes})  # type: ignore[arg-type]


def test_rare_classes_are_shown_first_and_escaped() -> None:
    page = render_html(found_page(found()))
    assert "3 of 7 chips were predicted as one of the 1 tail classes." in page
    assert page.index('id="found-tail"') < page.index('id="found-head"') < page.index('id="counts"')
    assert not {"b", "i"} & set(Reader(page).tags)
    assert "No chip was predicted as a head class." in page


def test_chips_that_were_left_out_are_named_up_to_fifty() -> None:
    skipped = {f"chip{i}": "cut short" for i in range(60)}
    page = render_html(found_page(found(skipped=skipped)))
    assert "60 chips were left out" in page and "chip49" in page and "chip50" not in page
    assert "1 chip was left out" in render_html(found_page(found(skipped={"a": "b"})))
