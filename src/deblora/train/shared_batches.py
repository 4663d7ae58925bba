"""Batches that several processes share: which samples each one sees, and how their losses become one."""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import distributed
from torch.utils.data import Sampler


class SharedBatches(Sampler[list[int]]):
    """The part of each batch that one process sees; together the processes see the batches of a single one.

    Batch ``s`` holds the samples ``s B ... s B + B - 1``; process ``r`` of ``R`` sees those from ``floor(B r / R)`` to
    ``floor(B (r + 1) / R)`` of them. The number of processes need not divide ``B``.

    Args:
        n_samples: Samples in all, a multiple of ``batch_size``.
        batch_size: ``B``, at least ``n_processes``.
        rank: ``r``, from 0.
        n_processes: ``R``.
    """

    def __init__(self, n_samples: int, batch_size: int, *, rank: int, n_processes: int) -> None:
        if batch_size < n_processes or n_samples % batch_size:
            raise ValueError(
                f"{n_samples} samples in batches of {batch_size} cannot be shared by {n_processes} processes"
            )
        self.n_samples, self.batch_size = n_samples, batch_size
        self.first = batch_size * rank // n_processes
        self.stop = batch_size * (rank + 1) // n_processes

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.n_samples // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        """Return the positions of each batch that this process sees."""
        for start in range(0, self.n_samples, self.batch_size):
            yield list(range(start + self.first, start + self.stop))


def loss_of_whole_batch(
    outputs: Mapping[str, torch.Tensor], n_samples: int, n_processes: int
) -> Float[torch.Tensor, ""]:
    """Return the loss of this process, scaled so that the mean over processes is the loss of the whole batch.

    With means ``l_r`` of total weight ``w_r`` the whole batch has ``sum_r w_r l_r / sum_r w_r``, and its gradient is
    the mean of the processes' gradients if each minimizes ``R w_r / (sum_q w_q) l_r``.

    Args:
        outputs: ``loss``, and ``weight`` where the loss is a weighted mean.
        n_samples: Samples of this process, the weight of a plain mean.
        n_processes: ``R``.
    """
    loss = outputs["loss"]
    weight = torch.as_tensor(outputs.get("weight", float(n_samples)), dtype=torch.float32, device=loss.device)
    weight = weight.detach().clone()
    total = weight.clone()
    distributed.all_reduce(total)
    scaled: Float[torch.Tensor, ""] = loss * (n_processes * weight / total)
    return scaled
