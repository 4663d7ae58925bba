"""Pages of comparisons and studies: what the sentences claim follows from the numbers, and text is escaped."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from deblora.evaluate.seeds import Entry, Unit, paired_spread, spread, summarize_runs
from deblora.pipeline.classify.evaluate.scores import BASELINES, OURS, STRONG
from deblora.report.compare_page import render_comparison_markdown, render_comparison_page
from deblora.report.compare_summary import summarize_comparison
from deblora.report.seeds_content import (
    GROUPS,
    ClassGain,
    ClassGap,
    CompareContent,
    CostRow,
    MergedRun,
    StudyContent,
    StudyPoint,
)
from deblora.report.study_page import render_study_markdown, render_study_page, summarize_study

N_SEEDS = 5
BASE = {"head": 0.8, "middle": 0.6, "tail": 0.4, "all": 0.6}
GAINS = {
    ("lora", "cross_entropy"): -0.2,
    ("lora", "balanced_softmax"): 0.0,
    ("lora", "sade"): 0.0,
    ("contract-debiased", "balanced_softmax"): -0.05,
    ("shift-kernel", "logit_adjustment"): 0.03,
    STRONG: 0.0,
    OURS: 0.03,
}


def content_of(n_seeds: int = N_SEEDS, *, title: str = "toy") -> CompareContent:
    noise = np.random.default_rng(0).normal(scale=0.004, size=(n_seeds, len(GAINS)))
    units = [Unit("toy", "vit", seed) for seed in range(n_seeds)]
    scores = {
        unit: {
            Entry(*name, metric, group): BASE[group] + gain * (group == "tail") + noise[unit.seed, i]
            for i, (name, gain) in enumerate(GAINS.items())
            for metric, groups in (("macro_f1", GROUPS), ("accuracy_backward", ("all",)))
            for group in groups
        }
        for unit in units
    }
    return CompareContent(
        title=title,
        dataset="toy",
        backbone="vit",
        runs=tuple(MergedRun(f"seed-{u.seed}", u, "ab" * 32, (1, 1, 1), 10, 10) for u in units),
        rows=summarize_runs(scores, baselines=BASELINES),
        strong=STRONG,
        ours=OURS,
        baselines=BASELINES,
        chosen={STRONG: ("lora sade",) * n_seeds, OURS: ("shift-kernel logit_adjustment",) * n_seeds},
        n_trials={("lora", "sade"): 8},
        seconds={"heads": 3.0},
        recipe_yaml="lora:\n  rank: 8\n",
        provenance={"deblora": "1"},
        notes=("A note.",),
    )


def test_gains_and_losses_are_called_so() -> None:
    text = " ".join(summarize_comparison(content_of()))
    ours = re.search(r"against lora · chosen_on_validation: on the tail classes ([^;]+); ([^;]+);", text)
    assert ours and ours[2] == "significant gain"
    assert re.search(r"\+[23]\.\d points", ours[1])
    assert "over all classes" in text and "higher in 5 of 5 seeds" in text
    tail = re.search(
        r"Against lora · chosen_on_validation on the tail classes, of (\d) rows (\d).*?, (\d) sig", text
    )
    assert tail and tail.groups() == ("5", "1", "2")


def test_one_seed_claims_nothing() -> None:
    text = " ".join(summarize_comparison(content_of(1)))
    assert "significant" not in text
    assert "(one seed)" in text


def test_the_leader_is_none_of_the_rows_that_repeat_others() -> None:
    sentences = summarize_comparison(content_of())
    leader = next(s for s in sentences if s.startswith("On the tail classes"))
    assert "shift-kernel · logit_adjustment" in leader


def test_the_page_holds_every_row_and_escapes_text() -> None:
    content = content_of(title="<b>toy</b>")
    page, twin = render_comparison_page(content), render_comparison_markdown(content)
    assert "<b>toy" not in page + twin
    assert "<script" not in page
    for method, probe in GAINS:
        assert method in page and probe in page
        assert probe.replace("_", r"\_") in twin
    assert page.count("<svg") == 1


def test_the_page_shows_classes_and_costs_and_escapes_names() -> None:
    bad = "<i>class</i>"
    gaps = tuple(
        ClassGap(m, bad, "tail", 0.5, 0.25, math.nan, 0.125) for m in ("lora", "deblora", "fine-tune")
    )
    pair = ("deblora", "cross_entropy"), ("lora", "cross_entropy")
    other = (
        ("shift", "cross_entropy"),
        ("lora", "cross_entropy"),
    )  # a second panel, which shares the first one's axis
    gains = tuple(
        ClassGain(*rows, label, "tail", found)
        for rows in (pair, other)
        for label, found in ((bad, (0.02, 0.04)), ("b", (-0.01, math.nan)))
    )
    content = replace(
        content_of(),
        costs=(CostRow("lora", {"n_trained": 1.5e6}),),
        separation={("lora", "test"): {"inter_head_tail": 0.75}},
        gaps=gaps,
        gains=gains,
    )
    page, twin = render_comparison_page(content), render_comparison_markdown(content)
    assert bad not in page and "SatMAE" in page and "1.500" in twin
    assert page.count("<svg") == 3
    assert "| deblora | tail | 0.500 | 0.250 | - | 0.125 |" in twin
    assert _row(twin, "deblora · cross") == ["tail", "1", "1", "+1.0"]
    assert "| lora | test | 0.750 |" in twin


def _row(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {start}") and "tail" in line)
    return [part.strip() for part in line.strip("|").split("|")][2:]


def test_missing_rows_do_no_harm() -> None:
    content = content_of()
    rows = tuple(row for row in content.rows if row.entry.method == "lora" and row.entry.metric == "macro_f1")
    assert "Ours" not in " ".join(summarize_comparison(replace(content, rows=rows)))
    render_comparison_page(replace(content, rows=rows, chosen={}, n_trials={}, seconds={}))


def study(values: list[object], *, n_seeds: int = N_SEEDS) -> StudyContent:
    rows = (("deblora", "cross_entropy"), ("lora", "balanced_softmax"))
    variants = {f"v{i}": {"cluster.n_clusters": value} for i, value in enumerate(values)}
    rng = np.random.default_rng(1)

    def scores(i: int) -> dict[Unit, float]:
        return {Unit("", "", s): 0.5 + 0.05 * i + 0.002 * rng.normal() for s in range(n_seeds)}

    points = []
    for row in rows:
        for group in GROUPS:
            first = scores(0)
            for i, variant in enumerate(variants):
                own = first if i == 0 else scores(i if row[0] == "deblora" else 0)
                to_first = paired_spread(own, first) if i else None
                points.append(
                    StudyPoint(variant, row, group, spread(np.array(list(own.values()))), to_first, None)
                )
    return StudyContent("Study <i>", variants, tuple(range(n_seeds)), rows, tuple(points), "", {}, ("Note.",))


def test_a_study_names_the_variants_that_differ() -> None:
    sentences = summarize_study(study([8, 16, 32]))
    found = next(s for s in sentences if s.startswith("deblora · cross_entropy on the tail"))
    assert "significantly different from v0: v1 +" in found and "v2 +" in found


def test_one_seed_of_a_study_claims_nothing() -> None:
    assert "one seed cannot say" in " ".join(summarize_study(study([8, 16], n_seeds=1)))


def test_a_study_tells_what_its_methods_cost_by_variant() -> None:
    rows = tuple(CostRow(name, {"n_trained": 2e6}) for name in ("deblora", "scratch"))
    twin = render_study_markdown(replace(study([8, 16]), costs={"v0": rows}))
    assert "| v0 | deblora | 2.000 |" in twin and "scratch" not in twin


@pytest.mark.parametrize(
    ("values", "numeric"),
    [([8, 16, 64], True), ([0.5, 1.0], True), (["stack", "fresh"], False), ([True, False], False)],
)
def test_curves_are_drawn_over_numbers_or_names(values: list[object], numeric: bool) -> None:
    content = study(values)
    assert (content.axis()[1] is not None) == numeric
    page = render_study_page(content)
    assert page.count("<svg") == 1
    assert "Study <i>" not in page + render_study_markdown(content)
