"""ResLT: three linear branches, for all classes, middle and tail classes, and tail classes, that are added up."""

import numpy as np
from jaxtyping import Float, Int

from deblora.data.longtail import Groups
from deblora.evaluate.classifiers.classifier import Standardizer, checked_counts
from deblora.evaluate.classifiers.linear import Linear, check_penalty, lbfgs, weighted_cross_entropy

BETA = 0.5
"""Weight of the branch loss (ours; the authors' code has no default)."""

N_BRANCHES = 3


def fit_reslt(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    groups: Groups,
    l2: float,
    beta: float = BETA,
) -> Linear:
    """Fit the three branches together (Cui et al., arXiv 2101.10633), and return their sum.

    Args:
        x: Training features.
        y: Their classes.
        n_classes: Number of classes.
        groups: Branch M sees middle and tail, branch T the tail.
        l2: Penalty, > 0. With ``beta = 0`` the sum is the plain classifier with penalty ``l2 / 3``.
        beta: In [0, 1); at 1 nothing would hold the branches' biases of classes they do not see.

    Raises:
        DataError: If a class has no sample, or features are not finite or all the same.
        ValueError: If shapes, labels or groups do not fit, or a setting is out of range.
    """
    checked_counts(x, y, n_classes)
    standardizer = Standardizer.fit(x)
    branches = fit_branches(standardizer(x), y, n_classes, groups=groups, l2=l2, beta=beta)
    total = branches.sum(axis=0)
    return Linear(standardizer, total[:-1].copy(), total[-1].copy())


def fit_branches(
    z: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    groups: Groups,
    l2: float,
    beta: float = BETA,
    max_iter: int = 500,
) -> Float[np.ndarray, "3 e c"]:
    """Return weights of the branches H, M and T, each with its bias in the last row, as one convex problem.

    With ``CE_b`` summed over the samples of the classes of branch ``b`` and ``m_b`` their number::

        (1 - beta) mean CE(s_H + s_M + s_T, y) + beta (CE_H + CE_M + CE_T) / (m_H + m_M + m_T)
            + l2 / 2 (||W_H||^2 + ||W_M||^2 + ||W_T||^2)

    The penalty and L-BFGS are ours: the paper trains branches and backbone together by SGD.

    Args:
        z: Standardized training features.
        y: Their classes.
        n_classes: Number of classes.
        groups: As in :func:`fit_reslt`.
        l2: Likewise.
        beta: Likewise.
        max_iter: Iterations of L-BFGS (ours).

    Raises:
        ValueError: If groups do not fit the classes, or a setting is out of range.
    """
    check_penalty(l2)
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), got {beta}")
    weights = branch_weights(y, n_classes, groups)
    uniform = np.full(len(y), 1.0 / len(y))
    shape = (N_BRANCHES, z.shape[1] + 1, n_classes)

    def objective(flat: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
        parameters = flat.reshape(shape)
        scores = z @ parameters[:, :-1] + parameters[:, -1:]
        fused, fused_gradient = weighted_cross_entropy(scores.sum(axis=0), y, uniform)
        value = (1 - beta) * fused + 0.5 * l2 * float(np.sum(parameters[:, :-1] ** 2))
        slope = np.empty(shape)
        for branch in range(N_BRANCHES):
            own, own_gradient = weighted_cross_entropy(scores[branch], y, weights[branch])
            value += beta * own
            gradient = (1 - beta) * fused_gradient + beta * own_gradient
            slope[branch, :-1] = z.T @ gradient + l2 * parameters[branch, :-1]
            slope[branch, -1] = gradient.sum(axis=0)
        return value, slope.ravel()

    return lbfgs(objective, np.zeros(int(np.prod(shape))), max_iter=max_iter, name="ResLT").reshape(shape)


def branch_weights(y: Int[np.ndarray, " n"], n_classes: int, groups: Groups) -> Float[np.ndarray, "3 n"]:
    """Return ``1[y_i in branch b] / (m_H + m_M + m_T)`` per branch and sample; all entries sum to 1.

    Raises:
        ValueError: If the groups do not hold every class once.
    """
    if sorted(groups.head + groups.middle + groups.tail) != list(range(n_classes)):
        raise ValueError(f"the groups must hold each of {n_classes} classes once, got {groups}")
    members = np.array(
        [
            np.ones(len(y), dtype=bool),
            np.isin(y, groups.middle + groups.tail),
            np.isin(y, groups.tail),
        ]
    )
    return np.asarray(members / members.sum())
