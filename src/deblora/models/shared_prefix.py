"""What several passes over one batch have in common, computed once.

Passes that differ only in some modules (the adapted ones) agree on everything before the first of these. Every other
module is wrapped for as long as the context lasts: the first pass stores what it returned, later passes are given that
again where its inputs are the same tensors, or tensors of the same values (operations between modules, like padding and
activations, make new ones). So no architecture has to be known.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

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
