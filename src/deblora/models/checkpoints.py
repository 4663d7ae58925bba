"""Weight files of research code: safetensors, or a pickle read with ``weights_only``, which runs no code."""

import argparse
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deblora.errors import ModelError
from deblora.models.backbone import read_weights

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
