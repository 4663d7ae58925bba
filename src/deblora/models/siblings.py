"""Adapters that were trained on the same frozen model independently of each other, side by side in one peft model."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import nn

from deblora.models.adapter_files import WEIGHTS, read_folder
from deblora.models.backbone import Backbone
from deblora.models.lora import load_adapter
from deblora.models.shared_prefix import shared_prefix

MOST_TOGETHER = 64
"""Adapters in one model (ours): more save little, and the modules that peft adds for each make it slow to load."""

MOST_BYTES = 2**29
"""Bytes of the weight files of one model's adapters (ours)."""


def sibling_groups(folders: Iterable[Path]) -> list[list[Path]]:
    """Divide adapters into runs of neighbors that one model can hold at a time.

    PiSSA stays alone, because loading it changes the weights it is loaded onto. Adapters of VeRA share matrices, which
    follow from rank and key. Whatever differs in its kind or in the normalization of its input is kept apart, too.

    Raises:
        ModelError: If a folder holds no adapter.
    """
    groups: list[list[Path]] = []
    last, n_bytes = None, 0
    for folder in folders:
        config, record = read_folder(folder)
        shared = [config.get(name) for name in ("peft_type", "r", "projection_prng_key", "save_projection")]
        key = json.dumps([*shared, *(record.get(name) for name in ("normalize", "mean", "std"))])
        size = (folder / WEIGHTS).stat().st_size if (folder / WEIGHTS).is_file() else 0
        alone = str(config.get("init_lora_weights")).startswith("pissa")
        full = bool(groups) and (len(groups[-1]) >= MOST_TOGETHER or n_bytes + size > MOST_BYTES)
        if alone or full or key != last:
            groups.append([])
            n_bytes = 0
        groups[-1].append(folder)
        last, n_bytes = (None if alone else key), n_bytes + size
    return groups


def load_siblings(backbone: Backbone, folders: Sequence[Path]) -> tuple[str, ...]:
    """Load adapters of one group of :func:`sibling_groups`, of which the last one is active.

    Returns:
        Their names inside the peft model.

    Raises:
        ModelError: As :func:`~deblora.models.lora.load_adapter`.
    """
    names: list[str] = []
    for i, folder in enumerate(folders):
        # peft looks for names inside of others, so all are equally long and no part of a layer's name
        name = f"sibling{i:04d}"
        load_adapter(backbone, folder, adapter_name=name, instead_of=names)
        names.append(name)
    return tuple(names)


def mean_over_siblings(backbone: Backbone, names: Sequence[str]) -> Backbone:
    """Return a model whose feature is the mean of those through each adapter: ``f = sum_a f_a / n``, in float64.

    What lies before the first adapted layer is computed once per batch. The model is for extraction only: it gives no
    gradients, and evaluation mode is required.

    Args:
        backbone: Holds the adapters; shared with the result.
        names: Those that are averaged.
    """
    mean = Backbone(
        backbone.encoder,
        MeanOverSiblings(backbone.pooled, tuple(names)),
        spec=backbone.spec,
        feature_size=backbone.feature_size,
        name=backbone.name,
        weights_sha256=backbone.weights_sha256,
        lora_targets=backbone.lora_targets,
        pool=backbone.pool,
    )
    mean.train_statistics = backbone.train_statistics
    return mean


class MeanOverSiblings(nn.Module):
    """Features of ``inner``, averaged over adapters that are made active one after the other."""

    def __init__(
        self, inner: Callable[[nn.Module, torch.Tensor], torch.Tensor], names: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.inner, self.names = inner, names

    def forward(
        self, encoder: nn.Module, pixels: Float[torch.Tensor, "b c h w"]
    ) -> Float[torch.Tensor, "b d"]:
        """Return mean features."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = [module for module in encoder.modules() if isinstance(module, BaseTunerLayer)]
        roots = [root for root in (encoder, self.inner) if isinstance(root, nn.Module)]
        total: torch.Tensor | None = None
        with shared_prefix(*roots, varies=lambda module: isinstance(module, BaseTunerLayer)) as prefix:
            if pixels.is_inference():
                pixels = pixels.clone()
            for name in self.names:
                for layer in layers:  # peft's own way looks for them among all modules each time
                    layer.set_adapter(name, inference_mode=True)
                prefix.start_pass()
                own = self.inner(encoder, pixels).float().double()
                total = own if total is None else total + own
        assert total is not None
        return total / len(self.names)
