"""The finding over seeds in plain words, computed from means and paired t intervals, losses included."""

from collections.abc import Sequence

from deblora.evaluate.seeds import BASELINES, PairedSpread, SpreadRow
from deblora.report.seeds_content import MergedContent, Study
from deblora.report.seeds_tables import pairs, word
from deblora.report.tables import between, percent, points

N_LEVEL_SHOWN = 3
ONE_SEED = "one seed: no spread can be given"


def summarize_merged(content: MergedContent) -> tuple[str, ...]:
    """Say who leads on the tail and overall for each data set, and what the seeds allow to conclude.

    Returns:
        Plain sentences, not escaped.
    """
    sentences = []
    for study in content.studies:
        prefix = f"{study.name}: " if len(content.studies) > 1 else ""
        sentences += [prefix + sentence for sentence in _study(study)]
    if len(content.studies) > 1:
        sentences += _same_probe(content.pooled, "tail", start="Over all runs, against", unit="runs")
    return tuple(sentences)


def _study(study: Study) -> list[str]:
    rows, n = study.rows, len(study.seeds)
    seeds = ", ".join(map(str, study.seeds))
    if n == 1:
        first = (
            f"Seed {seeds}; {ONE_SEED}, and no difference is backed by an interval over seeds. The report of the "
            "run has the intervals over test chips."
        )
    else:
        first = f"{n} seeds ({seeds}); intervals are 95 % t intervals of the mean over seeds."
    sentences = [first, *_winner(rows, "tail"), *_winner(rows, "all")]
    sentences += _same_probe(rows, "tail", start="Against", unit="seeds")
    if n == 1:
        return sentences
    return [*sentences, f"{_decided(rows, 'loss')} {_decided(rows, 'gain')}"]


def _place(group: str) -> str:
    return "over all classes" if group == "all" else f"on the {group} classes"


def _named(row: SpreadRow) -> str:
    return f"{row.entry.method} · {row.entry.probe}"


def _winner(rows: Sequence[SpreadRow], group: str) -> list[str]:
    own = [row for row in rows if row.entry.group == group and row.spread.n]
    where = _place(group)
    if not own:
        return [f"There is no score {where}."]
    best = max(own, key=lambda row: row.spread.mean)
    shown = f"{percent(best.spread.mean)} % macro F1"
    if best.spread.n > 1:
        interval = between(best.spread.ci_lower, best.spread.ci_upper).replace("-", "\N{MINUS SIGN}")
        shown += f" (standard deviation {percent(best.spread.sd)}, interval {interval})"
    level = [row for row in own if row is not best and percent(row.spread.mean) == percent(best.spread.mean)]
    if len(level) > N_LEVEL_SHOWN:
        shown += f", level with {len(level)} others"
    elif level:
        shown += f", level with {' and '.join(map(_named, level))}"
    highest = "has the highest mean" if best.spread.n > 1 else "scores highest"
    leader = f"{best.entry.method} with the {best.entry.probe} probe"
    sentence = f"{where[0].upper()}{where[1:]}, {leader} {highest}: {shown}."
    return [" ".join([sentence, *_against(best)])]


def _against(best: SpreadRow) -> list[str]:
    own = [(baseline, found) for baseline, found in best.against.items() if found.spread.n]
    sentences = [_compare(baseline, found) for baseline, found in own[-1:]]  # the strongest says enough
    if (best.entry.method, best.entry.probe) in BASELINES:
        sentences.insert(0, "This is a baseline: no method that was compared with it scores higher.")
    return sentences or ["No paired comparison backs this lead."]


def _compare(baseline: tuple[str, str], found: PairedSpread) -> str:
    spread, other = found.spread, f"{baseline[0]} with the {baseline[1]} probe"
    side = "above" if spread.mean >= 0 else "below"
    size = f"{abs(100 * spread.mean):.1f} points {side} {other}"
    if spread.n == 1:
        return f"It is {size} ({ONE_SEED})."
    if word(found) == "equal":
        return f"It equals {other} in every seed."
    size += f" ({_higher(found, 'seeds')})"
    interval = between(spread.ci_lower, spread.ci_upper, signed=True)
    if found.verdict == "open":
        return f"It is {size}, but the paired interval ({interval}) includes zero: the seeds cannot tell them apart."
    return f"It is {size}, and the paired interval ({interval}) excludes zero."


def _higher(found: PairedSpread, unit: str) -> str:
    text = f"higher in {found.n_wins} of {found.spread.n} {unit}"
    return f"{text}, equal in {found.n_ties}" if found.n_ties else text


def _same_probe(rows: Sequence[SpreadRow], group: str, *, start: str, unit: str) -> list[str]:
    """Compare all methods with LoRA under the strongest probe of both, so that features differ and not the prior."""
    for method, probe in reversed(BASELINES):
        own = [
            (row, found)
            for row, baseline, found in pairs(rows)
            if row.entry.group == group and baseline == (method, probe) and row.entry.probe == probe
        ]
        if own:
            parts = "; ".join(f"{row.entry.method} {_short(found, unit)}" for row, found in own)
            return [f"{start} {method} with the same {probe} probe {_place(group)}: {parts}."]
    return []


def _short(found: PairedSpread, unit: str) -> str:
    if found.spread.n == 1:
        return f"{points(found.spread.mean)} points (one seed)"
    if word(found) == "equal":
        return "equal"
    interval = between(found.spread.ci_lower, found.spread.ci_upper, signed=True)
    return f"{points(found.spread.mean)} points ({interval}; {word(found)}; {_higher(found, unit)})"


def _decided(rows: Sequence[SpreadRow], verdict: str) -> str:
    """Name every method whose features gain or lose under the baseline's own probe, as the seeds back it."""
    own: dict[str, list[tuple[SpreadRow, tuple[str, str], PairedSpread]]] = {}
    for row, baseline, found in pairs(rows):
        if found.verdict == verdict and row.entry.probe == baseline[1]:  # across probes the prior decides
            own.setdefault(row.entry.method, []).append((row, baseline, found))
    if not own:
        return f"With the same probe, no group shows a {verdict} whose interval over seeds excludes zero."
    parts = []
    for method, cases in own.items():
        row, baseline, found = max(cases, key=lambda case: abs(case[2].spread.mean))
        interval = between(found.spread.ci_lower, found.spread.ci_upper, signed=True)
        count = "once," if len(cases) == 1 else f"{len(cases)} times, at most"
        parts.append(
            f"{method} {count} {points(found.spread.mean)} points ({interval}) {_place(row.entry.group)} with the "
            f"{row.entry.probe} probe"
        )
    noun = "Gains" if verdict == "gain" else "Losses"
    return f"{noun} against lora with the same probe, in any group: {'; '.join(parts)}."
