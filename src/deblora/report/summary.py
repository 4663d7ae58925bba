"""The finding in plain words, computed from the scores and their paired intervals, losses included."""

import math

from deblora.report.content import DifferenceRow, ReportContent, ScoreRow
from deblora.report.tables import between, percent, points

N_LOSSES_SHOWN = 6
N_LEVEL = 3  # rows with the best score that are named


def summarize(content: ReportContent) -> tuple[str, ...]:
    """Say who scores highest on the tail and overall, and what the paired intervals allow to conclude.

    Returns:
        Plain sentences, not escaped.
    """
    return (
        *_winner(content, "tail"),
        *_winner(content, "all"),
        *_tally(content),
        *_losses(content),
        *content.findings,
    )


def _place(group: str) -> str:
    return "over all classes" if group == "all" else f"on the {group} classes"


def _winner(content: ReportContent, group: str) -> list[str]:
    rows = [row for row in content.rows if row.group == group and math.isfinite(row.value)]
    where = _place(group)
    if not rows:
        return [f"There is no score {where}."]
    best = max(rows, key=lambda row: row.value)
    interval = between(best.ci_lower, best.ci_upper)
    shown = f"{percent(best.value)} % macro F1" + (f" (95 % interval {interval})" if interval else "")
    level = [row for row in rows if row is not best and percent(row.value) == percent(best.value)]
    if level:
        named = [f"{row.method} · {row.probe}" for row in level[:N_LEVEL]]
        more = [f"{len(level) - N_LEVEL} more"] * (len(level) > N_LEVEL)
        shown += f", level with {' and '.join([*named, *more])}"
    sentence = (
        f"{where[0].upper()}{where[1:]}, {best.method} with the {best.probe} probe scores highest: {shown}."
    )
    return [f"{sentence} {_against(content, best)}"]


def _against(content: ReportContent, best: ScoreRow) -> str:
    comparable = [row for row in content.differences if row.group == best.group and math.isfinite(row.value)]
    own = [row for row in comparable if (row.method, row.probe) == (best.method, best.probe)]
    if own:
        return " ".join(_compare(row) for row in own)
    if any((row.baseline, row.baseline_probe) == (best.method, best.probe) for row in comparable):
        return "This is the baseline: nothing that was compared with it scores higher."
    return "No paired comparison backs this lead."


def _compare(row: DifferenceRow) -> str:
    baseline = f"{row.baseline} with the {row.baseline_probe} probe"
    side = "above" if row.value >= 0 else "below"
    size = f"{abs(100 * row.value):.1f} points {side} {baseline}"
    interval = between(row.ci_lower, row.ci_upper, signed=True)
    if not interval:
        return f"It is {size}; the interval of this difference is unknown."
    if row.verdict == "open":
        return f"It is {size}, but the paired interval ({interval}) includes zero: the test cannot tell them apart."
    return f"It is {size}, and the paired interval ({interval}) excludes zero."


def _tally(content: ReportContent) -> list[str]:
    sentences = []
    for group in ("tail", "all"):
        verdicts = [
            row.verdict for row in content.differences if row.group == group and math.isfinite(row.value)
        ]
        if verdicts:
            gains, losses, undecided = (verdicts.count(name) for name in ("gain", "loss", "open"))
            noun = "comparison" if len(verdicts) == 1 else "comparisons"
            sentences.append(
                f"Of {len(verdicts)} paired {noun} {_place(group)}, {gains} show a gain and {losses} a loss "
                f"with an interval that excludes zero; {undecided} stay undecided."
            )
    return sentences


def _losses(content: ReportContent) -> list[str]:
    if not content.differences:
        return ["No paired differences were computed, so no lead here is backed by an interval of its own."]
    losses = sorted((row for row in content.differences if row.verdict == "loss"), key=lambda row: row.value)
    if not losses:
        return ["No paired comparison in any group shows a loss whose interval excludes zero."]
    parts = [
        f"{row.method} · {row.probe} {_place(row.group)}, {points(row.value)} points "
        f"({between(row.ci_lower, row.ci_upper, signed=True)}) against {row.baseline} · {row.baseline_probe}"
        for row in losses[:N_LOSSES_SHOWN]
    ]
    more = f"; and {len(losses) - N_LOSSES_SHOWN} more, in the table" if len(losses) > N_LOSSES_SHOWN else ""
    return [f"Losses whose interval excludes zero: {'; '.join(parts)}{more}."]
