"""The linear probe of the authors' code, for comparison: stochastic gradient descent on raw features."""

import numpy as np
from jaxtyping import Float, Int

from deblora.errors import DataError
from deblora.evaluate.classifiers.classifier import Standardizer
from deblora.evaluate.classifiers.linear import Linear
from deblora.evaluate.metrics import macro_f1

N_EPOCHS = 30
"""Passes over the training features (authors' code)."""


def fit_sgd_probe(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    x_val: Float[np.ndarray, "v d"],
    y_val: Int[np.ndarray, " v"],
    n_classes: int,
    *,
    learning_rate: float = 1e-3,
    momentum: float = 0.9,
    batch_size: int = 512,
    n_epochs: int = N_EPOCHS,
    seed: int = 42,
) -> tuple[Linear, dict[str, float]]:
    """Train one linear layer by SGD and keep the epoch with the best validation macro F1; the first wins ties.

    All defaults are those of the authors' code, whose validation set was its test set; ours is not.

    Args:
        x: Training features, taken as they are.
        y: Their classes.
        x_val: Validation features.
        y_val: Their classes.
        n_classes: Number of classes.
        learning_rate: Constant step size, > 0.
        momentum: In [0, 1).
        batch_size: Samples per step, >= 1.
        n_epochs: Passes over the training features, >= 1.
        seed: Of the initial weights and of the order.

    Returns:
        The probe, and a record: the chosen ``epoch`` (from 1) and its ``macro_f1``.

    Raises:
        DataError: If features are not finite or there is no validation sample.
    """
    import torch
    from torch.nn import functional

    if not np.isfinite(x).all():
        raise DataError("the training features hold values that are not finite; extract them again")
    if not len(y_val):
        raise DataError("the validation set is empty, so no epoch can be chosen; give it at least one chip")
    generator = torch.Generator().manual_seed(seed)
    features, labels = torch.from_numpy(np.asarray(x, dtype=np.float32)), torch.from_numpy(y.astype(np.int64))
    bound = 1.0 / float(np.sqrt(x.shape[1]))  # torch's own start of a linear layer
    weights = (torch.rand(n_classes, x.shape[1], generator=generator) * 2 - 1) * bound
    bias = (torch.rand(n_classes, generator=generator) * 2 - 1) * bound
    parameters = [weights.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum)
    as_given = Standardizer(np.zeros(x.shape[1]), np.ones(x.shape[1]), (), 1.0)
    best, record = None, {"epoch": 0.0, "macro_f1": -1.0}
    for epoch in range(1, n_epochs + 1):
        for rows in torch.split(torch.randperm(len(labels), generator=generator), batch_size):
            optimizer.zero_grad()
            scores = functional.linear(features[rows], weights, bias)
            torch.autograd.backward(functional.cross_entropy(scores, labels[rows]))
            optimizer.step()
        probe = Linear(
            as_given, weights.detach().double().numpy().T.copy(), bias.detach().double().numpy().copy()
        )
        score = macro_f1(y_val, probe.logits(x_val).argmax(axis=1), n_classes)
        if best is None or score > record["macro_f1"]:
            best, record = probe, {"epoch": float(epoch), "macro_f1": score}
    if best is None:
        raise ValueError(f"n_epochs must be at least 1, got {n_epochs}")
    return best, record
