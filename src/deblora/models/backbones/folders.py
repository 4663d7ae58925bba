"""What the JSON files of a Hugging Face model folder say about the images that the model takes."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deblora.errors import ModelError

HALF = (0.5, 0.5, 0.5)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: If the file is missing, damaged or no object.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{file} is missing; a Hugging Face model folder has config.json and model.safetensors"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{file} must hold a JSON object")
    return values


def whole(folder: Path, config: Mapping[str, Any], key: str, default: int) -> int:
    """Return a whole number of ``config.json``; of two equal ones (height and width) one.

    Raises:
        ModelError: If it is none.
    """
    value = config.get(key, default)
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if not isinstance(value, int):
        raise ModelError(
            f"{folder / 'config.json'}: {key} is {value!r}, expected an integer; get the folder again"
        )
    return value


def preprocessing(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the settings of the folder's image processor and their file; none where there is no such file."""
    file = folder / "preprocessor_config.json"
    if file.is_file():
        return file, read_json(file)
    joint = folder / "processor_config.json"  # processors of image and text share one file
    settings = read_json(joint).get("image_processor") if joint.is_file() else None
    return (joint, settings) if isinstance(settings, dict) else (file, {})


def crop_size(settings: Mapping[str, Any]) -> int | None:
    """Return the side of the square that the image processor cuts out, where it does.

    DINOv2's ``config.json`` names the 518 px of its last training phase, its processor the 224 px it is used with.
    """
    size = settings.get("crop_size") if settings.get("do_center_crop") else None
    sides = set(size.values()) if isinstance(size, dict) else {size}
    side = sides.pop() if len(sides) == 1 else None
    return side if isinstance(side, int) and side > 0 else None


def normalization(
    file: Path, settings: Mapping[str, Any], n_bands: int
) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Return mean, standard deviation (per band, in units of scale) and scale; .5, .5 and 255 where none is given.

    Raises:
        ModelError: If they are no usable numbers.
    """
    try:
        mean, std = (tuple(map(float, settings.get(key) or HALF)) for key in ("image_mean", "image_std"))
        scale = 1.0 / float(settings.get("rescale_factor", 1 / 255))
        if len(mean) != len(std) or not all(math.isfinite(v) for v in (*mean, *std, scale)):
            raise ValueError("image_mean, image_std and rescale_factor must be finite and of equal length")
        if min(std) <= 0 or scale <= 0:
            raise ValueError("image_std and rescale_factor must be positive")
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ModelError(f"{file} is damaged ({error}); get the model folder again") from error
    if len(mean) != n_bands:
        mean, std = (0.5,) * n_bands, (0.5,) * n_bands
    return mean, std, scale
