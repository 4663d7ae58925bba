"""Pages over seeds and of studies: whole, escaped, and honest about a single seed."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest

from deblora.pipeline.compare.over_seeds import (
    BALANCED,
    PLAIN,
    baselines_in,
    by_rank,
    differences_to_first,
    mean_scores,
    paired_differences,
)
from deblora.pipeline.compare.study import varied_setting
from deblora.report.page import render_html, render_markdown
from deblora.report.sections import SEEDS, STUDY, Report, report_page
from report_builders import Reader, drawings, write_page

GROUPS = ("head", "middle", "tail", "all")
HOSTILE = "new <b>&$x$ | `\x00"
GAINS = {
    PLAIN: -0.2,
    BALANCED: 0.0,
    ("lora", "sade"): 0.0,
    ("deblora", "balanced_softmax"): -0.05,
    (HOSTILE, "logit_adjustment"): 0.03,
    ("strong", "chosen"): 0.0,
    ("guarded", "chosen"): 0.03,
}


def results(n_seeds: int = 5, *, dataset: str = "aid") -> pd.DataFrame:
    noise = np.random.default_rng(0).normal(scale=0.004, size=(n_seeds, len(GAINS)))
    base = {"head": 0.8, "middle": 0.6, "tail": 0.4, "all": 0.6}
    lines = [
        {
            "method": name[0],
            "classifier": name[1],
            "metric": metric,
            "group": group,
            "seed": seed,
            "value": base[group] + gain * (group == "tail") + noise[seed, i],
        }
        for seed in range(n_seeds)
        for i, (name, gain) in enumerate(GAINS.items())
        for metric, groups in (("macro_f1", GROUPS), ("accuracy_backward", ("all",)))
        for group in groups
    ]
    return pd.DataFrame(lines).assign(dataset=dataset, backbone="vit")


def seeds_report(found: pd.DataFrame, **tables: pd.DataFrame) -> Report:
    differences = paired_differences(found, baselines_in(found))
    own = differences[differences["metric"] == "macro_f1"]
    more = {"scores": mean_scores(found), "differences": own, **tables}
    recipe = "lora:\n  note: '</pre><script>'\n"
    return Report("title", tables=more, recipe_yaml=recipe, provenance={"deblora": "1"}, notes=("A note.",))


@pytest.fixture(scope="module")
def report() -> Report:
    both = pd.concat([results(), results(dataset="<i>b</i>")], ignore_index=True)
    macro = both[both["metric"] == "macro_f1"]
    return seeds_report(both, pooled=paired_differences(macro, baselines_in(macro), by=()))


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return write_page(report_page(report, SEEDS), "seeds")


def test_the_page_is_whole_and_loads_nothing(page: str) -> None:
    reader = Reader(page)
    assert len(drawings(page)) == 4  # dots and differences of two data sets
    assert len(set(reader.ids)) == len(reader.ids)
    assert all(link.startswith(("#", "data:image/")) for link in reader.links)
    assert {"summary", "scores", "differences", "pooled", "priors", "recipe", "notes"} <= set(reader.ids)


def test_hostile_strings_never_become_markup(page: str, report: Report) -> None:
    assert not {"script", "b", "i"} & set(Reader(page).tags)
    assert "\x00" not in page
    text = render_markdown(report_page(report, SEEDS))
    assert "<b>" not in text and "\x00" not in text
    outside_code = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    assert "<script>" not in outside_code and "new &lt;b&gt;&amp;$x$ \\| \\`" in outside_code


def test_the_finding_leads_with_what_validation_chose(page: str) -> None:
    summary = page[page.index('id="summary"') : page.index("</section>")]
    ours = r"guarded · chosen against strong · chosen: on the tail classes \+[23]\.\d points \([^;]*; a gain;"
    assert re.search(ours, summary)
    assert "aid on vit: On the tail classes, new" in summary  # not guarded, which repeats it
    assert "&lt;i&gt;b&lt;/i&gt; on vit: " in summary


def test_the_figure_shows_the_strong_baseline_only(page: str) -> None:
    forest = drawings(page)[2]  # after the dots of both data sets
    assert "against strong" in forest and "against lora" not in forest


def test_one_seed_and_a_lone_baseline_still_make_a_page() -> None:
    found = results(1)
    page = render_html(report_page(seeds_report(found[found["method"] == "lora"]), SEEDS))
    assert "One seed: no spread can be given" in page
    alone = found[(found["method"] == "lora") & (found["classifier"] == "cross_entropy")]
    assert 'id="differences"' not in render_html(report_page(seeds_report(alone), SEEDS))


def test_classes_and_costs_are_shown_and_names_escaped() -> None:
    bad = "<i>class</i>"
    mismatch = pd.DataFrame(
        {
            "method": ["lora", "deblora", "fine-tune"],
            "class": bad,
            "group": "tail",
            "gap": 0.5,
            "chance": 0.25,
            "train_scatter": np.nan,
            "test_scatter": 0.125,
        }
    )
    names = {"classifier": "cross_entropy", "baseline": "lora", "baseline_classifier": "cross_entropy"}
    gains = pd.DataFrame(
        [
            {**names, "method": method, "class": label, "group": "tail", "rank": rank, "gain": gain}
            for method in ("deblora", "shift")  # two panels, which share an axis
            for rank, (label, own) in enumerate(((bad, (0.02, 0.04)), ("b", (-0.01, np.nan))))
            for gain in own
        ]
    )
    content = seeds_report(
        results(),
        costs=pd.DataFrame({"method": ["lora"], "n_trained": [1.5e6]}),
        separation=pd.DataFrame(
            {"method": ["lora"], "split": ["test"], "metric": ["inter_head_tail"], "value": [0.75]}
        ),
        mismatch=mismatch,
        gains=gains,
    )
    page, twin = render_html(report_page(content, SEEDS)), render_markdown(report_page(content, SEEDS))
    assert bad not in page and "SatMAE" in page and "1.500" in twin
    assert len(drawings(page)) == 4
    assert "| deblora | tail | 0.500 | 0.250 | - | 0.125 |" in twin
    assert r"| deblora · cross\_entropy | lora · cross\_entropy | tail | 1 | 1 | +1.0 |" in twin
    assert "| lora | test | 0.750 |" in twin


def test_classes_are_named_where_all_seeds_agree() -> None:
    first = pd.DataFrame({"m": "x", "class": ["a", "b"], "group": ["head", "tail"], "rank": [0, 1]})
    found = by_rank([first, first.assign(**{"class": ["a", "c"]})], ["m"])
    assert list(found["class"]) == ["a", "class 2 by count", "a", "class 2 by count"]


def study(values: list[object], *, n_seeds: int = 5) -> Report:
    variants = {f"v{i}": {"cluster.n_clusters": value} for i, value in enumerate(values)}
    rng = np.random.default_rng(1)
    lines = [
        {
            "variant": variant,
            "method": name[0],
            "classifier": name[1],
            "metric": "macro_f1",
            "group": group,
            "seed": seed,
            "value": 0.5 + 0.05 * i * (name[0] == "deblora") + 0.002 * rng.normal(),
        }
        for name in (("deblora", "cross_entropy"), BALANCED)
        for i, variant in enumerate(variants)
        for group in GROUPS
        for seed in range(n_seeds)
    ]
    found = pd.DataFrame(lines)
    return Report(
        "Study <i>",
        tables={
            "scores": mean_scores(found, by=["variant"]),
            "to_first": differences_to_first(found, "v0"),
            "to_lora": paired_differences(found, [BALANCED], by=["variant"], run=["variant"]),
        },
        varied=varied_setting(variants),
    )


def test_a_study_names_the_variants_that_differ() -> None:
    sentences = report_page(study([8, 16, 32]), STUDY).summary
    found = next(s for s in sentences if s.startswith("deblora · cross_entropy on the tail"))
    assert "significantly different from v0: v1 +" in found and "v2 +" in found


def test_one_seed_of_a_study_claims_nothing() -> None:
    assert "one seed cannot say" in " ".join(report_page(study([8, 16], n_seeds=1), STUDY).summary)


def test_a_study_tells_what_its_methods_cost_by_variant() -> None:
    costs = pd.DataFrame({"variant": ["v0"], "method": ["deblora"], "n_trained": [2e6]})
    content = study([8, 16])
    content = dataclasses.replace(content, tables={**content.tables, "costs": costs})
    assert "| v0 | deblora | 2.000 |" in render_markdown(report_page(content, STUDY))


@pytest.mark.parametrize(
    ("values", "numeric"),
    [([8, 16, 64], True), ([0.5, 1.0], True), (["stack", "fresh"], False), ([True, False], False)],
)
def test_curves_are_drawn_over_numbers_or_names(values: list[object], numeric: bool) -> None:
    content = study(values)
    assert content.varied is not None and content.varied.numeric == numeric
    page = write_page(report_page(content, STUDY), "study")
    assert len(drawings(page)) == 1
    assert "Study <i>" not in page + render_markdown(report_page(content, STUDY))
