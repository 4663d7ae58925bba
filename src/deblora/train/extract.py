"""Features of chips through a frozen model. No parameter of this module can carry a label to the model."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from deblora.data.chips import Pixels
from deblora.data.pixels import to_batch
from deblora.errors import DataError, ModelError
from deblora.models.backbone import Backbone, InputSpec
from deblora.progress import titled
from deblora.run.artifacts import FeatureTable
from deblora.train.read_ahead import ReadAhead, n_readers


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


def extract_features(
    backbone: Backbone,
    pixels: Pixels,
    ids: tuple[str, ...],
    *,
    batch_size: int = 64,
    precision: str = "no",
    title: str | None = "extract",
) -> FeatureTable:
    """Return one pooled feature per chip, in evaluation mode and without augmentation.

    The next batch is decoded while the model works on the current one, by several threads where that is a GPU.

    Args:
        backbone: Frozen model, with any adapters already loaded; it is run on the device that it is on.
        pixels: Chips without labels.
        ids: Stable id of each chip; carried along, never shown to the model.
        batch_size: Chips per forward pass; does not change the features beyond float rounding.
        precision: ``no`` (float32), ``bf16`` or ``fp16`` for matrix products and convolutions; weights and features
            stay float32.
        title: Name on the progress bar; ``None`` shows none.

    Returns:
        The feature table, one row per id.

    Raises:
        DataError: If a chip cannot be read or a feature is not finite.
        ModelError: If the device lacks the precision.
    """
    backbone.eval()
    device = next(backbone.parameters()).device
    check_precision(precision, device)
    features = np.empty((len(ids), backbone.feature_size), dtype=np.float32)
    hidden, done = title is None or len(ids) < 200, 0
    with (
        torch.inference_mode(),
        _products_in(precision, device),
        tqdm(total=len(ids), desc=titled(title or ""), unit="chip", disable=hidden) as bar,
    ):
        for batch in _batches(pixels, len(ids), batch_size, backbone.spec, n_readers(device)):
            features[done : done + len(batch)] = backbone(batch.to(device)).float().cpu().numpy()
            done += len(batch)
            bar.update(len(batch))
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise DataError(
            f"{len(bad)} chips give features that are not finite, first: {ids[bad[0]]}; check its "
            "pixels and the weights, and train with a lower learning rate"
        )
    return FeatureTable(ids, features)


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
