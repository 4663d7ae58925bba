"""What a training step sees: chip ``i`` of a fixed, seeded order.

The whole order is decided before training, so a resumed run sees exactly the chips an uninterrupted run would, and
the result does not depend on the number of processes.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.utils.data import Dataset

from deblora.data.chips import Pixels
from deblora.models.backbone import InputSpec
from deblora.train.extract import ReadAhead, n_readers, read_batch, view

MAX_CACHED_BYTES = 1 << 30  # small sets are decoded once, larger ones a batch ahead


class TrainingOrder(Dataset[dict[str, torch.Tensor]]):
    """``n_steps * batch_size`` samples: seeded permutations of the chips, one after the other.

    Args:
        pixels: Chips, without labels.
        values: What the objective needs beside the pixels, one row per chip (labels, target features).
        spec: Input of the model.
        n_samples: Length of the order.
        seed: Seed of permutations and augmentation.
        n_views: One of :data:`~deblora.train.extract.N_VIEWS`; each sample is shown in one of these views, drawn.
    """

    def __init__(
        self,
        pixels: Pixels,
        values: dict[str, torch.Tensor],
        *,
        spec: InputSpec,
        n_samples: int,
        seed: int,
        n_views: int = 1,
    ) -> None:
        self.pixels, self.values, self.spec, self.seed, self.n_views = pixels, values, spec, seed, n_views
        self.order = training_order(len(pixels), n_samples, seed)
        self.reader: ReadAhead[Float[torch.Tensor, "c h w"]] | None = None
        chip_bytes = 4 * len(spec.mean) * spec.image_size**2
        self.cache: dict[int, torch.Tensor] | None = (
            {} if chip_bytes * len(pixels) <= MAX_CACHED_BYTES else None
        )

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self._sample(index, self._image(index))

    def __getitems__(self, indices: list[int]) -> list[dict[str, torch.Tensor]]:
        """Return a batch; torch's loader asks for this one, and the next batch is read meanwhile."""
        if self.cache is not None:
            return [self[index] for index in indices]
        if self.reader is None:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            self.reader = ReadAhead(self._image, len(self), n_threads=n_readers(device))
        images = self.reader.take(indices)
        return [self._sample(index, image) for index, image in zip(indices, images, strict=True)]

    def _sample(self, index: int, image: Float[torch.Tensor, "c h w"]) -> dict[str, torch.Tensor]:
        chip = int(self.order[index])
        if self.n_views > 1:
            image = view(image, int(np.random.default_rng([self.seed, index]).integers(self.n_views)))
        return {"pixels": image, **{name: rows[chip] for name, rows in self.values.items()}}

    def _image(self, index: int) -> Float[torch.Tensor, "c h w"]:
        chip = int(self.order[index])
        if self.cache is None:
            return read_batch(self.pixels, [chip], self.spec)[0]
        if chip not in self.cache:
            self.cache[chip] = read_batch(self.pixels, [chip], self.spec)[0]
        return self.cache[chip]


def training_order(n_chips: int, n_samples: int, seed: int) -> Int[np.ndarray, " m"]:
    """Return ``n_samples`` chip indices: whole seeded permutations, the last one cut."""
    rng = np.random.default_rng(seed)
    n_passes = -(-n_samples // n_chips)
    return np.concatenate([rng.permutation(n_chips) for _ in range(n_passes)])[:n_samples]


class FeatureOrder(Dataset[dict[str, torch.Tensor]]):
    """The same fixed order over features instead of images, for the map in feature space."""

    def __init__(
        self,
        features: Float[torch.Tensor, "n d"],
        values: dict[str, torch.Tensor],
        *,
        n_samples: int,
        seed: int,
    ) -> None:
        self.features, self.values = features, values
        self.order = training_order(len(features), n_samples, seed)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = int(self.order[index])
        return {"pixels": self.features[row], **{name: rows[row] for name, rows in self.values.items()}}
