"""The table of backbones: which loader opens each, and which settings it reads. Imports no torch.

To add a backbone, add a line to ``PRESETS`` (and its facts to ``cards.py``): nothing else lists the names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from deblora.models import hub


@dataclass(frozen=True)
class Preset:
    """How a backbone is opened.

    Attributes:
        loader: ``module:function``; called as ``function(path, **options)``, without ``path`` where
            ``needs_path`` is false, and imported only then.
        options: Settings that the loader takes by keyword; settings it does not name are not given to it.
        fixed: Keyword arguments that make the preset what it is.
        needs_path: Whether weights have to be named.
        files: Weight files that the loader looks for in a folder, first choice first.
        hub_files: Files of a model on the Hugging Face hub, where it is published in the layout that the loader
            reads; empty where a path is always local.
    """

    loader: str
    options: tuple[str, ...] = ("image_size",)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    needs_path: bool = True
    files: tuple[str, ...] = ("model.safetensors",)
    hub_files: tuple[str, ...] = ()

    def function(self) -> Callable[..., Any]:
        """Import the loader and return it."""
        module, _, name = self.loader.partition(":")
        return getattr(import_module(module), name)


def _hugging_face(name: str, hub_files: tuple[str, ...] = hub.FILES) -> Preset:
    return Preset(
        "deblora.models.backbones.vision:load", ("image_size", "pool"), {"name": name}, hub_files=hub_files
    )


PRESETS: dict[str, Preset] = {
    "embedded": Preset(
        "deblora.models.backbones.vision:load_embedded", ("image_size", "pool"), needs_path=False
    ),
    "galileo-nano": Preset("deblora.models.backbones.galileo:load", ("image_size", "sensor")),
    "efficientnet-lite0": Preset("deblora.models.backbones.efficientnet:load"),
    "vit": _hugging_face("vit"),
    "vit-mae": _hugging_face("vit-mae"),
    "dinov2": _hugging_face("dinov2"),
    "clip": _hugging_face("clip", hub.WITH_TEXT),
    "siglip": _hugging_face("siglip"),
    "convnext": _hugging_face("convnext"),
    "satmae": Preset(
        "deblora.models.backbones.satmae:load",
        ("image_size", "pool"),
        files=(
            "model.safetensors",
            "fmow_pretrain.safetensors",
            "fmow_pretrain.pth",
            "pretrain-vit-large-e199.pth",
        ),
    ),
    "open-clip": Preset(
        "deblora.models.backbones.open_clip:load",
        ("image_size", "pool"),
        files=("open_clip_model.safetensors", "model.safetensors"),
        hub_files=("open_clip_config.json", "open_clip_model.safetensors"),
    ),
    "timm": Preset(
        "deblora.models.backbones.timm:load",
        ("image_size", "pool", "model"),
        hub_files=("config.json", "model.safetensors"),
    ),
    "stable-diffusion": Preset(
        "deblora.models.backbones.diffusion:load",
        ("image_size", "timestep", "draws", "layer", "prompt", "noise_seed"),
    ),
    "huggingface": _hugging_face("huggingface", hub.WITH_TEXT),
}


def names() -> tuple[str, ...]:
    """Return the names that ``backbone.name`` may have."""
    return tuple(PRESETS)
