"""What the first adapter minimizes, by the name in the recipe: ``lora.loss``."""

import numpy as np
import torch
from torch import nn

from deblora.data.chips import ChipSet
from deblora.evaluate.probe import log_prior
from deblora.models.backbone import Backbone
from deblora.train.objectives import Classify


def first_objective(loss: str, backbone: Backbone, chips: ChipSet, *, seed: int) -> nn.Module:
    """Return the module whose forward gives the loss of a batch of training chips.

    Args:
        loss: ``cross_entropy`` or ``balanced_softmax``.
        backbone: Model with a trainable adapter.
        chips: Training chips; labels are read for the class prior only.
        seed: Seed of weights that are thrown away after the training.
    """
    prior = None
    if loss == "balanced_softmax":
        prior = torch.from_numpy(np.asarray(log_prior(chips.labels, chips.n_classes), dtype=np.float32))
    return Classify(backbone, chips.n_classes, log_prior=prior, seed=seed)
