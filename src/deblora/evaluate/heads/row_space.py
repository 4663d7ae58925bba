"""Fewer dimensions without any loss: linear heads on few samples never leave the span of these samples."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from deblora.evaluate.heads.head import Head


@dataclass(frozen=True)
class RowSpace:
    """Coordinates ``(x Q, ||x - x Q Q^T||)`` with an orthonormal basis ``Q`` of the training rows.

    Norms, and inner products with anything in the span of the training rows, stay what they were. A head whose
    weights lie in that span (every linear head with a ridge penalty or started at zero or at class means, every
    head on class means) therefore gives the same logits; one that treats dimensions one by one does not.
    """

    basis: Float[np.ndarray, "d r"]

    @classmethod
    def fit(cls, x: Float[np.ndarray, "n d"]) -> "RowSpace | None":
        """Return the space of training features; None where it would not have fewer dimensions (``n + 1 >= d``).

        Args:
            x: Training features, not centered.
        """
        if len(x) + 1 >= x.shape[1]:
            return None
        return cls(np.linalg.qr(x.astype(np.float64).T)[0])

    def __call__(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n r+1"]:
        """Return the coordinates of features, in float64."""
        precise = x.astype(np.float64)
        inside = precise @ self.basis
        outside = np.linalg.norm(precise - inside @ self.basis.T, axis=1, keepdims=True)
        return np.hstack([inside, outside])


@dataclass(frozen=True)
class RowSpaceHead:
    """A head that was fitted on the coordinates of a row space and takes features as they were extracted."""

    space: RowSpace
    head: Head

    @property
    def n_features(self) -> int:
        """Size of a feature."""
        return len(self.space.basis)

    def logits(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Return the logits of the coordinates."""
        return self.head.logits(self.space(x))
