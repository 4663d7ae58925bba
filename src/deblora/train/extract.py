"""Features of chips through a frozen model. No parameter of this module can carry a label to the model."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional
from tqdm import tqdm

from deblora.data.chips import Pixels
from deblora.data.pixels import to_batch
from deblora.errors import DataError, ModelError
from deblora.models.backbone import Backbone, InputSpec, UnitFeatures
from deblora.progress import no_bar, titled

N_VIEWS = (1, 2, 4, 8)
"""As it is; with its left-right mirror image; four flips; four flips and their quarter turns. Each is a group, so the
mean over it is the same for a chip and for its flipped copy."""

MOST_READERS = 8
READER_NICENESS = 5
"""Ours: a third of a core's share beside a model that computes there, and no starving beside other programs."""

T = TypeVar("T")


def n_readers(device: torch.device) -> int:
    """Return how many threads read: one beside a model on the CPU, which needs the cores, else up to eight (ours)."""
    return 1 if device.type == "cpu" else max(1, min(MOST_READERS, (os.cpu_count() or 2) - 1))


class ReadAhead(Generic[T]):
    """Items that are mostly taken in equal steps; those of the next step are read before they are asked for.

    At most the items of two calls are held. An item that was not foreseen is read when it is taken.

    Args:
        read: Called with the number of an item, from several threads at once.
        n_items: Their number.
        n_threads: Threads that read.
    """

    def __init__(self, read: Callable[[int], T], n_items: int, *, n_threads: int) -> None:
        self._read, self._n_items = read, n_items
        self._threads = ThreadPoolExecutor(n_threads, "read", initializer=_yield_cores_to_the_model)
        self._coming: dict[int, Future[T]] = {}
        self._last: int | None = None

    def __enter__(self) -> "ReadAhead[T]":
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the threads."""
        self.close()

    def close(self) -> None:
        """Drop what nobody asked for, and wait for the threads."""
        self._threads.shutdown(cancel_futures=True)

    def take(self, wanted: Sequence[int]) -> list[T]:
        """Return the wanted items; the next call is expected to want those as far ahead as these are of the last."""
        foreseen = [self._coming.pop(i) if i in self._coming else None for i in wanted]
        futures = [
            future or self._threads.submit(self._read, i) for i, future in zip(wanted, foreseen, strict=True)
        ]
        step = len(wanted) if self._last is None else wanted[0] - self._last
        self._last = wanted[0]
        for unwanted in self._coming.values():
            unwanted.cancel()
        following = [i + step for i in wanted if 0 <= i + step < self._n_items]
        self._coming = {i: self._threads.submit(self._read, i) for i in following}
        return [future.result() for future in futures]


def _yield_cores_to_the_model() -> None:
    """Let this thread run mostly where a core has nothing else to do.

    A model that computes on all cores waits for its slowest thread, so a core taken from one delays all of them.
    """
    if sys.platform == "linux":  # elsewhere priorities belong to processes
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), READER_NICENESS)


def read_batch(pixels: Pixels, indices: Sequence[int], spec: InputSpec) -> Float[torch.Tensor, "b c h w"]:
    """Decode, resize and normalize some chips as the model was trained to see them."""
    arrays = [pixels.read(i) for i in indices]
    return to_batch(arrays, image_size=spec.image_size, mean=spec.mean, std=spec.std, scale=spec.scale)


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a precision that the device computes slower than float32, or not at all.

    Raises:
        ModelError: For ``fp16`` without a GPU: about 1 GFLOP/s was measured there, a hundredth of float32.
    """
    if precision == "fp16" and device.type == "cpu":
        raise ModelError(
            "extraction in fp16 needs a GPU and none is found (a CPU computes it a hundred times slower than float32); "
            "set its precision to 'no'"
        )


def view(pixels: Float[torch.Tensor, "*b h w"], number: int) -> Float[torch.Tensor, "*b h w"]:
    """Return one of eight views of square chips: bit 0 mirrors left and right, bit 1 top and bottom, bit 2 transposes.

    Raises:
        ValueError: If the number is not in 0 to 7.
    """
    if not 0 <= number < N_VIEWS[-1]:
        raise ValueError(f"views are numbered 0 to 7, got {number}")
    turned = pixels.transpose(-1, -2) if number & 4 else pixels
    axes = [axis for bit, axis in ((1, -1), (2, -2)) if number & bit]
    return torch.flip(turned, axes) if axes else turned


def mean_over_views(
    backbone: Backbone, pixels: Float[torch.Tensor, "b c h w"], n_views: int
) -> Float[torch.Tensor, "b d"]:
    """Return the mean feature over the first views of each chip, of length 1 where the model's features are.

    An image from above has no upright side, so its flipped and turned copies are as likely as itself. On AID and MSTAR
    the mean feature over four flips brought 3 to 6 points of macro F1 (docs/log.md), beside which one view is noisy.

    Args:
        backbone: In evaluation mode.
        pixels: Normalized chips.
        n_views: One of :data:`N_VIEWS`; the cost is that many forward passes.
    """
    total = backbone(view(pixels, 0)).float()
    for number in range(1, n_views):
        total = total + backbone(view(pixels, number)).float()
    mean = total / n_views
    return (
        functional.normalize(mean, dim=1)
        if isinstance(backbone.pooled, UnitFeatures) and n_views > 1
        else mean
    )


def extract_features(
    backbone: Backbone,
    pixels: Pixels,
    ids: tuple[str, ...],
    *,
    batch_size: int = 64,
    n_views: int = 1,
    precision: str = "no",
    title: str | None = "extract",
) -> Float[np.ndarray, "n d"]:
    """Return one pooled feature per chip, in evaluation mode: of the chip as it is, or the mean over fixed views of it.

    The next batch is decoded while the model works on the current one, by several threads where that is a GPU.

    Args:
        backbone: Frozen model, with any adapters already loaded; it is run on the device that it is on.
        pixels: Chips without labels.
        ids: Stable id of each chip, for messages; never shown to the model.
        batch_size: Chips per forward pass; does not change the features beyond float rounding.
        n_views: One of :data:`N_VIEWS`: views whose features are averaged.
        precision: ``no`` (float32), ``bf16`` or ``fp16`` for matrix products and convolutions; weights and features
            stay float32.
        title: Name on the progress bar; ``None`` shows none.

    Returns:
        One row per chip, in the order of ``ids``; float32.

    Raises:
        DataError: If a chip cannot be read or a feature is not finite.
        ModelError: If the device lacks the precision.
        ValueError: If there are no such views.
    """
    if n_views not in N_VIEWS:
        raise ValueError(f"n_views must be one of {N_VIEWS}, got {n_views}")
    backbone.eval()
    device = next(backbone.parameters()).device
    check_precision(precision, device)
    features = np.empty((len(ids), backbone.feature_size), dtype=np.float32)
    hidden, done = title is None or len(ids) < 200, 0
    with (
        torch.inference_mode(),
        _products_in(precision, device),
        tqdm(total=len(ids), desc=titled(title or ""), unit="chip", disable=no_bar(short=hidden)) as bar,
    ):
        for batch in _batches(pixels, len(ids), batch_size, backbone.spec, n_readers(device)):
            mean = mean_over_views(backbone, batch.to(device), n_views)
            features[done : done + len(batch)] = mean.cpu().numpy()
            done += len(batch)
            bar.update(len(batch))
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise DataError(
            f"{len(bad)} chips give features that are not finite, first: {ids[bad[0]]}; check its "
            "pixels and the weights, and train with a lower learning rate"
        )
    return features


def _products_in(precision: str, device: torch.device) -> AbstractContextManager[object]:
    if precision == "no":
        return nullcontext()
    return torch.autocast(device.type, {"bf16": torch.bfloat16, "fp16": torch.float16}[precision])


def _batches(
    pixels: Pixels, n_chips: int, batch_size: int, spec: InputSpec, n_threads: int
) -> Iterator[Float[torch.Tensor, "b c h w"]]:
    """Yield the chips in order; each thread reads a part of a batch."""
    part = -(-batch_size // n_threads)
    batches = [range(start, min(start + batch_size, n_chips)) for start in range(0, n_chips, batch_size)]
    parts = [batch[k : k + part] for batch in batches for k in range(0, len(batch), part)]
    first = 0
    with ReadAhead(lambda i: read_batch(pixels, parts[i], spec), len(parts), n_threads=n_threads) as reader:
        for batch in batches:
            n_parts = -(-len(batch) // part)
            read = reader.take(range(first, first + n_parts))
            first += n_parts
            yield read[0] if n_parts == 1 else torch.cat(read)
