import re
from collections.abc import Callable, Mapping
from html.parser import HTMLParser

import numpy as np
import pytest

from deblora.evaluate.seeds import Entry, Unit, summarize_runs
from deblora.report import seeds_tables as merged_tables
from deblora.report.seeds_content import MergedContent, MergedRun, Study
from deblora.report.seeds_page import render_merged_markdown, render_merged_page
from deblora.report.seeds_summary import summarize_merged

GROUPS = ("head", "middle", "tail", "all")
PLAIN, BALANCED = ("lora", "cross_entropy"), ("lora", "balanced_softmax")
HOSTILE = "new <b>&$x$ | `\x00"
Values = Mapping[tuple[str, str], list[float]]


def study(values: Values, *, dataset: str = "aid", recipe: str = "lora:\n  rank: 8\n") -> Study:
    """Return a study in which every group has the same scores, one per seed."""
    n = len(next(iter(values.values())))
    units = [Unit(dataset, "vit", seed) for seed in range(n)]
    scores = {
        unit: {
            Entry(*name, "macro_f1", group): of_seed[unit.seed]
            for name, of_seed in values.items()
            for group in GROUPS
        }
        for unit in units
    }
    rows = summarize_runs(scores)
    verdicts = {
        (row.entry, baseline): ("gain", *("open",) * (n - 1)) for row in rows for baseline in row.against
    }
    runs = tuple(MergedRun(f"run{unit.seed}", unit, "ab" * 32, (3, 3, 4), 505, 120) for unit in units)
    return Study(dataset, "vit", runs, rows, verdicts, recipe)


def merged(*studies: Study) -> MergedContent:
    scores: dict[Unit, dict[Entry, float]] = {}
    for part in studies:
        for row in part.rows:
            for unit, value in row.values.items():
                scores.setdefault(unit, {})[row.entry] = value
    return MergedContent("title", studies, summarize_runs(scores), {"deblora": "1"}, ("A note.",))


@pytest.fixture
def told() -> Callable[..., str]:
    return lambda values, **more: " ".join(summarize_merged(merged(study(values, **more))))


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [str(value) for key, value in attrs if key == "id"]
        self.links += [str(value) for key, value in attrs if key in ("src", "href", "xlink:href")]


def test_a_clear_win_over_seeds(told: Callable[..., str]) -> None:
    text = told({PLAIN: [0.3, 0.4, 0.35], ("new", "cross_entropy"): [0.4, 0.51, 0.44]})
    assert "3 seeds (0, 1, 2); intervals are 95 % t intervals" in text
    assert (
        "On the tail classes, new with the cross_entropy probe has the highest mean: 45.0 % macro F1" in text
    )
    assert (
        "It is 10.0 points above lora with the cross_entropy probe (higher in 3 of 3 seeds), and the" in text
    )
    assert "Gains against lora with the same probe, in any group: new 4 times, at most +" in text
    assert "With the same probe, no group shows a loss whose interval" in text


def test_an_open_win_is_not_sold_as_one(told: Callable[..., str]) -> None:
    text = told({PLAIN: [0.3, 0.4, 0.35], ("new", "cross_entropy"): [0.5, 0.3, 0.4]})
    assert "(higher in 2 of 3 seeds), but the paired interval" in text
    assert "includes zero: the seeds cannot tell them apart." in text
    assert "Gains against lora" not in text
    assert "With the same probe, no group shows a gain" in text


def test_a_winning_baseline_and_losses_are_said(told: Callable[..., str]) -> None:
    text = told({PLAIN: [0.5, 0.6, 0.55], ("deblora", "cross_entropy"): [0.3, 0.41, 0.34]})
    assert "This is a baseline: no method that was compared with it scores higher." in text
    assert re.search(
        r"Against lora with the same cross_entropy probe on the tail classes: deblora −20.0 points", text
    )
    assert re.search(r"; lower; higher in 0 of 3 seeds\)", text)
    assert "Losses against lora with the same probe, in any group: deblora 4 times, at most" in text


def test_one_seed_is_said_in_words(told: Callable[..., str]) -> None:
    text = told({PLAIN: [0.3], ("new", "cross_entropy"): [0.4]})
    assert "one seed: no spread can be given" in text
    assert "new with the cross_entropy probe scores highest: 40.0 % macro F1." in text
    assert "excludes zero" not in text and "includes zero" not in text and "standard deviation" not in text


def test_equal_scores_are_called_equal(told: Callable[..., str]) -> None:
    text = told({("same", "cross_entropy"): [0.3, 0.4], PLAIN: [0.3, 0.4]})
    assert (
        "level with lora · cross_entropy. It equals lora with the cross_entropy probe in every seed." in text
    )
    assert "same equal." in text


def test_the_probe_prior_is_kept_apart_from_the_features(told: Callable[..., str]) -> None:
    values = {PLAIN: [0.2, 0.3], BALANCED: [0.5, 0.6], ("deblora", "balanced_softmax"): [0.4, 0.52]}
    text = told(values)
    assert (
        "Against lora with the same balanced_softmax probe on the tail classes: deblora −9.0 points" in text
    )
    assert "Against lora with the same cross_entropy probe" not in text


def test_several_data_sets_are_named_and_pooled() -> None:
    values = {PLAIN: [0.3, 0.4], ("new", "cross_entropy"): [0.4, 0.39]}
    text = " ".join(summarize_merged(merged(study(values), study(values, dataset="mstar"))))
    assert "aid on vit: On the tail classes" in text and "mstar on vit: On the tail classes" in text
    assert re.search("Over all runs, against lora .*higher in 2 of 4 runs", text)


def test_scores_without_any_run_are_dashes() -> None:
    nan = float("nan")
    part = study({PLAIN: [nan, nan], ("new", "cross_entropy"): [0.3, nan]})
    table = merged_tables.scores(part.rows)
    assert [cell.text for cell in table.rows[0][2:]] == ["-"] * 4
    assert [cell.text for cell in table.rows[1][2:]] == ["30.0"] * 4
    assert not merged_tables.differences(part.rows, part.verdicts).rows
    assert "There is no score" not in " ".join(summarize_merged(merged(part)))
    empty = study({PLAIN: [nan, nan]})
    assert "There is no score on the tail classes." in " ".join(summarize_merged(merged(empty)))


def test_the_tables_by_hand() -> None:
    part = study({PLAIN: [0.3, 0.4, 0.5], ("new", "cross_entropy"): [0.4, 0.4, 0.3]})
    row = merged_tables.scores(part.rows).rows[0]
    # mean 40, sd 10, half width 4.3027 * 10 / sqrt(3) = 24.8
    assert (row[2].text, row[2].interval, row[2].style) == ("40.0 ± 10.0", "15.2 to 64.8", "best")
    line = merged_tables.differences(part.rows, part.verdicts).rows[0]
    assert [cell.text for cell in line] == [
        "new · cross_entropy",
        "lora · cross_entropy",
        "head",
        "undecided",
        "1 of 3, equal in 1",
        "1 higher, 2 undecided",
        "−3.3 ± 15.3",
        "−41.3 to +34.6",
    ]


@pytest.fixture(scope="module")
def hostile() -> MergedContent:
    rng = np.random.default_rng(0)
    values = {
        (method, probe): list(rng.random(3))
        for method in ("lora", HOSTILE)
        for probe in ("cross_entropy", "balanced_softmax")
    }
    recipe = "lora:\n  note: '</pre><script>'\n"
    return merged(study(values, recipe=recipe), study(values, dataset="<i>b</i>"))


@pytest.fixture(scope="module")
def page(hostile: MergedContent) -> str:
    return render_merged_page(hostile)


def test_the_page_is_whole_and_loads_nothing(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert page.count("<svg") == 4
    assert len(set(reader.ids)) == len(reader.ids)
    assert all(link.startswith("#") for link in reader.links)
    targets = {link[1:] for link in reader.links} | set(re.findall(r"url\(#([^)]*)\)", page))
    assert targets <= set(reader.ids)
    assert {"scores-1", "differences-1", "scores-2", "pooled", "runs", "recipes", "notes"} <= set(reader.ids)


def test_hostile_strings_never_become_markup(page: str, hostile: MergedContent) -> None:
    reader = Reader()
    reader.feed(page)
    assert not {"script", "b", "i"} & set(reader.tags)
    assert "\x00" not in page
    text = render_merged_markdown(hostile)
    assert "<b>" not in text and "\x00" not in text
    outside_code = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    assert "<script>" not in outside_code and "new &lt;b&gt;&amp;$x$ \\| \\`" in outside_code


def test_the_same_content_gives_the_same_bytes() -> None:
    content = merged(study({PLAIN: [0.3, 0.4], BALANCED: [0.2, 0.5]}))
    assert render_merged_page(content) == render_merged_page(content)


def test_markdown_holds_the_sentences_and_tables_of_the_page(hostile: MergedContent) -> None:
    text = render_merged_markdown(hostile)
    for title in ("Summary", "Comparison", "Paired differences", "Over all runs", "Runs", "Recipes", "Notes"):
        assert re.search(rf"^## {title}", text, re.M)
    widths = {line.count(" | ") for line in text.splitlines() if line.startswith("| run")}
    assert widths == {7}


def test_one_seed_and_a_lone_baseline_still_make_a_page() -> None:
    page = render_merged_page(merged(study({PLAIN: [0.3]})))
    assert "One seed: no spread can be given." in page
    assert "No method was scored beside a baseline." in page
