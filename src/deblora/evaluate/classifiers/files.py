"""Fitted classifiers as files: arrays as safetensors, and beside them a JSON file that says what they are.

Nothing is pickled. Every kind of classifier is a frozen dataclass of arrays, numbers and other such parts; one pair of
functions writes and reads them all. A new kind of classifier needs one line in ``PARTS``.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from jaxtyping import jaxtyped
from safetensors import SafetensorError
from safetensors.numpy import load, save

from deblora.errors import ArtifactError
from deblora.evaluate.classifiers.classifier import Classifier, Standardizer
from deblora.evaluate.classifiers.cosine import Cosine, ProjectedCosine
from deblora.evaluate.classifiers.linear import Linear
from deblora.files import write_atomic

VERSION = 1
"""Of the layout of both files."""

MAX_BYTES = 2**31
"""Largest file that is read; classifiers of the package have a few MB (ours)."""

PARTS: dict[str, type] = {
    "linear": Linear,
    "cosine": Cosine,
    "projected_cosine": ProjectedCosine,
    "standardizer": Standardizer,
}
"""Name in the file -> classifier, or part of one."""


def save_classifier(path: Path, classifier: Classifier, notes: dict[str, Any]) -> None:
    """Write a classifier and what is known about it, each file atomically.

    The JSON file is written last and holds the hash of the arrays, so a kill in between leaves a pair that
    :func:`load_classifier` refuses.

    Args:
        path: File of the arrays, ``*.safetensors``; the JSON file has the same name and the suffix ``.json``.
        classifier: Any fitted classifier of the package.
        notes: What is to be kept with it, for instance the settings that validation chose; plain JSON values.

    Raises:
        TypeError: If it is no classifier of the package, or the notes are not JSON values.
        ValueError: If a number of it is not finite.
    """
    arrays: dict[str, np.ndarray] = {}
    described = _describe(classifier, "", arrays)
    data = save(arrays)
    content = {
        "version": VERSION,
        "sha256": sha256(data).hexdigest(),
        "classifier": described,
        "notes": notes,
    }
    text = json.dumps(content, indent=1)
    write_atomic(path, data)
    write_atomic(path.with_suffix(".json"), text)


def load_classifier(path: Path) -> tuple[Classifier, dict[str, Any]]:
    """Read a classifier and its notes; its logits are bit for bit those of the one that was saved.

    Args:
        path: As in :func:`save_classifier`.

    Raises:
        ArtifactError: If a file is missing, too large or damaged, or the two do not belong together.
    """
    beside = path.with_suffix(".json")
    for file in (path, beside):
        if not file.is_file():
            raise ArtifactError(f"{file} is missing; fit the classifier again with: deblora evaluate")
        if file.stat().st_size > MAX_BYTES:
            raise ArtifactError(f"{file} is larger than {MAX_BYTES} bytes, which no classifier is; delete it")
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}, known is {VERSION}")
        data = path.read_bytes()
        if sha256(data).hexdigest() != content["sha256"]:
            raise ValueError(f"{path.name} is not the file that {beside.name} was written for")
        arrays = {name: np.array(array) for name, array in load(data).items()}
        classifier = _build(content["classifier"], arrays)
        if not isinstance(classifier, Classifier):
            raise ValueError(f"a {content['classifier']['kind']} alone is no classifier")
        if arrays:
            raise ValueError(f"array {min(arrays)} belongs to nothing")
        _check_sizes(classifier)
        return classifier, dict(content["notes"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError, SafetensorError) as error:
        raise ArtifactError(
            f"{path} or {beside.name} is damaged ({error}); delete both and fit the classifier again with: "
            "deblora evaluate"
        ) from error


def _describe(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """Return a value for JSON, and put its arrays, by name, among the others."""
    if isinstance(value, np.ndarray):
        if not np.isfinite(value).all():
            raise ValueError(f"{name} holds values that are not finite")
        arrays[name] = np.ascontiguousarray(value)
        return {"array": name}
    if isinstance(value, tuple):
        return [_describe(part, f"{name}.{i}", arrays) for i, part in enumerate(value)]
    if isinstance(value, int | float):
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}")
        return value
    kind = next((known for known, part in PARTS.items() if type(value) is part), None)
    if kind is None:
        raise TypeError(f"{type(value).__name__} is no classifier of the package, or part of one")
    prefix = f"{name}." if name else ""
    return {
        "kind": kind,
        **{own.name: _describe(getattr(value, own.name), prefix + own.name, arrays) for own in fields(value)},
    }


def _build(described: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return what :func:`_describe` was given; arrays that were used are taken out."""
    if isinstance(described, list):
        return tuple(_build(part, arrays) for part in described)
    if not isinstance(described, Mapping):
        return described
    if "array" in described:
        array = arrays.pop(described["array"], None)
        if array is None:
            raise ValueError(f"array {described['array']} is missing")
        if not np.isfinite(array).all():
            raise ValueError(f"{described['array']} holds values that are not finite")
        return array
    kind = described["kind"]
    if kind not in PARTS:
        raise ValueError(f"unknown kind {kind!r}")
    part = PARTS[kind]
    values = {name: _build(own, arrays) for name, own in described.items() if name != "kind"}
    hints = get_type_hints(part)
    if set(values) != set(hints):
        raise ValueError(f"a {kind} has {sorted(hints)}, found {sorted(values)}")
    with jaxtyped("context"):  # letters of shapes stand for the same size in all fields of a part
        wrong = [
            name for name, hint in hints.items() if not isinstance(values[name], get_origin(hint) or hint)
        ]
    wrong += [
        name
        for name, hint in hints.items()
        if get_origin(hint) is tuple and not all(isinstance(own, get_args(hint)[0]) for own in values[name])
    ]
    if wrong:
        raise ValueError(f"{wrong[0]} of the {kind} has another type or shape than it must have")
    return part(**values)


def _check_sizes(classifier: Any) -> None:
    """Classify one feature of zeros: refuses parts whose sizes do not fit each other."""
    logits = classifier.logits(np.zeros((1, classifier.n_features)))
    if logits.ndim != 2 or not logits.shape[1] or not np.isfinite(logits).all():
        raise ValueError(f"it gives logits of shape {logits.shape} that are not all finite")
