"""New chips of a prediction: which of them the model of a run can see, and why it cannot see the others."""

from typing import Literal

from deblora.config import Recipe
from deblora.data.chips import Pixels, SubsetPixels
from deblora.data.unlabeled import OfKind, unreadable
from deblora.errors import DataError
from deblora.models.adapter_files import read_folder
from deblora.run_dir import RunDir
from deblora.stages.chips import band_counts

OnError = Literal["stop", "skip"]  # as data.on_error
WHITE = 255.0  # of 8-bit pixels
N_NAMED = 10  # chips named in a message


def usable_chips(
    run: RunDir, recipe: Recipe, ids: tuple[str, ...], pixels: Pixels, on_error: OnError
) -> tuple[tuple[str, ...], Pixels, dict[str, str]]:
    """Decode every chip once; return those that the model can see, and the reason by id for the others.

    Raises:
        DataError: If there are others and ``on_error`` is stop (up to ten are named), or no chip is left.
    """
    types: tuple[str, ...] = ("uint8", "uint16", "float32")
    if recipe.data.scale is None:
        types = types[:1]
    elif recipe.data.scale > WHITE:
        types = types[1:]
    # The model would take gray chips after it saw RGB ones, repeated, and be wrong without a word.
    n_bands = band_counts(run) or frozenset({1, int(read_folder(run.adapter("lora"))[1]["n_bands"])})
    reasons = unreadable(OfKind(pixels, ids, types, n_bands))
    if reasons and on_error == "stop":
        lines = [f"  - {reason}" for reason in list(reasons.values())[:N_NAMED]]
        raise DataError(
            f"{len(reasons)} of {len(ids)} chips cannot be used:\n" + "\n".join(lines) + "\n"
            "restore or convert them, or leave them out with --on-error skip"
        )
    kept = tuple(i for i in range(len(ids)) if i not in reasons)
    if not kept:
        raise DataError(f"none of the {len(ids)} chips can be used, first: {reasons[0]}")
    skipped = {ids[i]: reason for i, reason in reasons.items()}
    return tuple(ids[i] for i in kept), SubsetPixels(pixels, kept), skipped


def shortened(reason: str) -> str:
    """Return what is wrong with a chip without where it lies and what to do: ``unreadable image (truncated)``."""
    return reason.partition(": ")[2].partition("; ")[0] or reason
