"""``deblora update``: takes the labels of a queue into training and fits the classifier for new chips again.

Validation and test stay as they are: their labels never train anything here that they did not train before, and a chip
of theirs that was labeled is refused, by its name, its image and its pixels. Only new chips go through the model.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from deblora.errors import ArtifactError, DataError
from deblora.evaluate.classifiers.cross_validation import (
    ALWAYS_TRAINS,
    N_FOLDS,
    TOLERANCE,
    draw_folds,
    fit_cross_validated,
    fit_temperature,
)
from deblora.evaluate.classifiers.linear import Linear
from deblora.evaluate.classifiers.names import FLOOR
from deblora.evaluate.intervals import Estimate, bootstrap_f1, group_estimates, stratified_draws
from deblora.evaluate.metrics import per_class_f1
from deblora.pipeline.audited import Audited, as_audited, read_audited
from deblora.pipeline.classify.additions import (
    AddedChip,
    Additions,
    queue_key,
    read_additions,
    write_additions,
)
from deblora.pipeline.classify.admit import Refusals, admitted, features_of, pixels_of, without_twins
from deblora.pipeline.classify.chips import read_source
from deblora.pipeline.classify.evaluate.choose import can_fit_again, fit_again, read_choice
from deblora.pipeline.classify.evaluate.fit import side_by_side
from deblora.pipeline.classify.predict import check_model_files, model_of, new_features, usable_chips
from deblora.pipeline.classify.queue import checked_name, merge_labels, read_queue, run_id
from deblora.pipeline.open_model import find_noted_weights
from deblora.recipe.classify import Recipe
from deblora.run.artifacts import FeatureTable
from deblora.run.run_dir import RunDir

log = logging.getLogger("deblora")
FEW = N_FOLDS
"""Labels below which a class lacks some: with as many as folds, every fold judges it (ours)."""


@dataclass(frozen=True)
class Score:
    """Macro F1 of a group before and after on the same chips, and the paired difference."""

    split: str
    group: str
    before: Estimate
    after: Estimate
    difference: Estimate


@dataclass
class Change(Refusals):
    """What an update did.

    Attributes:
        class_names: Classes, founded ones last.
        n_before: Labels per class in training, validation and what labeling added before.
        n_after: The same with the new labels.
        founded: Classes that the run did not have before.
        unjudged: Classes without a test chip.
        classifier: Method and classifier that were fitted.
        scores: Tail and overall F1, cross-validated and on the test.
        n_judged: Chips by the name of the split that judged.
        disagreements: Chips on which labelers disagree, with what each said.
        n_unsure: Chips left as unsure.
        n_skipped: Chips passed over.
    """

    class_names: tuple[str, ...] = ()
    n_before: Int[np.ndarray, " c"] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    n_after: Int[np.ndarray, " c"] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    founded: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()
    classifier: str = ""
    scores: tuple[Score, ...] = ()
    n_judged: Mapping[str, int] = field(default_factory=dict)
    disagreements: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    n_unsure: int = 0
    n_skipped: int = 0


def update(run: RunDir, recipe: Recipe, root: Path | None, *, weights: str | None = None) -> Change:
    """Add the labels of a queue to a run, and fit the classifier that ``predict`` uses with them.

    Args:
        run: Finished, with a choice.
        recipe: Its settings.
        root: The queue; none fits the labels again that were added before, to a run that was made anew since.
        weights: Where the weights of the backbone are, as for :func:`~deblora.pipeline.classify.predict.predict`.

    Raises:
        ArtifactError: If the run has no choice or is stale, the queue is damaged or of another run.
        DataError: If there is nothing to add, a labeled chip cannot be read, or a class name is nearly another one.
        ModelError: If the weights of the backbone are not found or are others.
    """
    with run.hold():
        read_source.cache_clear()
        choice = read_choice(run)
        method, name = str(choice["method"]), str(choice["classifier"])
        check_model_files(run, method, name)
        change = Change()
        earlier = read_additions(run, any_state=True)
        if root is None and earlier is None:
            raise DataError(f"no labels were added to {run.root} yet; name the queue that holds some")
        before = earlier or Additions((), read_audited(run).class_names, {})
        chips = before.chips if root is None else _with_queue(run, recipe, root, before, change)
        tables = model_of(run, updated=False).tables
        added = _with_features(run, recipe, chips, before, tables, weights)
        added = without_twins(run, added, change)
        if not added.chips:
            raise DataError(f"no chip can be added: {'; '.join(_of_chips(change)) or 'none has a label'}")
        added = _fitted(run, recipe, added, before, change)
        write_additions(run, added)
        return change


# --- which chips ------------------------------------------------------------------------------------------------


def _with_queue(
    run: RunDir, recipe: Recipe, root: Path, before: Additions, change: Change
) -> tuple[AddedChip, ...]:
    """Return the added chips with those that the labelers of a queue agree on; its earlier labels are replaced."""
    queue, key = read_queue(root), queue_key(root)
    if queue.run != run_id(run):
        raise ArtifactError(
            f"{root} was made for another run or for other chips of {run.root} (it names {queue.run_folder}); "
            "make a queue for this one with deblora suggest"
        )
    merged = merge_labels(queue)
    change.disagreements, change.n_unsure, change.n_skipped = (
        merged.disagreements,
        merged.n_unsure,
        merged.n_skipped,
    )
    kept = [chip for chip in before.chips if chip.queue != key]
    _check_names(merged.labels.values(), before.class_names)
    new = admitted(run, recipe, queue, merged.labels, change)
    known = {chip.content: chip.label for chip in kept}
    for chip in new:
        label = known.get(chip.content)
        if label is None:
            kept.append(replace(chip, queue=key))
            known[chip.content] = chip.label
        elif label != chip.label:
            change.conflicts[chip.id] = f"{label} is kept, this queue says {chip.label}"
    return tuple(kept)


def _check_names(labels: Iterable[str], known: Sequence[str]) -> None:
    """Check founded classes against all others; raises a DataError if one is nearly another."""
    names = list(known)
    for label in labels:
        if label not in names:
            names.append(checked_name(label, names))


# --- features ---------------------------------------------------------------------------------------------------


def _with_features(
    run: RunDir,
    recipe: Recipe,
    chips: tuple[AddedChip, ...],
    before: Additions,
    tables: Sequence[str],
    weights: str | None,
) -> Additions:
    """Extract the chips whose features are not there yet."""
    contents = tuple(chip.content for chip in chips)
    found: dict[str, FeatureTable] = {}
    located = recipe
    for table in tables:
        known = before.tables.get(table)
        have = set(known.ids) if known else set()
        missing = [row for row, content in enumerate(contents) if content not in have]
        parts = []
        if known and have & set(contents):
            kept = tuple(content for content in contents if content in have)
            parts.append(FeatureTable(kept, known.rows(kept)))
        if missing:
            if located is recipe:
                located = find_noted_weights(run, recipe, weights)
            own = [chips[row] for row in missing]
            pixels = pixels_of(recipe, own)
            usable_chips(run, recipe, tuple(chip.id for chip in own), pixels, "stop")
            ids = tuple(chip.content for chip in own)
            parts.append(new_features(run, located, table, ids, as_audited(run, pixels)))
        if parts:
            found[table] = FeatureTable(
                tuple(i for part in parts for i in part.ids), np.vstack([part.features for part in parts])
            )
    names = dict.fromkeys(chip.label for chip in chips)
    own_names = read_audited(run).class_names
    return Additions(chips, (*own_names, *(name for name in names if name not in own_names)), found)


# --- the fit ----------------------------------------------------------------------------------------------------

Fit = Callable[[Float[np.ndarray, "n d"], Int[np.ndarray, " n"], int], Linear]


def _fitted(run: RunDir, recipe: Recipe, added: Additions, before: Additions, change: Change) -> Additions:
    """Fit the classifier with all labels, and compare it with the one before on chips that were labeled before."""
    audited, now = read_audited(run), model_of(run, updated=False)
    is_current = before.classifier is not None
    earlier = before if is_current else Additions((), audited.class_names, {})
    previous = model_of(run) if is_current else now
    labeled = _rows(audited, [i for i, split in enumerate(audited.splits) if split != "test"])
    test, n_classes = audited.split("test"), len(added.class_names)
    own = side_by_side(run, now.tables, labeled.ids), labeled.labels
    more = features_of(added, now.tables), added.labels
    old = (features_of(earlier, now.tables), earlier.labels) if earlier.chips else (own[0][:0], own[1][:0])
    every = np.vstack([own[0], more[0]]), np.concatenate([own[1], more[1]])
    classifier, settings = now.classifier, dict(now.settings)
    with threadpool_limits(limits=1, user_api="blas"):
        if not can_fit_again(now.method, classifier):
            change.notes.append(
                f"{classifier} cannot be fitted again with more labels; balanced softmax takes its place."
            )
            rng = np.random.default_rng(recipe.seed)
            classifier, settings = FLOOR, {"l2": fit_cross_validated(*every, n_classes, rng=rng).l2}
        fit = partial(fit_again, classifier, settings)
        head = fit(*every, n_classes)
        fold = draw_folds(
            labeled.labels, n_folds=N_FOLDS, rng=np.random.default_rng(recipe.seed), units=labeled.units
        )
        held = [
            _held_out(partial(fit, tolerance=TOLERANCE), own, extra, n, fold)
            for extra, n in ((old, len(earlier.class_names)), (more, n_classes))
        ]
    judged = np.flatnonzero(fold != ALWAYS_TRAINS)
    chips = _rows(labeled, judged.tolist())
    x_test = side_by_side(run, now.tables, test.ids)
    n_most = max(n_classes, len(earlier.class_names))
    guesses = [logits[judged].argmax(axis=1) for logits in held]
    on_test = [model.logits(x_test).argmax(axis=1) for model in (previous.head, head)]
    change.scores = (
        *_scores("cross-validated", chips, guesses, n_most, recipe),
        *_scores("test", test, on_test, n_most, recipe),
    )
    change.n_judged = {"cross-validated": len(chips), "test": len(test)}
    _count(change, audited, labeled, added, earlier)
    change.classifier = f"{now.method} + {classifier}"
    notes = {
        "method": now.method,
        "classifier": classifier,
        "tables": list(now.tables),
        "settings": settings,
        "temperature": fit_temperature(held[1][judged], chips.labels),
        "scores": [_plain(score) for score in change.scores],
    }
    return replace(added, classifier=head, notes=notes)


def _rows(chips: Audited, rows: Sequence[int]) -> Audited:
    return Audited(
        tuple(chips.ids[i] for i in rows),
        chips.labels[list(rows)],
        tuple(chips.splits[i] for i in rows),
        chips.class_names,
        chips.groups,
        tuple(chips.units[i] for i in rows) if chips.units else (),
    )


def _plain(score: Score) -> dict[str, Any]:
    """Return a score as JSON values; an interval that is not known is null."""
    parts = {name: vars(getattr(score, name)) for name in ("before", "after", "difference")}
    known = {name: {k: v if v == v else None for k, v in own.items()} for name, own in parts.items()}
    return {"split": score.split, "group": score.group, **known}


def _held_out(
    fit: Fit,
    own: tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"]],
    more: tuple[Float[np.ndarray, "m d"], Int[np.ndarray, " m"]],
    n_classes: int,
    fold: Int[np.ndarray, " n"],
) -> Float[np.ndarray, "n c"]:
    """Return the logits of each chip by a fit without its fold; ``more`` trains in every one."""
    x, y = own
    logits = np.full((len(y), n_classes), np.nan)
    for number in np.unique(fold[fold != ALWAYS_TRAINS]):
        trains = fold != number
        head = fit(np.vstack([x[trains], more[0]]), np.concatenate([y[trains], more[1]]), n_classes)
        logits[~trains] = head.logits(x[~trains])
    return logits


def _scores(
    split: str,
    chips: Audited,
    guesses: Sequence[Int[np.ndarray, " n"]],
    n_classes: int,
    recipe: Recipe,
) -> list[Score]:
    """Score predictions before and after; founded classes are in no mean, because no chip here shows them."""
    rng = np.random.default_rng(recipe.seed)
    draws = stratified_draws(
        chips.labels, n_classes, rng=rng, units=chips.units, n_draws=recipe.evaluate.n_bootstrap
    )
    f1 = [per_class_f1(chips.labels, own, n_classes) for own in guesses]
    drawn = [bootstrap_f1(chips.labels, own, draws) for own in guesses]
    own = [group_estimates(*pair, chips.groups, draws.n_units) for pair in zip(f1, drawn, strict=True)]
    gain = group_estimates(
        f1[1] - f1[0], drawn[1] - drawn[0], chips.groups, draws.n_units, is_difference=True
    )
    return [Score(split, group, own[0][group], own[1][group], gain[group]) for group in ("tail", "all")]


def _count(change: Change, audited: Audited, labeled: Audited, added: Additions, before: Additions) -> None:
    names = (*added.class_names, *(name for name in before.class_names if name not in added.class_names))
    own = np.bincount(labeled.labels, minlength=len(names))

    def with_added(additions: Additions) -> Int[np.ndarray, " c"]:
        index = np.array([names.index(chip.label) for chip in additions.chips], dtype=np.int64)
        return own + np.bincount(index, minlength=len(names))

    change.class_names, change.n_before, change.n_after = names, with_added(before), with_added(added)
    change.founded = tuple(name for name in added.class_names if name not in before.class_names)
    has_test = np.bincount(audited.split("test").labels, minlength=len(names)) > 0
    change.unjudged = tuple(name for name, judged in zip(names, has_test, strict=True) if not judged)


# --- in words ---------------------------------------------------------------------------------------------------


def say_change(change: Change) -> list[str]:
    """Return lines that say what an update did and what it is worth."""
    order = sorted(
        range(len(change.class_names)), key=lambda c: (int(change.n_before[c]), change.class_names[c])
    )
    moved = [c for c in order if change.n_before[c] != change.n_after[c]]
    width = 2 + max((len(change.class_names[c]) for c in moved), default=0)
    n_new = int((change.n_after - change.n_before).sum())
    lines = [f"{n_new:+d} labels, {change.classifier} fitted again", "labels per class, before and after:"]
    lines += [
        f"  {change.class_names[c]:<{width}}{change.n_before[c]:>6}{change.n_after[c]:>6}" for c in moved
    ]
    if len(moved) < len(order):
        lines.append(f"  {len(order) - len(moved)} other classes: unchanged")
    lines.append("macro F1 in percent [95 % interval], before, after, difference:")
    for score in change.scores:
        n = change.n_judged[score.split]
        lines.append(
            f"  {f'{score.split}, {n} chips':<28}{score.group:<6}"
            f"{_cell(score.before):>22}{_cell(score.after):>22}{_cell(score.difference, sign='+'):>24}"
        )
    lines.append(
        "The new labels were chosen on purpose and are no random sample: they only train. The chips labeled before "
        "judge, each a classifier that was not fitted to it, and the test."
    )
    if change.founded:
        lines.append(f"new classes: {', '.join(change.founded)}; deblora predict answers them from now on")
    if change.unjudged:
        lines.append(f"unjudged, because no test chip shows them: {_some(change.unjudged)}")
    few = [f"{change.class_names[c]} ({change.n_after[c]})" for c in order if 0 < change.n_after[c] < FEW]
    if few:
        lines.append(f"still lacking labels, fewer than {FEW}: {_some(few)}")
    return lines + _of_chips(change) + change.notes


def _of_chips(change: Change) -> list[str]:
    lines = [f"refused: {chip} ({why})" for chip, why in change.refused.items()]
    lines += [f"not decided: {chip} ({why})" for chip, why in change.conflicts.items()]
    for chip, said in change.disagreements.items():
        who = ", ".join(f"{name or 'labels.csv'}: {label}" for name, label in said.items())
        lines.append(f"labelers disagree: {chip} ({who})")
    if change.disagreements:
        lines.append("none of these was taken; decide them with: deblora label QUEUE --labeler decided")
    if change.n_unsure or change.n_skipped:
        lines.append(f"{change.n_unsure} unsure and {change.n_skipped} skipped chips are left out")
    return lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _cell(found: Estimate, *, sign: str = "") -> str:
    if found.value != found.value:
        return "-"
    value, low, high = (f"{100 * own:{sign}.1f}" for own in (found.value, found.ci_lower, found.ci_upper))
    return f"{value} [{low}, {high}]" if found.ci_lower == found.ci_lower else f"{value} -"
