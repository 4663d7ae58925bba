"""Adapters that were trained on the same frozen model independently of each other, side by side in one peft model."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from deblora.models.adapters.files import WEIGHTS, read_folder
from deblora.models.adapters.lora import load_adapter
from deblora.models.backbone import Backbone

Leaf = tuple[object, int]
"""A plain value, or a tensor and how often it had been written to."""

PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


class SharedPrefix:
    """Outputs of one batch; see :func:`shared_prefix`."""

    def __init__(self) -> None:
        self._stored: dict[nn.Module, list[tuple[list[Leaf], Any, list[Leaf]]]] = {}
        self._n_passes, self._n_varying, self._inside = 0, 0, False

    def start_pass(self) -> None:
        """Say that another pass over the same batch begins."""
        self._n_passes += 1
        self._n_varying = 0

    def call(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Return what a module without varying parts makes of its inputs, from the store if it can."""
        if self._inside or self._n_varying or not self._n_passes:
            return forward(*args, **kwargs)
        given = _leaves((args, tuple(kwargs.items())))
        if given is None:
            return forward(*args, **kwargs)
        if self._n_passes > 1:
            return self._again(module, forward, args, kwargs, given)
        self._inside = True  # what it calls itself need not be stored as well
        try:
            output = forward(*args, **kwargs)
        finally:
            self._inside = False
        made = _leaves(output)
        # Not of use: a view or a changed input, and what hangs on a varying module in a way the tree does not show.
        if made is not None and _untouched(given) and not _overlap(given, made) and not self._n_varying:
            self._stored.setdefault(module, []).append((given, output, made))
        return output

    def call_varying(self, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a module that differs between passes; from here on nothing is shared."""
        self._n_varying += 1
        return forward(*args, **kwargs)

    def _again(
        self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any, given: list[Leaf]
    ) -> Any:
        for inputs, output, made in self._stored.get(module, ()):
            if _untouched(inputs) and _untouched(made) and _same(inputs, given):
                return output
        return forward(*args, **kwargs)


@contextmanager
def shared_prefix(*roots: nn.Module, varies: Callable[[nn.Module], bool]) -> Iterator[SharedPrefix]:
    """Compute what passes over one batch have in common once, while the context lasts.

    Call :meth:`SharedPrefix.start_pass` before every pass. Whatever is stored is dropped at the end, so open one
    context per batch; until then the outputs of the modules before the first varying one are held. Gradients are off.
    Inference mode is too, because its tensors do not say whether they were written to; tensors made in it are never
    shared. A module is taken to depend on nothing but its inputs and its weights.

    Args:
        roots: Models, in evaluation mode; their own modules are wrapped and restored.
        varies: Tells the modules that may give something else in every pass.

    Raises:
        ValueError: If a module is in training mode, where equal inputs need not give equal outputs.
    """
    if any(module.training for root in roots for module in root.modules()):
        raise ValueError("passes share their beginning in evaluation mode only")
    holds: dict[nn.Module, bool] = {}
    varying: list[nn.Module] = []
    for root in roots:
        _walk(root, varies, holds, varying)
    prefix = SharedPrefix()
    wrapped: list[tuple[nn.Module, object]] = []
    try:
        for module in [*varying, *(m for m, has_varying in holds.items() if not has_varying)]:
            wrapped.append((module, module.__dict__.get("forward")))
            module.forward = _wrapper(prefix, module, varying=holds[module])
        with torch.inference_mode(False), torch.no_grad():
            yield prefix
    finally:
        for module, own in wrapped:
            del module.forward
            if own is not None:  # somebody else had replaced it on this module
                module.forward = own  # type: ignore[assignment]


def _walk(
    module: nn.Module,
    varies: Callable[[nn.Module], bool],
    holds: dict[nn.Module, bool],
    varying: list[nn.Module],
) -> bool:
    """Note of every module whether a varying one is in it; what lies inside of those is left alone."""
    if module not in holds:
        if varies(module):
            varying.append(module)
            holds[module] = True
        else:
            inner = [
                _walk(child, varies, holds, varying) for child in module.children()
            ]  # every one is walked
            holds[module] = any(inner)
    return holds[module]


def _wrapper(prefix: SharedPrefix, module: nn.Module, *, varying: bool) -> Callable[..., Any]:
    forward = module.forward
    if varying:
        return lambda *args, **kwargs: prefix.call_varying(forward, args, kwargs)
    return lambda *args, **kwargs: prefix.call(module, forward, args, kwargs)


def _leaves(value: object) -> list[Leaf] | None:
    """Return tensors and plain values in order; ``None`` if anything else is among them."""
    if isinstance(value, torch.Tensor):
        return None if value.is_inference() else [(value, value._version)]
    if type(value) is tuple:
        inner = [_leaves(item) for item in value]
        if any(part is None for part in inner):
            return None
        return [(len(value), 0), *(leaf for part in inner for leaf in part or [])]
    return [(value, 0)] if isinstance(value, PLAIN) else None


def _untouched(leaves: list[Leaf]) -> bool:
    return all(value._version == version for value, version in leaves if isinstance(value, torch.Tensor))


def _overlap(given: list[Leaf], made: list[Leaf]) -> bool:
    """Tell whether an output lies in the memory of an input."""
    inputs, outputs = (
        {v.untyped_storage().data_ptr() for v, _ in leaves if isinstance(v, torch.Tensor) and v.numel()}
        for leaves in (given, made)
    )
    return bool(inputs & outputs)


def _same(stored: list[Leaf], given: list[Leaf]) -> bool:
    return len(stored) == len(given) and all(
        _equal(a, b) for (a, _), (b, _) in zip(stored, given, strict=True)
    )


def _equal(a: object, b: object) -> bool:
    if a is b:
        return True
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return type(a) is type(b) and bool(a == b)
    like = (a.shape, a.stride(), a.dtype, a.device) == (b.shape, b.stride(), b.dtype, b.device)
    return like and torch.equal(a, b)


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
        ModelError: As :func:`~deblora.models.adapters.lora.load_adapter`.
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
