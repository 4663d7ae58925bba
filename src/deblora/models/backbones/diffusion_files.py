"""The files of a Stable Diffusion pipeline in the layout of diffusers: finding, checking, hashing and opening them."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from deblora.errors import ModelError
from deblora.files import file_sha256

UNET, VAE = "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"
WEIGHTS = (UNET, VAE, "text_encoder/model")
SETTINGS = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
)
TOKENIZER = "tokenizer/tokenizer_config.json"
EXTRA = "Stable Diffusion needs the package diffusers: pip install 'deblora[sd]'"


def pipeline_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that the features depend on.

    Weights in half precision (``*.fp16.safetensors``) are taken where there are no others.

    Raises:
        ModelError: If one is missing, or the weights are pickled; says which.
    """
    found = []
    for name in (*SETTINGS, TOKENIZER):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder / name} is missing; backbone.path must be a Stable Diffusion folder of diffusers, with "
                "model_index.json, unet/, vae/, text_encoder/, tokenizer/ and scheduler/"
            )
        found.append(folder / name)
    for name in WEIGHTS:
        full, half = folder / f"{name}.safetensors", folder / f"{name}.fp16.safetensors"
        if not (full.is_file() or half.is_file()):
            pickled = (folder / f"{name}.bin").is_file() or (folder / name).with_name(
                "pytorch_model.bin"
            ).is_file()
            other = "; the .bin file there is a pickle, which can run code and is not read" if pickled else ""
            raise ModelError(f"{full} is missing{other}; get the safetensors file of the model")
        found.append(full if full.is_file() else half)
    return tuple(found)


def pipeline_sha256(folder: Path) -> str:
    """Return one hash over all files that the features depend on, whatever folder they lie in.

    Raises:
        ModelError: If a file is missing.
    """
    digest = hashlib.sha256()
    for file in pipeline_files(folder):
        stat = file.stat()
        line = f"{file.relative_to(folder).as_posix()} {_hash(file, stat.st_size, stat.st_mtime_ns)}\n"
        digest.update(line.encode())
    return digest.hexdigest()


@lru_cache(maxsize=64)
def _hash(file: Path, _size: int, _modified: int) -> str:
    """Hash a file once per process: every stage asks, and a UNet has gigabytes."""
    return file_sha256(file)


def open_part(folder: Path, part: str, kind: Any) -> Any:
    """Load one part of a pipeline from its safetensors file, as float32 and in evaluation mode.

    Args:
        folder: Folder of the pipeline.
        part: ``unet``, ``vae`` or ``text_encoder``.
        kind: Its class.

    Raises:
        ModelError: If the weights are damaged or do not fit the configuration.
    """
    weights = next(name for name in WEIGHTS if name.startswith(part))
    variant = None if (folder / f"{weights}.safetensors").is_file() else "fp16"
    options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    try:
        model, notes = kind.from_pretrained(str(folder / part), variant=variant, **options)
    except Exception as error:  # safetensors and the strict configurations raise classes of their own
        if isinstance(error, (MemoryError, ImportError)):
            raise
        raise ModelError(
            f"{folder / part} cannot be loaded ({str(error)[:300]}); get the model again"
        ) from error
    absent = sorted(notes["missing_keys"])
    if absent:
        raise ModelError(
            f"{folder / part}: the weights lack {len(absent)} tensors that config.json asks for, first: {absent[0]}; "
            "get the model again"
        )
    return model.float().eval().requires_grad_(False)
