"""What the numbers allow to conclude, in plain short sentences, losses included.

The same sentences serve one run, whose intervals come from a bootstrap over test chips, and several seeds,
whose intervals are t intervals of the mean over seeds; see :mod:`deblora.report.tables` for the tables.
"""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from deblora.evaluate.intervals import ENOUGH_TO_CHOOSE
from deblora.report.tables import NAME, PAIR, WORDS, between, label, percent, points, verdict, wins

N_NAMED = 4  # differences that are named in a sentence
N_LEVEL = 3  # methods with the best score that are named
ONE_SEED = "one seed: no spread can be given"


def summarize(
    scores: pd.DataFrame, differences: pd.DataFrame, *, focus: Sequence[str] = (), derived: Sequence[str] = ()
) -> list[str]:
    """Say who scores highest on the tail and overall, and what the paired intervals allow to conclude.

    Args:
        scores: Macro F1 of one data set and backbone.
        differences: Paired differences of it.
        focus: Methods whose differences are said first, the first one that is there.
        derived: Methods that repeat the scores of another one; they are never called the leader.

    Returns:
        Plain sentences, not escaped.
    """
    sentences = _seeds(scores)
    for method in [name for name in focus if (differences["method"] == name).any()][:1]:
        sentences += _against_all(differences[differences["method"] == method])
    own = scores[~scores["method"].isin(derived)]
    for group in ("tail", "all"):
        sentences += _leader(own, differences, group)
    sentences += _same_classifier(differences[~differences["baseline"].isin(derived)])
    if "n_seeds" in scores and not (scores["n_seeds"] > 1).any():
        return sentences
    return [*sentences, *_tally(differences), *_losses(differences)]


def _seeds(scores: pd.DataFrame) -> list[str]:
    if "n_seeds" not in scores:
        return []
    n = int(scores["n_seeds"].max()) if len(scores) else 0
    if n < 2:
        return [f"{ONE_SEED.capitalize()}, and no difference is backed by an interval over seeds."]
    return [
        f"{n} seeds; intervals are 95 % t intervals of the mean over seeds, not corrected for the number of "
        "comparisons."
    ]


def place(group: str) -> str:
    """Return the words for a class group within a sentence."""
    return "over all classes" if group == "all" else f"on the {group} classes"


def _against_all(own: pd.DataFrame) -> list[str]:
    sentences = []
    for pair, rows in own.groupby(PAIR, sort=False):
        by_group = {row["group"]: row for _, row in rows.iterrows()}
        shown = [by_group[group] for group in ("tail", "all", "head") if group in by_group]
        parts = [f"{place(row['group'])} {_difference(row)}" for row in shown if pd.notna(row["value"])]
        if parts:
            sentences.append(f"{label(*pair[:2])} against {label(*pair[2:])}: {'; '.join(parts)}.")
    return sentences


def _difference(row: Any) -> str:
    interval = between(row["ci_lower"], row["ci_upper"], signed=True)
    higher = f"higher in {wins(row)} seeds" if "n_wins" in row else ""
    word = {"gain": "a gain", "loss": "a loss", "open": "not decided"}.get(verdict(row), WORDS[verdict(row)])
    details = "; ".join(part for part in (interval, word, higher) if part)
    return f"{points(row['value'])} points ({details})"


def _leader(scores: pd.DataFrame, differences: pd.DataFrame, group: str) -> list[str]:
    own = scores[(scores["group"] == group) & scores["value"].notna()]
    where = place(group)
    if own.empty:
        return [f"There is no score {where}."]
    best = own.loc[own["value"].idxmax()]
    interval = between(best["ci_lower"], best["ci_upper"])
    shown = f"{percent(best['value'])} % macro F1" + (f" (95 % interval {interval})" if interval else "")
    level = own[(own.index != best.name) & (own["value"].map(percent) == percent(best["value"]))]
    if len(level):
        names = [label(*name) for name in level[NAME].itertuples(index=False, name=None)]
        more = [f"{len(names) - N_LEVEL} more"] if len(names) > N_LEVEL else []
        shown += f", level with {' and '.join([*names[:N_LEVEL], *more])}"
    name = label(best["method"], best["classifier"])
    first = f"{where[0].upper()}{where[1:]}, {name} scores highest: {shown}."
    return [" ".join([first, *_backing(best, differences[differences["group"] == group])])]


def _backing(best: Any, differences: pd.DataFrame) -> list[str]:
    known = differences[differences["value"].notna()]
    name = (best["method"], best["classifier"])
    own = known[(known["method"] == name[0]) & (known["classifier"] == name[1])]
    compared = known[(known["baseline"] == name[0]) & (known["baseline_classifier"] == name[1])]
    sentences = [_compare(row) for _, row in own.tail(1).iterrows()]  # the strongest baseline says enough
    if len(compared):
        sentences.insert(0, "This is a baseline: nothing that was compared with it scores higher.")
    return sentences or ["No paired comparison backs this lead."]


def _compare(row: Any) -> str:
    other = label(row["baseline"], row["baseline_classifier"])
    size = (
        f"{points(abs(row['value'])).lstrip('+')} points {'above' if row['value'] >= 0 else 'below'} {other}"
    )
    word, seeds = verdict(row), "n_wins" in row
    if word == "single":
        return f"It is {size} ({ONE_SEED})."
    if word == "equal":
        return f"It equals {other} in every seed."
    if seeds:
        size += f" (higher in {wins(row)} seeds)"
    interval = between(row["ci_lower"], row["ci_upper"], signed=True)
    if not interval:
        return f"It is {size}; the interval of this difference is unknown."
    if word == "open":
        who = "the seeds" if seeds else "the test"
        return (
            f"It is {size}, but the paired interval ({interval}) includes zero: {who} cannot tell them apart."
        )
    return f"It is {size}, and the paired interval ({interval}) excludes zero."


def _same_classifier(differences: pd.DataFrame) -> list[str]:
    """Compare methods under the same classifier as the baseline, so that the features differ and not the prior."""
    same = differences[
        (differences["classifier"] == differences["baseline_classifier"])
        & (differences["group"] == "tail")
        & differences["value"].notna()
    ]
    if same.empty:
        return []
    baseline, classifier = same.iloc[-1][["baseline", "baseline_classifier"]]  # the strongest one says enough
    own = same[same["baseline_classifier"] == classifier]
    parts = [f"{row['method']} {_difference(row)}" for _, row in own.head(N_NAMED).iterrows()]
    return [
        f"Against {baseline} with the same {classifier} classifier on the tail classes: {'; '.join(parts)}."
    ]


def _tally(differences: pd.DataFrame) -> list[str]:
    sentences = []
    for group in ("tail", "all"):
        own = differences[(differences["group"] == group) & differences["value"].notna()]
        words = [verdict(row) for _, row in own.iterrows()]
        if words:
            n_gains, n_losses = words.count("gain"), words.count("loss")
            noun = "comparison" if len(words) == 1 else "comparisons"
            sentences.append(
                f"Of {len(words)} paired {noun} {place(group)}, {n_gains} show a gain and {n_losses} a loss "
                f"with an interval that excludes zero; {len(words) - n_gains - n_losses} stay undecided."
            )
    return sentences


def _losses(differences: pd.DataFrame) -> list[str]:
    if differences["value"].notna().sum() == 0:
        return ["No paired differences were computed, so no lead here is backed by an interval of its own."]
    lost = [verdict(row) == "loss" for _, row in differences.iterrows()]
    losses = differences[lost].sort_values("value")
    if losses.empty:
        return ["No paired comparison in any group shows a loss whose interval excludes zero."]
    parts = [
        f"{label(row['method'], row['classifier'])} {place(row['group'])}, {points(row['value'])} points "
        f"({between(row['ci_lower'], row['ci_upper'], signed=True)}) against "
        f"{label(row['baseline'], row['baseline_classifier'])}"
        for _, row in losses.head(N_NAMED).iterrows()
    ]
    more = f"; and {len(losses) - N_NAMED} more, in the table" if len(losses) > N_NAMED else ""
    return [f"Losses whose interval excludes zero: {'; '.join(parts)}{more}."]


def summarize_study(
    scores: pd.DataFrame, to_first: pd.DataFrame, axis: str, variants: Sequence[str], n_seeds: int
) -> list[str]:
    """Say for every method how much the varied setting matters on the tail and over all classes.

    Args:
        scores: Macro F1 over seeds with the column ``variant``.
        to_first: Paired differences to the first variant, with the column ``variant``.
        axis: Name of what varies.
        variants: All of them, the first one first.
        n_seeds: Seeds of each.

    Returns:
        Plain sentences, not escaped.
    """
    sentences = [
        f"{len(variants)} variants of {axis}, {n_seeds} seed{'s' if n_seeds > 1 else ''} each; differences "
        "are paired seed by seed with the first variant, and their 95 % t intervals are not corrected for "
        "the number of comparisons."
    ]
    known = scores[scores["value"].notna()]
    for (method, classifier), own in known.groupby(NAME, sort=False):
        paired = to_first[(to_first["method"] == method) & (to_first["classifier"] == classifier)]
        for group in ("tail", "all"):
            rows = own[own["group"] == group]
            if len(rows) > 1:
                found = paired[paired["group"] == group]
                sentences.append(_matters(label(method, classifier), rows, found, variants[0], n_seeds))
    return sentences


def _matters(name: str, rows: pd.DataFrame, paired: pd.DataFrame, first: str, n_seeds: int) -> str:
    low, high = rows.loc[rows["value"].idxmin()], rows.loc[rows["value"].idxmax()]
    sentence = (
        f"{name} {place(low['group'])}: from {percent(low['value'])} % ({low['variant']}) to "
        f"{percent(high['value'])} % ({high['variant']})"
    )
    if n_seeds < 2:
        return f"{sentence}; one seed cannot say whether that is more than chance."
    decided = [row for _, row in paired.iterrows() if verdict(row) in ("gain", "loss")]
    if not decided:
        return f"{sentence}; no variant differs significantly from {first}."
    parts = [f"{row['variant']} {_difference(row)}" for row in decided]
    return f"{sentence}; significantly different from {first}: {', '.join(parts)}."


def say_choice(choice: Any) -> list[str]:
    """Return the model that was chosen for new chips, why, and what it may be expected to gain, as sentences.

    Args:
        choice: Content of ``choice.json``: ``method``, ``classifier``, ``best``, ``floor``, ``reference`` (both of
            them each), ``gains`` (``tail`` and ``all``: ``value``, ``ci_lower``, ``ci_upper``, fractions), ``sure``,
            ``n_val``, ``fewest_val``, ``is_refitted`` and ``candidates`` by falling ``macro_f1``.
    """
    name = label(choice["method"], choice["classifier"])
    floor, best, reference = (label(*choice[key]) for key in ("floor", "best", "reference"))
    sure = f"{100 * choice['sure']:.0f} % of the draws"
    if choice["fewest_val"] < ENOUGH_TO_CHOOSE:
        why = (
            f"a class has only {choice['fewest_val']} validation chips, and below {ENOUGH_TO_CHOOSE} of every class "
            "nothing is chosen by its score; its settings come from cross-validation on the training chips"
        )
    elif name == floor:
        why = f"no candidate was surely better on {choice['n_val']} validation chips ({best} in {sure})"
    else:
        why = (
            f"the best of {len(choice['candidates'])} candidates on {choice['n_val']} validation chips, better than "
            f"{floor} in {sure}"
        )
    sentences = [f"Model for new chips: {name}: {why}."]
    if choice["is_refitted"]:
        sentences.append("Its classifier was fitted again with the labels of the validation chips added.")
    if name == reference:
        return [*sentences, "It is the simplest thing to do with these chips, so no gain is stated."]
    gains = [
        f"{points(gain['value'])} points {where} (95 % interval "
        f"{between(gain['ci_lower'], gain['ci_upper'], signed=True)})"
        for group, where in (("tail", "on the tail classes"), ("all", "over all classes"))
        for gain in [choice["gains"][group]]
        if math.isfinite(gain["value"])
    ]
    if gains:
        sentences.append(
            f"Expected over {reference} on new chips: {', '.join(gains)}, free of the luck of the choice."
        )
    if not choice["gains"]["all"]["ci_lower"] > 0:
        sentences.append("The interval over all classes does not exclude zero.")
    return sentences


def say_tested(scores: pd.DataFrame, choice: Any) -> list[str]:
    """Say how the model for new chips did on the test, beside the reference of its promise; nothing without scores.

    Args:
        scores: Macro F1 of a run.
        choice: As in :func:`say_choice`.
    """

    def cells(method: str, classifier: str) -> str:
        own = scores[(scores["method"] == method) & (scores["classifier"] == classifier)].set_index("group")
        return " and ".join(
            f"{percent(own.loc[group, 'value'])} % "
            f"({between(own.loc[group, 'ci_lower'], own.loc[group, 'ci_upper'])}) {of}"
            for group, of in (("tail", "on the tail classes"), ("all", "over all classes"))
            if group in own.index
        )

    shipped, reference = cells("shipped", choice["classifier"]), cells(*choice["reference"])
    beside = f"; {label(*choice['reference'])} has {reference}" if reference else ""
    return [f"Macro F1 on the test: {shipped}{beside}."] if shipped else []
