"""Shapes and types of arrays in signatures, checked while tests run.

``jaxtyping`` gives each call one set of axis sizes; this checker looks at arguments and results that are arrays and are
annotated as such, and at nothing else, so that protocols and lazy tables stay out of it.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from jaxtyping import AbstractArray


def check_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with a check of every array argument and of an array result."""
    if not inspect.isfunction(function):
        return function
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
    is_array = type(value) is np.ndarray or type(value).__module__.partition(".")[0] == "torch"
    if is_array and not isinstance(value, kind):
        raise TypeError(
            f"{function.__qualname__}: {name} is {value.dtype}{list(value.shape)}, annotated as {kind.__name__}"
        )
