"""Rows of the comparison with their own training: how each is trained, and how its features are extracted."""

from collections.abc import Sequence

from deblora.errors import RecipeError
from deblora.pipeline.compare.baselines import extract, self_train, train
from deblora.recipe.methods import TRAINED
from deblora.run.stage import Stage

OWN_STAGE = {"clora": train.STAGE, "self-trained": self_train.STAGE}
"""Rows that are not trained as the others are."""


def row_stages(names: Sequence[str]) -> tuple[Stage, ...]:
    """Return the stages of rows, two for each: ``train-row-<name>`` and ``extract-row-<name>``.

    Raises:
        RecipeError: If a name is unknown.
    """
    unknown = [name for name in names if name not in TRAINED]
    if unknown:
        raise RecipeError(f"{unknown[0]} is no row with its own training; known are {', '.join(TRAINED)}")
    stages: list[Stage] = []
    for name in TRAINED:
        if name in names:
            stages += [
                OWN_STAGE.get(name) or train.stage_for(name),
                extract.stage_for(name),
            ]
    return tuple(stages)
