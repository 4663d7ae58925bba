"""Pictures that stand in a data set twice: the same pixels, or the same picture turned, mirrored or recompressed.

A chip that training knows already says nothing in a test, and one with two labels is wrong once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

SIDE = 16
"""Cells along a side of the thumbnails that are compared (ours)."""

SAME = 0.996
"""Cosine of two thumbnails from which chips are called copies. Of 3,000 chips of AID and of MSTAR (whose chips look
much alike) it finds none but one true pair, and 95 of 100 chips of AID after JPEG of quality 50 (ours)."""

LEAST_CONTRAST = 2.0
"""Standard deviation of a thumbnail in units of 8-bit values below which a chip is too flat to be compared (ours)."""

MOST_PAIRS = 2 * 10**8
"""Pairs that are compared, half a minute of one core; of larger sets as many chips as fit are drawn (ours)."""


@dataclass(frozen=True)
class Copies:
    """Pairs of positions of chips that show the same picture.

    Attributes:
        across_splits: A chip of validation or test, and one of training.
        two_classes: Two training chips of different classes.
        n_compared: Chips that were compared with all training chips.
    """

    across_splits: tuple[tuple[int, int], ...]
    two_classes: tuple[tuple[int, int], ...]
    n_compared: int


def thumbnail(chip: Shaped[np.ndarray, "h w b"], *, span: float = 255.0) -> Float[np.ndarray, "16 16"] | None:
    """Return the mean of all bands in 16 x 16 cells, with mean 0 and length 1; None where nothing is to be seen.

    Args:
        chip: Pixels.
        span: Difference between white and black.
    """
    gray = chip.astype(np.float32).mean(axis=2)
    if min(gray.shape) < SIDE:
        gray = gray.repeat(-(-SIDE // gray.shape[0]), axis=0).repeat(-(-SIDE // gray.shape[1]), axis=1)
    rows, columns = (np.linspace(0, side, SIDE + 1).astype(np.int64) for side in gray.shape)
    total = np.add.reduceat(np.add.reduceat(gray, rows[:-1], axis=0), columns[:-1], axis=1)
    cells = total / (np.diff(rows)[:, None] * np.diff(columns))
    cells -= cells.mean()
    length = float(np.linalg.norm(cells))
    if not np.isfinite(length) or length < LEAST_CONTRAST / 255 * span * SIDE:
        return None
    return np.asarray(cells / length, dtype=np.float32)


def near_copies(
    thumbnails: Sequence[Float[np.ndarray, "16 16"] | None],
    labels: Sequence[int],
    splits: Sequence[str],
    *,
    rng: np.random.Generator,
) -> Copies:
    """Find chips that show what a training chip shows, in any of the eight ways to turn and mirror it.

    Args:
        thumbnails: Of all chips, from :func:`thumbnail`.
        labels: Class of every chip.
        splits: ``train`` or anything else for every chip.
        rng: Draws the chips that are compared where there are too many.
    """
    known = np.array([i for i, one in enumerate(thumbnails) if one is not None], dtype=np.int64)
    train = known[[splits[i] == "train" for i in known.tolist()]] if len(known) else known
    if not len(train):
        return Copies((), (), 0)
    compared = known
    if len(known) * len(train) > MOST_PAIRS:
        compared = np.sort(rng.choice(known, size=max(1, MOST_PAIRS // len(train)), replace=False))
    base = np.stack([thumbnails[i] for i in train.tolist()]).reshape(len(train), -1)
    across: dict[int, int] = {}
    twice: set[tuple[int, int]] = set()
    block = max(1, 8_000_000 // len(train))
    for first in range(0, len(compared), block):
        rows = compared[first : first + block]
        plain = np.stack([thumbnails[i] for i in rows.tolist()])
        best = np.full((len(rows), len(train)), -1.0, dtype=np.float32)
        for mirrored in (plain, plain[:, :, ::-1]):
            for quarters in range(4):
                view = np.ascontiguousarray(np.rot90(mirrored, quarters, axes=(1, 2))).reshape(len(rows), -1)
                np.maximum(best, view @ base.T, out=best)
        for i, j in np.argwhere(best >= SAME).tolist():
            one, other = int(rows[i]), int(train[j])
            if splits[one] != "train":
                across.setdefault(one, other)
            elif labels[one] != labels[other]:
                twice.add((min(one, other), max(one, other)))
    return Copies(tuple(across.items()), tuple(sorted(twice)), len(compared))
