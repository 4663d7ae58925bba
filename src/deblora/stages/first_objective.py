"""What the first adapter minimizes, by the name in the recipe: ``lora.loss``."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from deblora.data.chips import ChipSet
from deblora.evaluate.probe import log_prior
from deblora.models.backbone import Backbone
from deblora.train.mae import Reconstruct, WithNoise
from deblora.train.objectives import Classify


def first_objective(loss: str, backbone: Backbone, chips: ChipSet, *, seed: int) -> nn.Module:
    """Return the module whose forward gives the loss of a batch of training chips.

    Args:
        loss: ``cross_entropy``, ``balanced_softmax`` or ``mae``.
        backbone: Model with a trainable adapter.
        chips: Training chips; labels are read for the class prior only.
        seed: Seed of weights that are thrown away after the training.
    """
    if loss == "mae":
        return Reconstruct(backbone, seed=seed)
    prior = None
    if loss == "balanced_softmax":
        prior = torch.from_numpy(np.asarray(log_prior(chips.labels, chips.n_classes), dtype=np.float32))
    return Classify(backbone, chips.n_classes, log_prior=prior, seed=seed)


def first_samples(
    objective: nn.Module, samples: Dataset[dict[str, torch.Tensor]], *, seed: int
) -> Dataset[dict[str, torch.Tensor]]:
    """Return the samples with what the objective takes beside the pixels.

    Args:
        objective: What :func:`first_objective` returned.
        samples: Pixels and labels in a fixed order.
        seed: Seed of random numbers that belong to a sample.
    """
    if isinstance(objective, Reconstruct):
        return WithNoise(samples, n_patches=objective.side**2, seed=seed)
    return samples
