"""Shapes and types of arrays in signatures, checked while tests run.

``jaxtyping`` gives each call one set of axis sizes; this checker looks at arguments and results that are arrays and are
annotated as such, and at nothing else, so that protocols and lazy tables stay out of it. It looks once a call has
returned: what a function refuses by itself, with its own message, is no mismatch.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from jaxtyping import AbstractArray, AnnotationError


def check_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with a check of every array argument and of an array result."""
    if not inspect.isfunction(function) or function.__annotations__.get("return") is Any:
        return function  # jaxtyping's check before the call
    annotations = {name: kind for name, kind in function.__annotations__.items() if _is_array_type(kind)}
    result = annotations.pop("return", None)
    if not annotations and result is None:
        return function
    signature = inspect.signature(function)

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        for name, kind in annotations.items():
            if name in given:
                _check(function, name, given[name], kind)
        value = function(*args, **kwargs)
        if result is not None:
            _check(function, "its result", value, result)
        return value

    return checked


def _is_array_type(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, AbstractArray)


def _check(function: Callable[..., Any], name: str, value: Any, kind: Any) -> None:
    if type(value) is not np.ndarray and type(value).__module__.partition(".")[0] != "torch":
        return
    try:
        fits = isinstance(value, kind)
    except AnnotationError:  # an axis written as a sum, of which a term is not bound yet
        return
    if not fits:
        raise TypeError(
            f"{function.__qualname__}: {name} is {value.dtype}{list(value.shape)}, annotated as {kind.__name__}"
        )
