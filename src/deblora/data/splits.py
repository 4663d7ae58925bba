"""Splits for data that comes without them."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int

from deblora.data.chips import ChipSet
from deblora.errors import DataError

_N_NAMED = 10

MOST_UNJUDGED = 2
"""Chips of a class up to which it gives none to validation and test, for which three are needed."""


def stratified_split(
    chips: ChipSet,
    *,
    val_fraction: float,
    test_fraction: float,
    val_per_class: int | None = None,
    seed: int,
) -> ChipSet:
    """Fill the splits that are absent, class by class; chips that have a split keep it, with one exception.

    Chips without a split go to test and val (unless these exist) and else to train. Where val is still absent
    and chips are marked train, val is carved from train. Test is never carved from chips marked train. Each
    class gives ``floor(fraction * n + 1/2)`` chips, at least 1 where the fraction is not 0, and keeps at
    least 1 for train. A class of one or two chips only trains, which the notes say. The draw of a class depends on
    ``seed`` and its index only.

    Args:
        chips: The chips.
        val_fraction: Share of val, 0 to 1.
        test_fraction: Share of test, 0 to 1; both together below 1.
        val_per_class: Chips of val per class instead of ``val_fraction``; 0 means no val.
        seed: Of the draws.

    Returns:
        The same chips in the same order with new splits.

    Raises:
        DataError: If classes have too few chips for their splits; names them with what they have and need.
        ValueError: If an argument is out of range.
    """
    shares = (val_fraction, test_fraction)
    if not all(0 <= share < 1 for share in shares) or sum(shares) >= 1:
        raise ValueError(f"val_fraction and test_fraction must be 0 to 1 and below 1 together, got {shares}")
    if val_per_class is not None and val_per_class < 0:
        raise ValueError(f"val_per_class must not be negative, got {val_per_class}")
    splits = np.array(chips.splits, dtype=object)
    is_open = splits == ""
    needs_val, needs_test = "val" not in chips.splits, "test" not in chips.splits
    tiny: dict[str, tuple[int, int]] = {}
    unjudged: list[str] = []
    # Marked training chips may give to val, but only unmarked ones may become test.
    for label in range(chips.n_classes):
        of_class = chips.labels == label
        for_test = np.flatnonzero(of_class & is_open)
        for_train = np.flatnonzero(of_class & (is_open | (splits == "train")))
        if not len(for_train):
            continue
        n_test = _quota(test_fraction, len(for_test)) if needs_test else 0
        n_val = 0
        if needs_val:
            n_val = val_per_class if val_per_class is not None else _quota(val_fraction, len(for_train))
        if n_val + n_test >= len(for_train) and len(for_train) <= MOST_UNJUDGED:
            splits[for_train] = "train"
            unjudged.append(chips.class_names[label])
            continue
        if n_val + n_test >= len(for_train):
            tiny[chips.class_names[label]] = (len(for_train), n_val + n_test + 1)
            continue
        rng = np.random.default_rng((seed, label))
        test = rng.permutation(for_test)[:n_test]
        rest = rng.permutation(np.setdiff1d(for_train, test))
        splits[rest] = "train"
        splits[rest[:n_val]] = "val"
        splits[test] = "test"
    if tiny:
        raise DataError(_too_few(tiny))
    some = ", ".join(unjudged[:_N_NAMED]) + (" ..." if len(unjudged) > _N_NAMED else "")
    notes = (
        [f"{len(unjudged)} classes of one or two chips train and are not judged: {some}"] if unjudged else []
    )
    return replace(chips, splits=tuple(str(split) for split in splits), notes=(*chips.notes, *notes))


def _too_few(tiny: dict[str, tuple[int, int]]) -> str:
    """Say which classes cannot be split, all at once, and which setting leaves them out."""
    counts = ", ".join(f"{name} has {n} of {needed}" for name, (n, needed) in list(tiny.items())[:_N_NAMED])
    more = f" and {len(tiny) - _N_NAMED} more" if len(tiny) > _N_NAMED else ""
    return (
        f"too few chips to give some to train, val and test in {len(tiny)} classes: {counts}{more}; add chips, give "
        f"the splits, or leave the classes out with data.ignore: [{', '.join(tiny)}]"
    )


def _quota(fraction: float, n_chips: int) -> int:
    """Return the share of ``n_chips``, halves rounded up and at least 1 unless nothing is asked or there."""
    if fraction == 0 or not n_chips:
        return 0
    return max(1, int(np.floor(fraction * n_chips + 0.5)))


def unit_split(
    chips: ChipSet,
    *,
    val_fraction: float,
    test_fraction: float,
    val_per_class: int | None = None,
    seed: int,
) -> ChipSet:
    """Fill the splits that are absent by whole units (image, scene), so that nothing next to a training chip is tested.

    What gives to which split is as in :func:`stratified_split`. From the rarest class to the most frequent, units are
    taken until the class has its share, or one more would miss it by more than stopping does; of all units with that
    class the one that brings all classes nearest to their shares, in units of the share. A class never loses its last
    unit to val or test, so one that occurs in a single unit is absent from them, which the notes say. The draw depends
    on ``seed`` through the order in which equals are tried.

    Raises:
        DataError: If no unit can be spared.
        ValueError: If the chips have no units.
    """
    if not chips.units:
        raise ValueError("the chips have no units to split by")
    splits = np.array(chips.splits, dtype=object)
    units = np.unique(np.array(chips.units), return_inverse=True)[1].reshape(-1)
    is_open, was = splits == "", set(chips.splits)
    splits[is_open] = "train"
    rng, notes = np.random.default_rng(seed), []
    for name, fraction, quota, pool in (
        ("test", test_fraction, None, is_open),
        ("val", val_fraction, val_per_class, splits == "train"),
    ):
        pool = pool & (splits == "train")
        if name in was or not pool.any() or not (fraction or quota):
            continue
        taken = _draw_units(chips.labels, units, pool, fraction, quota, rng)
        if not taken.any():
            n_units = len(np.unique(units[pool]))
            raise DataError(
                f"no image or scene can be spared for {name} (there are {n_units}): each holds the last chips of a "
                "class; add some, give the splits, or set data.split_by to chip and expect chips of one image on both "
                "sides"
            )
        splits[taken] = name
        absent = [c for c in np.unique(chips.labels[pool]) if not (taken & (chips.labels == c)).any()]
        if absent:
            some = ", ".join(chips.class_names[c] for c in absent[:5])
            notes.append(f"{len(absent)} classes are in too few units to be in {name} too: {some}")
    return replace(chips, splits=tuple(str(split) for split in splits), notes=(*chips.notes, *notes))


def note_shared_units(chips: ChipSet) -> ChipSet:
    """Return chips with a note if some of one image or scene stand in training and others in the test."""
    if not chips.units:
        return chips
    units, splits = np.array(chips.units), np.array(chips.splits)
    n_shared = len(np.intersect1d(units[splits == "train"], units[splits == "test"]))
    if not n_shared:
        return chips
    note = f"chips of {n_shared} images or scenes stand in training and in the test: scores say little about new images"
    return replace(chips, notes=(*chips.notes, note))


def _draw_units(
    labels: Int[np.ndarray, " n"],
    units: Int[np.ndarray, " n"],
    pool: Bool[np.ndarray, " n"],
    fraction: float,
    quota: int | None,
    rng: np.random.Generator,
) -> Bool[np.ndarray, " n"]:
    """Return which chips of the pool are drawn; see :func:`unit_split`."""
    n_units, n_classes = int(units.max()) + 1, int(labels.max()) + 1
    counts = np.zeros((n_units, n_classes), dtype=np.int64)
    np.add.at(counts, (units[pool], labels[pool]), 1)
    total = counts.sum(axis=0)
    target = np.array([quota if quota is not None else _quota(fraction, int(n)) for n in total])
    order = rng.permutation(n_units)
    counts = counts[order]
    is_taken = np.zeros(n_units, dtype=bool)
    have = np.zeros(n_classes, dtype=np.int64)
    scale = np.maximum(target, 1)
    for label in np.argsort(total, kind="stable").tolist():
        while have[label] < target[label]:
            left = total - have
            spares = ((counts < left) | (counts == 0)).all(axis=1)
            usable = np.flatnonzero(~is_taken & spares & (counts[:, label] > 0))
            if not len(usable):
                break
            miss = (np.abs(have + counts[usable] - target) / scale).sum(axis=1)
            chosen = usable[int(np.argmin(miss))]
            after, before = (
                abs(have[label] + counts[chosen, label] - target[label]),
                target[label] - have[label],
            )
            if have[label] and after > before:
                break  # one more would miss the share by more than stopping does
            is_taken[chosen] = True
            have += counts[chosen]
    drawn = np.zeros(n_units, dtype=bool)
    drawn[order] = is_taken
    return np.asarray(pool & drawn[units])


def val_as_test(chips: ChipSet) -> ChipSet:
    """Return chips whose validation split is the test where no test is given.

    Where test labels are not public, benchmarks judge on validation; what choices are made on must then come from the
    training chips.
    """
    if "test" in chips.splits or "val" not in chips.splits or "train" not in chips.splits:
        return chips
    splits = tuple("test" if split == "val" else split for split in chips.splits)
    note = "no labeled test split: the validation split is the test, and validation is drawn from train"
    return replace(chips, splits=splits, notes=(*chips.notes, note))
