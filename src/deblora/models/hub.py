"""Where weights lie: a local folder or file, or a model of the Hugging Face hub that is cached or can be fetched."""

import re
import shlex
from functools import lru_cache
from pathlib import Path

from deblora.errors import ModelError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PREFIX = "hub:"
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)
WITH_TEXT = (*FILES[:-1], *TOKENIZER_FILES, FILES[-1])
"""Of a model that may have a text tower; of the tokenizer whatever there is."""
PIPELINE = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/*",
    "text_encoder/model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
)
"""What is read of a Stable Diffusion in the layout of diffusers."""


def find_weights(
    text: str, *, revision: str | None = None, files: tuple[str, ...] = FILES, from_hub: bool = True
) -> Path:
    """Return the local path of weights; only ``hub:owner/name`` asks the hub, and a plain path never does.

    What the local cache holds is used without asking the network, so that a finished run can be repeated offline.

    Args:
        text: Path, or ``hub:`` and an id such as ``facebook/dinov2-small``, with ``@revision`` where one is meant.
        revision: Branch, tag or commit on the hub; the one in the text, or the default branch, if ``None``.
        files: What is needed of the model; its first and last file have to be there.
        from_hub: Whether the backbone has a layout that is published there.

    Raises:
        ModelError: If the model is neither here nor can be fetched, with the command that fetches it elsewhere; if the
            id has another form, or a path that does not exist has the form of an id.
    """
    if not text.startswith(PREFIX):
        if from_hub and not Path(text).exists() and _HUB_ID.fullmatch(text.partition("@")[0]):
            raise ModelError(
                f"no weights at {text}: there is no such folder here, and the hub is not asked for a plain path; "
                f"start in the folder that holds it, or set backbone.path to {PREFIX}{text} for that model of the "
                "Hugging Face hub"
            )
        return Path(text)
    hub_id, _, inline = text.removeprefix(PREFIX).partition("@")
    if not from_hub:
        raise ModelError(
            f"{text}: this backbone has no layout that is published on the hub; set backbone.path to a folder "
            "(deblora models says how to get it)"
        )
    if not _HUB_ID.fullmatch(hub_id):
        raise ModelError(
            f"{text} is no model of the hub; write {PREFIX}owner/name or {PREFIX}owner/name@revision"
        )
    return _snapshot(hub_id, revision or inline or None, files)


@lru_cache(maxsize=16)
def _snapshot(hub_id: str, revision: str | None, files: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    reason = ""
    for local in (True, False):
        try:
            folder = Path(
                snapshot_download(
                    hub_id, revision=revision, allow_patterns=list(files), local_files_only=local
                )
            )
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0][:200]
            continue
        if (folder / files[0]).is_file() and (folder / files[-1]).is_file():
            return folder
        reason = f"it has no {files[-1] if (folder / files[0]).is_file() else files[0]}"
        if reason.endswith(".safetensors"):
            reason += (
                "; a copy in that format may lie under a revision refs/pr/N, see its discussions on the hub"
            )
    raise ModelError(_advice(hub_id, revision, files, reason))


def local_folder(hub_id: str) -> str:
    """Return the folder that commands and recipes name for a model of the hub."""
    return f"weights/{hub_id.split('/')[1]}"


def download_command(hub_id: str, files: tuple[str, ...], *, revision: str | None = None) -> str:
    """Return the command that fetches files of a model into :func:`local_folder`.

    Files that the model does not have are passed over, as long as more than one is named.
    """
    chosen = f" --revision {revision}" if revision else ""
    names = " ".join(shlex.quote(name) for name in files)
    return f"hf download {hub_id} {names}{chosen} --local-dir {local_folder(hub_id)}"


def _advice(hub_id: str, revision: str | None, files: tuple[str, ...], reason: str) -> str:
    command = download_command(hub_id, files, revision=revision)
    return (
        f"{PREFIX}{hub_id} is not in the local cache of the Hugging Face hub, and it cannot be fetched "
        f"({reason}); where there is a network, run\n"
        f"  {command}\n"
        f"bring the folder here and set backbone.path to it; it must hold {files[0]} and {files[-1]}"
    )
