"""Tables by hand, over seeds and of a single run."""

import pandas as pd

from deblora.pipeline.compare.over_seeds import PLAIN, mean_scores, paired_differences
from deblora.report import tables
from deblora.report.page import Cell
from deblora.report.sections import Report
from deblora.report.tables import LITERATURE

NEW = ("new", "cross_entropy")


def results(values: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    lines = [
        {"method": name[0], "classifier": name[1], "group": group, "seed": seed, "value": value}
        for name, own in values.items()
        for seed, value in enumerate(own)
        for group in tables.GROUPS
    ]
    return pd.DataFrame(lines).assign(dataset="aid", backbone="vit", metric="macro_f1")


def test_scores_and_differences_over_seeds_by_hand() -> None:
    found = results({PLAIN: [0.3, 0.4, 0.5], NEW: [0.4, 0.4, 0.3]})
    row = tables.score_table(mean_scores(found)).rows[0]
    # mean 40, sd 10, half width 4.3027 * 10 / sqrt(3) = 24.8
    assert row[2] == Cell("40.0 ± 10.0", "15.2 to 64.8", "best")
    differences = paired_differences(found, [PLAIN]).assign(alone="1 higher, 2 undecided")
    table = tables.difference_table(differences)
    assert [cell.text for cell in table.rows[0]] == [
        "new · cross_entropy",
        "lora · cross_entropy",
        "head",
        "undecided",
        "1 of 3, equal in 1",
        "1 higher, 2 undecided",
        "−3.3 ± 15.3",
        "−41.3 to +34.6",
    ]
    assert len(table.header) == len(table.rows[0])


def test_differences_stand_beside_the_scores() -> None:
    found = results({PLAIN: [0.3, 0.4, 0.5], NEW: [0.4, 0.52, 0.61]})
    table = tables.score_table(mean_scores(found), paired_differences(found, [PLAIN]), intervals=False)
    assert table.header[-2:] == ("Tail, less lora · cross_entropy", "All, less lora · cross_entropy")
    assert [cell.text for cell in table.rows[0][-2:]] == ["-", "-"]
    assert table.rows[1][-1] == Cell("+11.0", "+8.5 to +13.5; 3 of 3", "gain")


def test_scores_without_any_run_are_dashes() -> None:
    nan = float("nan")
    found = results({PLAIN: [nan, nan], NEW: [0.3, nan]})
    table = tables.score_table(mean_scores(found))
    assert [cell.text for cell in table.rows[0][2:]] == ["-"] * 4
    assert [cell.text for cell in table.rows[1][2:]] == ["30.0"] * 4
    assert not tables.difference_table(paired_differences(found, [PLAIN])).rows


def test_scores_of_a_run_mark_the_best_and_dash_the_missing(report: Report) -> None:
    table = tables.score_table(report.scores())
    tail = table.header.index("Tail")
    assert [row[0].text for row in table.rows if row[tail].style == "best"] == ["deblora"]
    missing = [cell.text for row in table.rows for cell in row if row[0].text == "zero-shot"]
    assert missing.count("-") == 1


def test_costs_cite_without_numbers() -> None:
    found = pd.DataFrame({"method": ["lora"], "n_trained": [1_500_000], "stored_bytes": [6e6]})
    first, *cited = tables.cost_table(found).rows
    assert [cell.text for cell in first[:5]] == ["lora", "1.500", "6.00", "-", "-"]
    assert [line[0].text for line in cited] == list(LITERATURE)
    assert {cell.text for line in cited for cell in line[1:]} == {"-"}
    assert not tables.cost_table(found.iloc[:0]).rows


def test_accuracies_under_other_priors() -> None:
    lines = [
        {
            "method": name,
            "classifier": "c",
            "metric": f"accuracy_{prior}",
            "group": "all",
            "value": value,
            "sd": 0.01,
        }
        for name, values in (("lora", (0.9, 0.8, 0.7)), ("new", (0.8, 0.8, 0.75)))
        for prior, value in zip(("forward", "uniform", "backward"), values, strict=True)
    ]
    table = tables.prior_table(pd.DataFrame(lines))
    assert table.header == ("Method", "Classifier", "Forward", "Uniform", "Backward")
    assert [(cell.text, cell.style) for cell in table.rows[1][2:]] == [
        ("80.0 ± 1.0", ""),
        ("80.0 ± 1.0", "best"),
        ("75.0 ± 1.0", "best"),
    ]
