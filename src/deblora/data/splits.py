"""Splits for data that comes without them."""

from dataclasses import replace

import numpy as np

from deblora.data.chips import ChipSet
from deblora.errors import DataError


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
    least 1 for train. The draw of a class depends on ``seed`` and its index only.

    Args:
        chips: The chips.
        val_fraction: Share of val, 0 to 1.
        test_fraction: Share of test, 0 to 1; both together below 1.
        val_per_class: Chips of val per class instead of ``val_fraction``; 0 means no val.
        seed: Of the draws.

    Returns:
        The same chips in the same order with new splits.

    Raises:
        DataError: If a class has too few chips for its splits.
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
        if n_val + n_test >= len(for_train):
            raise DataError(
                f"the class {chips.class_names[label]} has {len(for_train)} chips, too few for {n_val} of "
                f"val, {n_test} of test and 1 of train; add chips, leave the class out or give the splits"
            )
        rng = np.random.default_rng((seed, label))
        test = rng.permutation(for_test)[:n_test]
        rest = rng.permutation(np.setdiff1d(for_train, test))
        splits[rest] = "train"
        splits[rest[:n_val]] = "val"
        splits[test] = "test"
    return replace(chips, splits=tuple(str(split) for split in splits))


def _quota(fraction: float, n_chips: int) -> int:
    """Return the share of ``n_chips``, halves rounded up and at least 1 unless nothing is asked or there."""
    if fraction == 0 or not n_chips:
        return 0
    return max(1, int(np.floor(fraction * n_chips + 0.5)))
