"""What a comparison allows to conclude, in plain words, from paired t intervals over seeds; losses included."""

from collections.abc import Sequence

from deblora.evaluate.seeds import PairedSpread, SpreadRow
from deblora.report.seeds_content import PRIOR_METRICS, CompareContent
from deblora.report.seeds_tables import word
from deblora.report.tables import between, percent, points

GROUPS = ("tail", "all", "head")
N_NAMED = 6


def summarize_comparison(content: CompareContent) -> tuple[str, ...]:
    """Say who leads, what ours gains and loses against each baseline, and who beats the best strong head.

    Returns:
        Plain sentences, not escaped.
    """
    n, seeds = len(content.seeds), ", ".join(map(str, content.seeds))
    if n == 1:
        first = f"Seed {seeds}: one seed, so no spread and no interval over seeds can be given."
    else:
        first = (
            f"{n} seeds ({seeds}), each with other rare classes where the recipe draws a long tail; intervals are "
            "95 % t intervals of the mean over seeds, not corrected for the number of comparisons."
        )
    sentences = [first]
    for group in ("tail", "all"):
        sentences += _leader(content, group)
    for baseline in content.baselines:
        sentences += _ours_against(content, baseline)
    if n > 1:
        for group in ("tail", "all"):
            sentences += _decided(content, group)
    return (*sentences, *_priors(content))


def _leader(content: CompareContent, group: str) -> list[str]:
    chosen = (content.strong[1], content.ours[1])  # rows that validation chose repeat others
    own = [
        row
        for row in content.scores
        if row.entry.group == group and row.spread.n and row.entry.probe not in chosen
    ]
    if not own:
        return []
    best = max(own, key=lambda row: row.spread.mean)
    sentence = (
        f"{_place(group)[0].upper()}{_place(group)[1:]}, {_shown(_name(best))} has the highest mean, "
        f"{percent(best.spread.mean)} % macro F1; the test chose this row, so it is no fair winner."
    )
    return [sentence]


def _ours_against(content: CompareContent, baseline: tuple[str, str]) -> list[str]:
    parts = []
    for group in GROUPS:
        row = _find(content.scores, content.ours, group)
        found = row.against.get(baseline) if row else None
        if found and found.spread.n:
            parts.append(f"{_place(group)} {_difference(found)}")
    if not parts:
        return []
    return [f"Ours as validation chose it, against {_shown(baseline)}: {'; '.join(parts)}."]


def _difference(found: PairedSpread) -> str:
    size = f"{points(found.spread.mean)} points"
    if found.spread.n == 1:
        return f"{size} (one seed)"
    verdict = {
        "higher": "significant gain",
        "lower": "significant loss",
        "undecided": "not significant",
        "equal": "equal in every seed",
    }[word(found)]
    interval = between(found.spread.ci_lower, found.spread.ci_upper, signed=True)
    return f"{size} ({interval}; {verdict}; higher in {found.n_wins} of {found.spread.n} seeds)"


def _decided(content: CompareContent, group: str) -> list[str]:
    """Name the rows that the seeds put above or below the strong head that validation chose."""
    found = [
        (_name(row), row.against[content.strong])
        for row in content.scores
        if row.entry.group == group
        and row.entry.probe != content.ours[1]  # repeats the row that validation chose
        and content.strong in row.against
        and row.against[content.strong].spread.n > 1
    ]
    if not found:
        return []
    above = sorted((pair for pair in found if pair[1].verdict == "gain"), key=lambda p: -p[1].spread.mean)
    below = [pair for pair in found if pair[1].verdict == "loss"]
    n_open = len(found) - len(above) - len(below)
    return [
        f"Against {_shown(content.strong)} {_place(group)}, of {len(found)} rows {len(above)} are significantly higher"
        f"{_list(above)}, {len(below)} significantly lower, and {n_open} cannot be told apart by these seeds."
    ]


def _list(found: Sequence[tuple[tuple[str, str], PairedSpread]]) -> str:
    if not found:
        return ""
    named = [f"{_shown(name)} {points(pair.spread.mean)}" for name, pair in found[:N_NAMED]]
    more = f" and {len(found) - N_NAMED} more" if len(found) > N_NAMED else ""
    return f" ({', '.join(named)}{more})"


def _priors(content: CompareContent) -> list[str]:
    parts = []
    for metric in PRIOR_METRICS:
        row, strong = (
            _find([row for row in content.rows if row.entry.metric == metric], name, "all")
            for name in (content.ours, content.strong)
        )
        if row and strong and row.spread.n and content.strong in row.against:
            prior = metric.removeprefix("accuracy_")
            parts.append(
                f"{prior} {percent(row.spread.mean)} % (strong head {percent(strong.spread.mean)} %, "
                f"{_difference(row.against[content.strong])})"
            )
    if not parts:
        return []
    return [f"Accuracy of ours on test sets with another class prior: {'; '.join(parts)}."]


def _find(rows: Sequence[SpreadRow], name: tuple[str, str], group: str) -> SpreadRow | None:
    return next((row for row in rows if _name(row) == name and row.entry.group == group), None)


def _name(row: SpreadRow) -> tuple[str, str]:
    return row.entry.method, row.entry.probe


def _shown(name: tuple[str, str]) -> str:
    return " · ".join(name)


def _place(group: str) -> str:
    return "over all classes" if group == "all" else f"on the {group} classes"
