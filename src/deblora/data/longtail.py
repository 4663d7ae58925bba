"""Class counts, groups of classes and long-tailed selections."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from deblora.errors import DataError


@dataclass(frozen=True)
class Groups:
    """Head, middle and tail classes (indices), fixed by the audit before anything is trained."""

    head: tuple[int, ...]
    middle: tuple[int, ...]
    tail: tuple[int, ...]

    def named(self) -> dict[str, tuple[int, ...]]:
        """Return the groups by name, in the order head, middle, tail."""
        return {"head": self.head, "middle": self.middle, "tail": self.tail}


def class_counts(labels: Int[np.ndarray, " n"], n_classes: int) -> Int[np.ndarray, " c"]:
    """Return the number of chips per class.

    Raises:
        ValueError: If a label is outside 0 to ``n_classes - 1``.
    """
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
        raise ValueError(f"labels span {labels.min()} to {labels.max()}, but n_classes is {n_classes}")
    return np.bincount(np.asarray(labels, dtype=np.int64), minlength=n_classes)


def imbalance_ratios(counts: Int[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
    """Return ``ir_c = max_j n_j / n_c`` (>= 1; infinite for a class without chips).

    Raises:
        ValueError: If no class has a chip or a count is negative.
    """
    values = np.asarray(counts, dtype=np.float64)
    if not len(values) or values.min() < 0 or values.max() == 0:
        raise ValueError(f"counts must not be negative and not all zero, got {np.asarray(counts).tolist()}")
    with np.errstate(divide="ignore"):
        return np.asarray(values.max() / values)


def groups_by_thirds(counts: Int[np.ndarray, " c"]) -> Groups:
    """Group classes by thirds of their order by count, most first; ties keep the order of the classes.

    Head and tail get ``(C + 1) // 3`` classes each (a third, rounded), the middle the rest.

    Example:
        >>> groups_by_thirds(np.array([5, 200, 40]))
        Groups(head=(1,), middle=(2,), tail=(0,))
    """
    order = np.argsort(-np.asarray(counts, dtype=np.int64), kind="stable").tolist()
    size = (len(order) + 1) // 3
    last = len(order) - size
    return Groups(tuple(sorted(order[:size])), tuple(sorted(order[size:last])), tuple(sorted(order[last:])))


def groups_by_counts(counts: Int[np.ndarray, " c"], *, head_above: int, tail_below: int) -> Groups:
    """Group classes by two thresholds: head ``n_c > head_above``, tail ``n_c < tail_below``; both exclusive.

    Args:
        counts: Training chips per class.
        head_above: For example 100 (the many-shot rule of LIFT's authors).
        tail_below: For example 20 (their few-shot rule).

    Raises:
        ValueError: If a count could be both, ``tail_below > head_above + 1``.
    """
    if tail_below > head_above + 1:
        raise ValueError(f"tail_below {tail_below} and head_above {head_above} overlap")
    values = [int(count) for count in counts]
    head = tuple(i for i, count in enumerate(values) if count > head_above)
    tail = tuple(i for i, count in enumerate(values) if count < tail_below)
    return Groups(head, tuple(i for i in range(len(values)) if i not in head and i not in tail), tail)


MANY_ABOVE, FEW_BELOW = 100, 20
"""Many-, medium- and few-shot classes: more than 100, 20 to 100, fewer than 20 training images (Liu et al.,
"Large-Scale Long-Tailed Recognition in an Open World", CVPR 2019; LIFT's authors)."""


def groups_by_shots(counts: Int[np.ndarray, " c"]) -> Groups:
    """Return many-, medium- and few-shot classes as head, middle and tail."""
    return groups_by_counts(counts, head_above=MANY_ABOVE, tail_below=FEW_BELOW)


def groups_by_names(class_names: Sequence[str], head: Sequence[str], tail: Sequence[str]) -> Groups:
    """Group classes by name; those that are neither head nor tail are the middle.

    Raises:
        DataError: If a name is unknown or in both groups.
    """
    unknown = [name for name in (*head, *tail) if name not in class_names]
    if unknown:
        raise DataError(
            f"the groups name the class {unknown[0]}, which the data does not have; "
            f"its classes are {', '.join(class_names)}"
        )
    both = [name for name in head if name in tail]
    if both:
        raise DataError(f"the class {both[0]} is in head and tail; keep it in one of them")
    return Groups(
        tuple(i for i, name in enumerate(class_names) if name in head),
        tuple(i for i, name in enumerate(class_names) if name not in head and name not in tail),
        tuple(i for i, name in enumerate(class_names) if name in tail),
    )


def long_tailed_quotas(
    n_classes: int, *, largest: int, imbalance_factor: float, seed: int
) -> Int[np.ndarray, " c"]:
    """Return the chips per class of a long-tailed selection.

    ``n_pi(j) = max(1, round(largest * I^(-j / (C - 1))))`` for ``j = 0 ... C - 1``, halves rounded up. The
    order ``pi`` is drawn from ``seed`` so that the tail does not always mean the same classes.

    Args:
        n_classes: Number of classes ``C``, >= 1.
        largest: Chips of the first class, >= 1.
        imbalance_factor: ``I``, largest over smallest count, >= 1.
        seed: Of the order of classes.

    Raises:
        ValueError: If an argument is out of range.
    """
    if n_classes < 1 or largest < 1:
        raise ValueError(f"n_classes and largest must be at least 1, got {n_classes} and {largest}")
    if not (np.isfinite(imbalance_factor) and imbalance_factor >= 1):
        raise ValueError(f"imbalance_factor must be at least 1, got {imbalance_factor}")
    sizes = exponential_counts(n_classes, largest=largest, imbalance_factor=imbalance_factor)
    quotas = np.zeros(n_classes, dtype=np.int64)
    quotas[np.random.default_rng(seed).permutation(n_classes)] = sizes
    return quotas


def exponential_counts(n_classes: int, *, largest: int, imbalance_factor: float) -> Int[np.ndarray, " c"]:
    """Return the counts of an exponential long tail, largest first; see :func:`long_tailed_quotas`.

    Example:
        >>> exponential_counts(4, largest=100, imbalance_factor=50).tolist()
        [100, 27, 7, 2]
    """
    exponents = np.arange(n_classes) / max(n_classes - 1, 1)
    sizes = np.floor(largest * float(imbalance_factor) ** -exponents + 0.5)
    return np.maximum(1, sizes).astype(np.int64)


def long_tailed_indices(
    labels: Int[np.ndarray, " n"],
    *,
    n_classes: int,
    largest: int,
    imbalance_factor: float,
    seed: int,
    class_names: Sequence[str] | None = None,
) -> Int[np.ndarray, " m"]:
    """Select training chips so that their counts fall off exponentially; see :func:`long_tailed_quotas`.

    Drawn without replacement. For equal seeds selections are nested: a smaller ``largest`` gives a subset.
    Never use it on validation or test chips.

    Args:
        labels: Class per training chip.
        n_classes: Number of classes.
        largest: Chips of the most frequent class.
        imbalance_factor: Largest over smallest count, >= 1.
        seed: Of the order of classes and of the draws.
        class_names: For messages only.

    Returns:
        Sorted positions in ``labels``.

    Raises:
        DataError: If a class has fewer chips than its quota; names the class, the need and the supply.
        ValueError: If an argument is out of range.
    """
    counts = class_counts(labels, n_classes)
    quotas = long_tailed_quotas(n_classes, largest=largest, imbalance_factor=imbalance_factor, seed=seed)
    short = np.flatnonzero(counts < quotas)
    if len(short):
        label = int(short[0])
        name = class_names[label] if class_names is not None else f"with index {label}"
        raise DataError(
            f"the class {name} needs {quotas[label]} training chips and has {counts[label]} ({len(short)} "
            f"classes fall short); lower the largest count to {int(counts.min())} or less, or change the seed"
        )
    return drawn_by_quota(labels, quotas, seed=seed)


def drawn_by_quota(
    labels: Int[np.ndarray, " n"], quotas: Int[np.ndarray, " c"], *, seed: int
) -> Int[np.ndarray, " m"]:
    """Draw ``quotas[c]`` samples of every class without replacement; smaller quotas give subsets.

    Returns:
        Sorted positions in ``labels``; fewer than asked for where a class has fewer.
    """
    chosen = [
        np.random.default_rng((seed, label)).permutation(np.flatnonzero(labels == label))[:quota]
        for label, quota in enumerate(quotas.tolist())
    ]
    return np.sort(np.concatenate(chosen))
