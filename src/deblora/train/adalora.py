"""What AdaLoRA needs beyond a loss: the penalty on its factors, and the step at which ranks fall (arXiv 2303.10512)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

ORTHOGONALITY = 0.5
"""Weight of the penalty (peft's default; the paper tries .1 to .5)."""


class Orthogonal(nn.Module):
    """An objective plus ``weight * mean(||P' P - I||_F + ||Q Q' - I||_F)`` over the factors of AdaLoRA.

    Args:
        objective: Returns ``{"loss": scalar}``; holds the adapted model.
        weight: Of the penalty, >= 0.
    """

    accepts_loss_kwargs = False  # else Trainer adds arguments of its own to a forward that takes any

    def __init__(self, objective: nn.Module, *, weight: float = ORTHOGONALITY) -> None:
        super().__init__()
        self.objective, self.weight = objective, weight

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the penalized loss of a batch."""
        loss = self.objective(**batch)["loss"]
        return {"loss": loss + self.weight * orthogonality(self.objective)}


def orthogonality(module: nn.Module) -> torch.Tensor:
    """Return the mean distance of AdaLoRA's factors from orthonormal ones, 0 where there are none."""
    found = []
    for name, factor in module.named_parameters():
        if not factor.requires_grad or not (".lora_A." in name or ".lora_B." in name):
            continue
        gram = factor @ factor.T if ".lora_A." in name else factor.T @ factor
        found.append(torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device)))
    return torch.stack(found).mean() if found else torch.zeros(())


def rank_schedule(encoder: Any) -> Callable[[int], None] | None:
    """Return what lowers the ranks after optimizer step ``i`` (from 1 on), or ``None`` without AdaLoRA.

    It reads the gradients of the step, so it has to be called before they are set to zero.
    """
    update = getattr(getattr(encoder, "base_model", None), "update_and_allocate", None)
    return None if update is None else lambda step: update(step)
