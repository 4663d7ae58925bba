import dataclasses
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from deblora.data.longtail import Groups
from deblora.report.content import Projection, ReportContent
from deblora.report.run_page import render_markdown, render_page


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(str(value))
            if key in ("src", "href", "xlink:href"):
                self.links.append(str(value))


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


@pytest.fixture
def page(content: ReportContent) -> str:
    text = render_page(content)
    if "DEBLORA_KEEP_REPORT" in os.environ:
        Path(os.environ["DEBLORA_KEEP_REPORT"]).write_text(text, encoding="utf-8")
    return text


def test_hostile_strings_never_become_markup(page: str) -> None:
    tags = read(page).tags
    assert "script" not in tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\x00" not in page
    assert "cdal &lt;b&gt;" in page


def test_nothing_is_fetched(page: str) -> None:
    links = read(page).links
    assert links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))


def test_ids_are_unique_and_references_resolve(page: str) -> None:
    reader = read(page)
    assert len(set(reader.ids)) == len(reader.ids)
    targets = {link[1:] for link in reader.links if link.startswith("#")} | set(
        re.findall(r"url\(#([^)]*)\)", page)
    )
    assert targets <= set(reader.ids)


def test_every_figure_is_there_and_words_stay_text(page: str) -> None:
    for name in ("longtail", "forest", "f1", "confusion", "tsne", "composition", "curves"):
        assert f'id="{name}-figure_1"' in page
    assert page.count("<svg") == 7
    assert re.search(r"<text[^>]*>救助船</text>", page)
    assert "$pleasure$" in page


def test_same_content_gives_the_same_bytes(content: ReportContent, page: str) -> None:
    assert render_page(content) == page


def test_empty_report_says_what_is_missing(empty: ReportContent) -> None:
    page = render_page(empty)
    assert "<svg" not in page
    for sentence in ("No scores were given.", "Nothing was trained.", "No clusters were given."):
        assert sentence in page
    assert "Not available." in render_markdown(empty)


@pytest.mark.parametrize("field", ["rows", "differences", "projections"])
def test_one_missing_part_leaves_the_others(changed: Callable[..., ReportContent], field: str) -> None:
    page = render_page(changed(**{field: ()}))
    assert page.count("<svg") == 7 - (field != "rows")
    assert "No " in page


def test_empty_groups_and_not_a_number_do_not_crash(changed: Callable[..., ReportContent]) -> None:
    nothing = np.full(12, np.nan)
    point = Projection("one", np.zeros((1, 2)), np.array([11]), np.array([True]), {})
    page = render_page(
        changed(
            groups=Groups((), (), ()),
            per_class_f1={"a": nothing},
            alpha_per_class={"a": nothing},
            confusion={"only": np.zeros((12, 12), dtype=int)},
            projections=(point,),
            composition=np.full((12, 3), np.nan),
            curves={"a": ((1, float("nan")),), "b": ()},
        )
    )
    assert page.count("<svg") == 7
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", page), flags=re.IGNORECASE)


def test_wrong_number_of_classes_is_refused(changed: Callable[..., ReportContent]) -> None:
    with pytest.raises(ValueError, match=r"counts\['train'\] has 3 classes, class_names has 12"):
        changed(counts={"train": np.ones(3, dtype=int)})


def test_markdown_escapes_and_lists_the_same_numbers(content: ReportContent) -> None:
    text = render_markdown(content)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "**46.0 (38.0 to 54.0)**" in text
    table_lines = [line for line in text.splitlines() if line.startswith("| deblora")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table_lines} == {3, 5, 7}


def test_recipe_cannot_leave_its_fence(changed: Callable[..., ReportContent]) -> None:
    text = render_markdown(changed(recipe_yaml="a: |\n  ````\n  # out\n"))
    assert "`````yaml\n" in text


def test_many_classes_with_long_names_and_absent_ones(content: ReportContent) -> None:
    n, rng = 51, np.random.default_rng(5)
    counts = np.maximum(0, (800 * 0.87 ** np.arange(n)).astype(int) - 1)
    crowded = dataclasses.replace(
        content,
        class_names=tuple(f"class number {i} with a long name" for i in range(n)),
        counts={"train": counts},
        groups=Groups(tuple(range(17)), tuple(range(17, 34)), tuple(range(34, 51))),
        per_class_f1={f"method {i} · probe": rng.random(n) for i in range(8)},
        confusion={f"m{i}": rng.integers(0, 20, (n, n)) for i in range(3)},
        projections=(
            Projection("p", rng.normal(size=(99, 2)), np.arange(99) % n, np.arange(99) % 2 == 0, {}),
        ),
        composition=rng.dirichlet(np.ones(40), n),
        alpha_per_class={"kappa": counts / (counts + 20), "ratio": rng.random(n)},
    )
    page = render_page(crowded)
    if "DEBLORA_KEEP_REPORT" in os.environ:
        Path(os.environ["DEBLORA_KEEP_REPORT"] + ".crowded.html").write_text(page, encoding="utf-8")
    assert page.count("<svg") == 7
    assert "method 7 · probe" in page
