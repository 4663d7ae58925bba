"""From chips of any size to the batch that a backbone expects, and the statistics of the bands."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional

from deblora.data.chips import Pixels
from deblora.errors import DataError


def to_batch(
    arrays: Sequence[np.ndarray],
    *,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    scale: float,
) -> Float[torch.Tensor, "b c h w"]:
    """Resize, scale and standardize chips: ``(x / scale - mean) / std``.

    The resize is bilinear with antialiasing to ``image_size`` squared, whatever the aspect ratio. A chip with
    one band is repeated to ``len(mean)`` bands.

    Args:
        arrays: Chips ``h w b`` (or ``h w``) of any numeric type; sizes may differ.
        image_size: Side of the result in pixels, >= 1.
        mean: Mean per band, in units of ``scale``.
        std: Standard deviation per band, in units of ``scale``, > 0.
        scale: What counts as 1, > 0 (255 for 8-bit pictures).

    Returns:
        float32 batch.

    Raises:
        DataError: If a chip has neither one band nor ``len(mean)`` bands.
        ValueError: If an argument is out of range.
    """
    _check_arguments(image_size, mean, std, scale)
    if not len(arrays):
        return torch.zeros((0, len(mean), image_size, image_size))
    batch = torch.empty((len(arrays), len(mean), image_size, image_size))
    for i, array in enumerate(arrays):
        batch[i] = _resized(array, i, image_size, len(mean))[0]
    center = torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1)
    spread = torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1)
    return batch.div_(scale).sub_(center).div_(spread)  # in place: this runs beside the model


def _check_arguments(image_size: int, mean: Sequence[float], std: Sequence[float], scale: float) -> None:
    """Refuse what no batch can be made with."""
    for is_fine, fault in (
        (image_size >= 1, f"image_size must be at least 1, got {image_size}"),
        (0 < len(mean) == len(std), f"mean and std need one value per band, got {len(mean)} and {len(std)}"),
        (all(map(math.isfinite, mean)), f"mean must be finite, got {tuple(mean)}"),
        (all(0 < value < math.inf for value in std), f"std must be positive, got {tuple(std)}"),
        (0 < scale < math.inf, f"scale must be positive, got {scale}"),
    ):
        if not is_fine:
            raise ValueError(fault)


def _resized(array: np.ndarray, position: int, size: int, n_bands: int) -> Float[torch.Tensor, "1 c h w"]:
    """Return one chip as float32 with ``n_bands`` bands, resized but not yet scaled."""
    chip = array[:, :, None] if array.ndim == 2 else array
    if chip.ndim != 3 or chip.shape[2] not in (1, n_bands):
        raise DataError(
            f"chip {position} of the batch has shape {array.shape}; the backbone takes {n_bands} (or one "
            "gray band, repeated): choose another backbone or sensor, or convert the chips"
        )
    image = torch.from_numpy(np.array(chip.transpose(2, 0, 1), dtype=np.float32, order="C"))[None]
    if image.shape[2:] != (size, size):
        image = functional.interpolate(
            image, size=(size, size), mode="bilinear", antialias=True, align_corners=False
        )
    return image.expand(1, n_bands, size, size)


def band_statistics(pixels: Pixels, *, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per band of ``x / scale`` over all pixels of all chips.

    Counts, means and sums of squared deviations are merged chip by chip in float64 (Chan et al., 1979), so
    nothing is kept in memory. Every pixel weighs the same: large chips count more. Compute them on the
    training split.

    Args:
        pixels: The chips, at least one.
        scale: What counts as 1, > 0.

    Returns:
        Means and (population) standard deviations; a constant band gets 1 so that it standardizes to 0.

    Raises:
        DataError: If there is no chip or the chips differ in their number of bands.
        ValueError: If ``scale`` is not positive.
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be positive, got {scale}")
    if not len(pixels):
        raise DataError("no chips to compute band statistics from; check the training split")
    count, mean, squares = 0, np.zeros(0), np.zeros(0)
    for index in range(len(pixels)):
        chip = pixels.read(index)
        values = chip.reshape(-1, chip.shape[2]).astype(np.float64) / scale
        if index == 0:
            mean, squares = np.zeros(values.shape[1]), np.zeros(values.shape[1])
        if values.shape[1] != len(mean):
            raise DataError(
                f"chip {index} has {values.shape[1]} bands, the chips before it {len(mean)}; make them equal"
            )
        step = values.mean(axis=0) - mean
        total = count + len(values)
        squares += ((values - values.mean(axis=0)) ** 2).sum(axis=0) + step**2 * (count * len(values) / total)
        mean += step * (len(values) / total)
        count = total
    std = np.sqrt(squares / count)
    constant = std <= 1e-12 * np.maximum(np.abs(mean), 1.0)
    return tuple(mean.tolist()), tuple(np.where(constant, 1.0, std).tolist())
