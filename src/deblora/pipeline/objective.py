"""What the first adapter minimizes, by the name in the recipe: ``lora.loss``."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from deblora.data.chips import ChipSet
from deblora.evaluate.heads.linear import log_prior
from deblora.models.backbone import Backbone
from deblora.models.backbones.clip_text import TEMPLATES, check_text, load_text_head
from deblora.pipeline.open_model import text_model
from deblora.recipe.classify import Recipe
from deblora.train.contrast import Contrast
from deblora.train.denoise import Denoise, Numbered
from deblora.train.mae import Reconstruct, WithNoise
from deblora.train.objectives import Classify


def first_objective(
    recipe: Recipe, backbone: Backbone, chips: ChipSet, *, loss: str | None = None
) -> nn.Module:
    """Return the module whose forward gives the loss of a batch of training chips.

    Args:
        recipe: Loss, templates, seed and, for texts, the folder of the model.
        loss: Another one than that of the recipe.
        backbone: Model with a trainable adapter.
        chips: Training chips; labels are read for the class prior, and to leave out classes without a chip.
    """
    loss = loss or recipe.lora.loss
    if loss == "mae":
        return Reconstruct(backbone, seed=recipe.seed)
    if loss == "denoise":
        return Denoise(backbone, seed=recipe.seed)
    if loss == "contrast":
        trained, names = trained_classes(chips)
        head = load_text_head(text_model(recipe.backbone), names, templates_of(recipe))
        return Contrast(backbone, head, n_classes=chips.n_classes, trained=trained)
    prior = None
    if loss == "balanced_softmax":
        prior = torch.from_numpy(np.asarray(log_prior(chips.labels, chips.n_classes), dtype=np.float32))
    return Classify(backbone, chips.n_classes, log_prior=prior, seed=recipe.seed)


def check_loss(recipe: Recipe) -> None:
    """Check, before anything is written, that the model has what the loss needs; nothing is loaded.

    Raises:
        ModelError: If texts are asked for and there is no whole CLIP model.
    """
    if recipe.lora.loss == "contrast":
        check_text(text_model(recipe.backbone))


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
    if isinstance(objective, Denoise):
        return Numbered(samples)
    return samples


def templates_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the sentences around a class name."""
    return tuple(recipe.lora.templates or TEMPLATES)


def trained_classes(chips: ChipSet) -> tuple[list[int], tuple[str, ...]]:
    """Return labels and names of the classes with training chips."""
    trained = sorted({int(label) for label in chips.labels})
    return trained, tuple(chips.class_names[label] for label in trained)
