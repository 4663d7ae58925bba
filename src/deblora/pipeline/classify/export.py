"""``deblora export``: the adapters of a run, or one adapter folder, as other tools read them."""

from pathlib import Path
from typing import Literal

from deblora.errors import ArtifactError, ModelError
from deblora.files import folder_written_at_once
from deblora.models.adapters.export import (
    join_adapters,
    of_diffusers,
    weights_digest,
    write_diffusers,
    write_peft,
)
from deblora.models.adapters.files import SIDECAR, WEIGHTS, read_folder
from deblora.pipeline.classify.train_deblora import RESIDUAL
from deblora.run.run_dir import MANIFEST, RunDir

Format = Literal["diffusers", "peft"]


def export(source: Path, out: Path, *, kind: Format | None = None, adapter: str = "deblora") -> Path:
    """Write an adapter, joined with those it was stacked on, for another tool.

    Args:
        source: Run folder, or adapter folder.
        out: Folder for the export; must not hold one yet, nor be the adapter itself.
        kind: ``diffusers`` for ``load_lora_weights``, or ``peft`` for a folder without any other below it; ``None``
            takes what the backbone of the adapter is used with: diffusers for Stable Diffusion, else peft.
        adapter: Of a run: ``lora`` or ``deblora``.

    Returns:
        The file with the weights.

    Raises:
        ArtifactError: If there is no adapter there, it is stale, or ``out`` is taken.
        ModelError: If the adapter is damaged or of a kind that cannot be exported.
    """
    folder = source
    if (source / MANIFEST).is_file():
        folder = RunDir.open(source).adapter(adapter)
        RunDir.open(source).check_fresh(folder, again=f"deblora train-{adapter} {source}")
    if (folder / RESIDUAL).is_file():
        raise ModelError(
            f"{folder} is a map in feature space, which no other tool can attach to a model; train with "
            "deblora.placement stack, continue or fresh"
        )
    if not (folder / SIDECAR).is_file() and not (folder / WEIGHTS).is_file():
        raise ArtifactError(
            f"{folder} holds no adapter; name a run folder after train-{adapter}, or an adapter folder"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArtifactError(f"{out} is not empty; name a new folder")
    joined = join_adapters(chain_of(folder))
    chosen = kind or ("diffusers" if of_diffusers(joined) else "peft")
    with folder_written_at_once(out) as folder:
        file = write_diffusers(joined, folder) if chosen == "diffusers" else write_peft(joined, folder)
    return out / file.name


def chain_of(folder: Path) -> tuple[Path, ...]:
    """Return the adapters that act together with this one, it last: they lie beside it and have the recorded hash.

    Raises:
        ModelError: If one of them is missing.
    """
    parents = read_folder(folder)[1].get("parents") or {}
    beside = [
        path for path in sorted(folder.parent.iterdir()) if path != folder and (path / WEIGHTS).is_file()
    ]
    found = {weights_digest(path): path for path in beside} if parents else {}
    missing = sorted(name for name, digest in parents.items() if digest not in found)
    if missing:
        raise ModelError(
            f"{folder} was trained on top of another adapter ({missing[0]}), which does not lie beside it; copy that "
            f"one into {folder.parent}"
        )
    return (*(found[digest] for digest in parents.values()), folder)
