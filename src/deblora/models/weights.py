"""Weight files of research code: safetensors, or a pickle read with ``weights_only``, which runs no code."""

import argparse
import json
import math
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from deblora.errors import ModelError


def weights_file(folder: Path, *, names: Sequence[str] = ("model.safetensors",)) -> Path:
    """Return the weight file of a folder (or the file itself).

    Args:
        folder: Folder, or a safetensors file, or a file of another kind that ``names`` allows.
        names: Files to look for, first choice first. Pickles are taken only where they are named here.

    Raises:
        ModelError: If there is none, or only pickled weights.
    """
    suffixes = {".safetensors", *(Path(name).suffix for name in names)}
    if folder.is_file() and folder.suffix in suffixes:
        return folder
    for name in names:
        if (folder / name).is_file():
            return folder / name
    file = folder / names[0]
    pickled = [p for ending in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in sorted(folder.glob(ending))]
    if pickled:
        raise ModelError(
            f"{pickled[0]} is a pickle, which can run code when it is loaded; convert it once, where you trust it:\n"
            '  python -c "import sys, torch; from safetensors.torch import save_file; '
            "save_file({k: v.contiguous() for k, v in torch.load(sys.argv[1], weights_only=True).items()}, "
            'sys.argv[2])" '
            f"{pickled[0]} {file}"
        )
    raise ModelError(
        f"no weights at {folder}; expected a folder with {' or '.join(names)} (and config.json for transformers)"
    )


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file, as float32 where it holds floats.

    Raises:
        ModelError: If the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{file} is damaged ({error}); get the weights again") from error
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


NESTED = ("model", "state_dict", "model_state", "module")  # where training scripts put the weights


def read_checkpoint(file: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a ``.safetensors``, ``.pth``, ``.pt`` or ``.bin`` file, as float32 where it holds floats.

    A pickle is read with ``weights_only=True``: tensors, plain containers and the table of command-line arguments
    that training scripts store beside them; nothing else is built and no code is run.

    Raises:
        ModelError: If the file is damaged, holds no weights, or holds something that is not to be built.
    """
    if file.suffix == ".safetensors":
        return read_weights(file)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            mapped = zipfile.is_zipfile(
                file
            )  # the state of an optimizer beside the weights is then never read
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except (
        Exception
    ) as error:  # pickle.UnpicklingError, RuntimeError, EOFError, and what a damaged archive gives
        raise ModelError(_advice(file, str(error).strip().split("\n")[0][:200])) from error
    weights = _weights_in(content)
    if not weights:
        raise ModelError(f"{file} holds no weights; expected tensors by name, or under {', '.join(NESTED)}")
    return {
        key.removeprefix("module."): value.float() if value.is_floating_point() else value
        for key, value in weights.items()
    }


def _weights_in(content: Any) -> dict[str, torch.Tensor]:
    if not isinstance(content, Mapping):
        return {}
    for key in NESTED:
        if isinstance(content.get(key), Mapping):
            return _weights_in(content[key])
    return {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}


def _advice(file: Path, reason: str) -> str:
    target = file.with_suffix(".safetensors")
    return (
        f"{file} cannot be read without running code ({reason}); if it is not damaged, convert it once, where you "
        "trust it:\n"
        '  python -c "import sys, torch; from safetensors.torch import save_file; '
        "s = torch.load(sys.argv[1], map_location='cpu', weights_only=False); s = s.get('model', s); "
        'save_file({k: v.contiguous() for k, v in s.items()}, sys.argv[2])" '
        f"{file} {target}\n"
        f"and set backbone.path to {target}"
    )


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
        raise ModelError(f"{file} is not readable JSON ({error}); get the model again") from error
    if not isinstance(values, dict):
        raise ModelError(f"{file} must hold a JSON object; get the model again")
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


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers and diffusers from bars and notes while weights are read."""
    from transformers.utils import logging as of_transformers

    kinds: list[Any] = [of_transformers]
    if "diffusers" in sys.modules:  # an extra
        from diffusers.utils import logging as of_diffusers

        kinds.append(of_diffusers)
    before = [(kind, kind.get_verbosity(), kind.is_progress_bar_enabled()) for kind in kinds]
    for kind in kinds:
        kind.set_verbosity_error()
        kind.disable_progress_bar()
    try:
        yield
    finally:
        for kind, verbosity, bars in before:
            kind.set_verbosity(verbosity)
            if bars:
                kind.enable_progress_bar()
