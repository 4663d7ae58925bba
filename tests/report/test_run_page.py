"""The page of a run: nothing is fetched, hostile names stay text, and what is absent is left out."""

import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from deblora.report.page import render_html, render_markdown
from deblora.report.sections import RUN, Report, report_page
from report_builders import NAMES, Reader, classes, drawings, write_page

DRAWN = (
    "Macro F1",  # of the chosen model
    "Macro F1",
    "Paired",
    "Training chips",
    "F1 per class",
    "Confusion",
    "t-SNE",
    "Cluster",
    "Training loss",
)


def test_hostile_strings_never_become_markup(page: str) -> None:
    assert "script" not in Reader(page).tags and "b" not in Reader(page).tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\x00" not in page
    assert "cdal &lt;b&gt;" in page
    for drawing in drawings(page):
        assert "<script" not in drawing and "\x00" not in drawing


def test_nothing_is_fetched(page: str) -> None:
    links = Reader(page).links
    assert links
    assert all(link.startswith(("#", "data:image/")) for link in links)
    assert "@import" not in page and "url(" not in page
    for drawing in drawings(page):
        targets = re.findall(r'href="([^"]*)"', drawing)
        assert all(target.startswith(("#", "data:image/png;base64,")) for target in targets)


def test_ids_are_unique_and_references_resolve(page: str) -> None:
    reader = Reader(page)
    assert len(set(reader.ids)) == len(reader.ids)
    assert {link[1:] for link in reader.links if link.startswith("#")} <= set(reader.ids)


def test_every_figure_is_there_and_words_stay_text(page: str) -> None:
    for start in DRAWN:
        assert re.search(f'class="drawing" src="[^"]*" alt="{start}', page)
    found = drawings(page)
    assert len(found) == len(DRAWN)
    assert any(re.search(r"<text[^>]*>救助船</text>", drawing) for drawing in found)
    assert any("$pleasure$" in drawing for drawing in found)


def test_the_chosen_model_stands_first_and_dots_before_numbers(page: str) -> None:
    first = page.index('id="summary"')
    assert (
        "Expected over zero-shot · balanced_softmax_cv on new chips: +9.0 points on the tail classes"
        in page[first:]
    )
    assert first < page.index('id="chosen"') < page.index('id="scores"')
    scores = page[page.index('id="scores"') :]
    assert scores.index("<img") < scores.index("<table")
    assert "A second adapter trained toward calibrated features." in scores


def test_same_content_gives_the_same_bytes(report: Report, page: str) -> None:
    assert render_html(report_page(report, RUN)) == page


def test_an_empty_report_is_a_title() -> None:
    page = render_html(report_page(Report("Nothing"), RUN))
    assert "<img" not in page and "There are no scores." in page
    assert Reader(page).ids == ["summary"]
    assert "# Nothing" in render_markdown(report_page(Report("Nothing"), RUN))


@pytest.mark.parametrize("name", ["scores", "differences", "projection", "classes", "history"])
def test_one_missing_table_leaves_the_others(changed: Callable[..., Report], name: str) -> None:
    page = render_html(report_page(changed(**{name: None}), RUN))
    assert len(drawings(page)) >= 3
    assert 'id="provenance"' in page


def test_empty_groups_and_not_a_number_do_not_crash(changed: Callable[..., Report], report: Report) -> None:
    nothing = {"group": "", "alpha, deblora": np.nan}
    f1, shares = report.table("class_f1"), report.table("composition")
    one = {"panel": "one", "kind": "test", "class": NAMES[11], "x": 0.0, "y": 0.0}
    content = changed(
        classes=report.table("classes").assign(**nothing),
        class_f1=f1.assign(value=np.nan),
        projection=pd.DataFrame([one]),
        composition=shares * np.nan,
        history=pd.DataFrame({"name": ["a"], "step": [1], "loss": [np.nan]}),
    )
    page = render_html(report_page(content, RUN))
    assert len(drawings(page)) == len(DRAWN)
    visible = re.sub(r"base64,[^\"]*", "", page)
    assert not re.search(r"\bnan\b", visible, flags=re.IGNORECASE)


def test_markdown_escapes_and_lists_the_same_numbers(report: Report) -> None:
    text = render_markdown(report_page(report, RUN))
    outside_code = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    assert "<script>" not in outside_code
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "**46.0 (38.0 to 54.0)**" in text
    lines = [line for line in text.splitlines() if line.startswith("| deblora | balanced")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {4, 7}


def test_many_classes_with_long_names(changed: Callable[..., Report]) -> None:
    n, rng = 51, np.random.default_rng(5)
    counts = np.maximum(0, (800 * 0.87 ** np.arange(n)).astype(int) - 1)
    names = tuple(f"class number {i} with a long name" for i in range(n))
    f1 = [
        pd.DataFrame({"method": f"method {i}", "classifier": "x", "class": names, "value": rng.random(n)})
        for i in range(8)
    ]
    pairs = [{"true": a, "predicted": b, "n": 3} for a in names for b in names[:5]]
    content = changed(
        classes=classes(names, counts),
        class_f1=pd.concat(f1),
        confusion=pd.DataFrame(pairs).assign(method="m", classifier="c"),
        composition=pd.DataFrame(rng.dirichlet(np.ones(40), n), index=list(names)),
        projection=pd.DataFrame(
            {
                "panel": "p",
                "kind": np.where(np.arange(99) % 2, "train", "test"),
                "class": np.array(names)[np.arange(99) % n],
                "x": rng.normal(size=99),
                "y": rng.normal(size=99),
            }
        ),
    )
    page = write_page(report_page(content, RUN), "crowded")
    assert len(drawings(page)) == len(DRAWN)
    assert any("method 7" in drawing for drawing in drawings(page))


def test_of_many_methods_figures_show_the_main_classifiers(
    changed: Callable[..., Report], report: Report
) -> None:
    scores = report.table("scores")
    more = [
        scores[scores["classifier"] == "cross_entropy"].assign(classifier=f"other_{i}") for i in range(12)
    ]
    content = changed(scores=pd.concat([scores, *more], ignore_index=True))
    page = render_html(report_page(content, RUN))
    dots = drawings(page)[1]  # after that of the chosen model
    assert "other_3" not in dots and "balanced_softmax" in dots
    assert "All methods and classifiers" in page and "other_3" in page
