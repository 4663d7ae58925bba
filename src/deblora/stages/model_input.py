"""Normalization of the bands as a run decides it: the model's own, or that of the training chips.

Statistics are computed from training pixels only, once, and travel with the first adapter (``base.json``); whatever
loads the adapter takes them from there.
"""

import json
from dataclasses import replace
from pathlib import Path

from deblora.config import BackboneRecipe
from deblora.data.chips import ChipSet
from deblora.data.pixels import band_statistics
from deblora.errors import DataError, ModelError
from deblora.models.backbone import Backbone
from deblora.models.lora import SIDECAR


def uses_train_statistics(recipe: BackboneRecipe, *, native_bands: int) -> bool:
    """Tell whether bands are normalized by the training chips: asked for, or the model knows other bands."""
    return recipe.normalize == "train" or recipe.n_bands not in (None, native_bands)


def fit_input(backbone: Backbone, chips: ChipSet) -> None:
    """Set mean and standard deviation of every band to those of the training chips of a set, in place.

    Args:
        backbone: Its ``spec`` is replaced where it asks for it (``train_statistics``).
        chips: Chips of the run; those outside of the split ``train`` are not read.

    Raises:
        DataError: If training chips differ in their number of bands.
    """
    if not backbone.train_statistics:
        return
    mean, std = band_statistics(chips.split("train").pixels, scale=backbone.spec.scale)
    n_bands = backbone.spec.n_bands
    if len(mean) == 1:  # a gray band is repeated
        mean, std = mean * n_bands, std * n_bands
    if len(mean) != n_bands:
        raise DataError(
            f"training chips have {len(mean)} bands, the backbone takes {n_bands}; set backbone.n_bands to {len(mean)}"
        )
    backbone.spec = replace(backbone.spec, mean=mean, std=std)


def adopt_input(backbone: Backbone, adapter: Path) -> None:
    """Take over the statistics that an adapter was trained with, in place.

    Raises:
        ModelError: If its ``base.json`` is damaged.
    """
    try:
        record = json.loads((adapter / SIDECAR).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # loading the adapter says what is wrong with it
    if not isinstance(record, dict) or not (backbone.train_statistics or record.get("normalize") == "train"):
        return
    try:
        mean, std = (tuple(map(float, record[key])) for key in ("mean", "std"))
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError("mean and std do not fit")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{adapter / SIDECAR} is damaged ({error}); train the adapter again") from error
    if len(mean) == backbone.spec.n_bands:
        backbone.spec = replace(backbone.spec, mean=mean, std=std)
        backbone.train_statistics = True
