"""Weight files: only safetensors, checked before anything is built from them."""

import hashlib
from pathlib import Path

import torch

from deblora.errors import ModelError

PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_CHUNK = 1 << 20


def find_weights(folder: Path | None, *, also: tuple[str, ...] = ()) -> tuple[Path, ...]:
    """Return the safetensors files of a folder, sorted by name.

    Args:
        folder: Folder with ``model.safetensors``, or its shards ``model-*.safetensors``.
        also: Further files that must be there, such as ``config.json``.

    Raises:
        ModelError: If the folder or a file is missing, or if the weights are pickled.
    """
    expected = ", ".join((*also, "model.safetensors"))
    if folder is None:
        raise ModelError(f"this backbone needs a path: a folder with {expected}")
    if folder.suffix in PICKLED_SUFFIXES and folder.is_file():
        raise _pickled(folder)
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder; give a folder with {expected}")
    files = [folder / "model.safetensors"]
    if not files[0].is_file():
        files = sorted(folder.glob("model-*.safetensors"))
    if not files:
        pickled = sorted(file for file in folder.iterdir() if file.suffix in PICKLED_SUFFIXES)
        if pickled:
            raise _pickled(pickled[0])
        raise ModelError(f"{folder} holds no weights; expected are {expected}")
    missing = [name for name in also if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder} lacks {', '.join(missing)}; expected are {expected}")
    return tuple(files)


def _pickled(path: Path) -> ModelError:
    target = path.with_name("model.safetensors")
    return ModelError(
        f"{path} is a pickle, which can run code when it is read, and is not loaded; convert it once with: python -c "
        f'"import torch; from safetensors.torch import save_file; '
        f"state = torch.load({str(path)!r}, weights_only=True); "
        f"save_file({{k: v.clone().contiguous() for k, v in state.items()}}, {str(target)!r}, "
        f"metadata={{'format': 'pt'}})\""
    )


def check_readable(files: tuple[Path, ...]) -> None:
    """Read the header of every file, which also proves that none is cut short.

    Raises:
        ModelError: If a file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    for file in files:
        try:
            with safe_open(file, framework="pt") as handle:
                list(handle.keys())
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} is damaged ({error}); fetch or write it again") from error


def load_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Read one safetensors file.

    Raises:
        ModelError: If the file is damaged.
    """
    from safetensors.torch import load_file

    check_readable((file,))
    tensors: dict[str, torch.Tensor] = load_file(file)
    return tensors


def fill(module: torch.nn.Module, tensors: dict[str, torch.Tensor], source: Path) -> None:
    """Copy tensors into a module, one to one; floating point numbers become fp32.

    Raises:
        ModelError: If a tensor is missing, left over or of another shape.
    """
    own = module.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [key for key in own.keys() & tensors.keys() if own[key].shape != tensors[key].shape]
    if missing or extra or shapes:
        raise ModelError(
            f"{source} does not fit {type(module).__name__}: missing {missing[:3]} ({len(missing)}), "
            f"unknown {extra[:3]} ({len(extra)}), other shape {sorted(shapes)[:3]} ({len(shapes)}); "
            "give the weights of this architecture"
        )
    cast = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    module.load_state_dict(cast)


def files_sha256(files: tuple[Path, ...]) -> str:
    """Return the SHA-256 of the files' bytes, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while chunk := handle.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
