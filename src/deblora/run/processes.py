"""The processes of one run, as ``torchrun`` or ``accelerate launch`` start them: who writes, who waits, who logs.

All processes run the same program. The first one owns the run folder, decides what is to be done and prints; the
others take part where a stage is shared and wait elsewhere. Without a launcher there is one process, and every
function here is trivial.
"""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from jaxtyping import Float

from deblora.errors import LauncherError
from deblora.progress import name_bars, titled
from deblora.run.run_dir import RunDir

if TYPE_CHECKING:
    import torch

Anything = TypeVar("Anything")

# Ours: others wait while the first one clusters or probes, which may take days. A process that ends is noticed
# at once, by its closed connection or by the launcher.
PATIENCE = timedelta(days=30)
_FAILED = "deblora/failed"


def join(environment: Mapping[str, str] = os.environ) -> None:
    """Join the other processes that the launcher has started; does nothing without a launcher.

    Raises:
        LauncherError: If a launcher was asked for several processes but started one, or started them without
            telling them of each other.
    """
    check_launch(environment)
    if int(environment.get("WORLD_SIZE", "1")) < 2:
        return
    import torch
    from torch import distributed

    if distributed.is_initialized():
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu and _local_rank() >= torch.cuda.device_count():
        raise LauncherError(
            f"process {_local_rank()} of this machine has no GPU of its own, there are {torch.cuda.device_count()}; "
            "start fewer processes, or hide the GPUs (CUDA_VISIBLE_DEVICES=) to run on CPUs"
        )
    if on_gpu:
        torch.cuda.set_device(_local_rank())
    try:
        # Tensors in memory travel by gloo also beside GPUs: features and decisions never lie on one.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise LauncherError(
            f"the processes of this run cannot reach each other ({str(error)[:200]}); start them with torchrun"
        ) from error


def check_launch(environment: Mapping[str, str]) -> None:
    """Refuse a launch that looks like several processes and is not.

    ``accelerate launch`` without ``--multi_gpu`` starts one process whatever ``--num_processes`` says, but leaves
    the address of a group behind; programs of MPI start several that do not know of each other.

    Raises:
        LauncherError: What happened and which command does it.
    """
    if "WORLD_SIZE" in environment:
        return
    advice = "use torchrun --nproc-per-node N -m deblora ..., or accelerate launch --multi_gpu on GPUs"
    if "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment:
        raise LauncherError(
            f"accelerate launch was asked for several processes but started one (it does so on CPUs); {advice}"
        )
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        if environment.get(name, "1") != "1":
            raise LauncherError(
                f"{environment[name]} processes were started by MPI, each of which would run alone; {advice}"
            )


def leave() -> None:
    """Close the connections to the other processes after a run without error."""
    if world_size() > 1:
        from torch import distributed

        distributed.barrier()  # a process that leaves while another still works can be aborted
        distributed.destroy_process_group()


def world_size() -> int:
    """Return the number of processes that run together."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return 1  # without an import of torch
    from torch import distributed

    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    if world_size() == 1:
        return 0
    from torch import distributed

    return distributed.get_rank()


def is_first() -> bool:
    """Tell whether this process writes and prints."""
    return rank() == 0


def device() -> "torch.device":
    """Return the device of this process: its own GPU where there is one."""
    import torch

    return torch.device("cuda", _local_rank()) if torch.cuda.is_available() else torch.device("cpu")


def on_first(work: Callable[[], Anything]) -> Anything:
    """Do something in the first process only, and return its result in every process.

    If it fails, the other processes end with the first one.
    """
    if world_size() == 1:
        return work()
    import torch
    from torch import distributed

    result = [work() if is_first() else None]
    distributed.broadcast_object_list(result, src=0, device=torch.device("cpu"))
    return result[0]  # type: ignore[return-value]


def shares(n_rows: int, n_shares: int, *, batch_size: int) -> list[range]:
    """Split rows into contiguous ranges, one per process, as even as whole batches allow.

    Borders lie between batches, so that every batch holds what it would hold in a single process.

    Args:
        n_rows: Rows in all.
        n_shares: Number of ranges, >= 1; some are empty if there are fewer batches.
        batch_size: Rows per batch, >= 1.
    """
    n_batches = -(-n_rows // batch_size)
    borders = [min(n_rows, batch_size * (n_batches * i // n_shares)) for i in range(n_shares + 1)]
    return [range(first, stop) for first, stop in pairwise(borders)]


def gather_rows(own: Float[np.ndarray, "m d"], ranges: Sequence[range]) -> Float[np.ndarray, "n d"] | None:
    """Bring the rows of all processes together in the first one, in their order.

    Args:
        own: float32 rows of this process, as many as its range.
        ranges: Which rows each process has, by rank.

    Returns:
        All rows in the first process, ``None`` in the others.
    """
    if world_size() == 1:
        return own
    import torch
    from torch import distributed

    if not is_first():
        if len(own):
            distributed.send(torch.from_numpy(np.ascontiguousarray(own)), dst=0)
        return None
    rows = np.empty((ranges[-1].stop, own.shape[1]), dtype=np.float32)
    rows[ranges[0].start : ranges[0].stop] = own
    for source, part in enumerate(ranges[1:], start=1):
        if len(part):
            distributed.recv(torch.from_numpy(rows[part.start : part.stop]), src=source)
    return rows


def speaks_of_failure() -> bool:
    """Tell whether this process is the first to fail, and so the one that says why."""
    if world_size() == 1:
        return True
    from torch import distributed

    try:
        # No public name leads to the store of the group.
        store = distributed.distributed_c10d._get_default_store()
        me = str(rank())
        return bool(store.compare_set(_FAILED, "", me).decode() == me)
    except RuntimeError:  # the store has gone with the process that kept it, which has spoken
        return False


def is_lost_connection(error: BaseException) -> bool:
    """Tell whether an error only says that another process has ended."""
    if world_size() == 1 or not isinstance(error, RuntimeError):
        return False
    from torch import distributed

    text = str(error).lower()
    return isinstance(error, distributed.DistError) or any(
        word in text for word in ("gloo", "connection", "nccl", "peer")
    )


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def start_log(run: RunDir, *, name: str = "") -> None:
    """Log to the terminal and to the run folder, from the first process.

    Where progress bars are turned off (TQDM_DISABLE), the terminal shows warnings and errors only.

    Args:
        run: Where.
        name: What lines and bars on the terminal begin with, where it shows several runs.
    """
    name_bars(name)
    log = logging.getLogger("deblora")
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    if not is_first():
        log.setLevel(logging.CRITICAL + 1)
        return
    log.setLevel(logging.INFO)
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(logging.WARNING if os.environ.get("TQDM_DISABLE") else logging.INFO)
    for handler, line in (
        (logging.FileHandler(run.log, encoding="utf-8"), "%(asctime)s %(levelname)s %(message)s"),
        (terminal, titled("").replace("%", "%%") + "%(message)s"),
    ):
        handler.setFormatter(logging.Formatter(line))
        log.addHandler(handler)
    if world_size() > 1:
        log.info("%d processes share training and extraction, on %s", world_size(), device().type)
