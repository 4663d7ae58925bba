"""The frozen backbone: one interface from pixels to feature vectors, whatever stands behind it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import nn

from deblora.errors import ModelError

Pool = Literal["mean", "cls"]
BACKBONE_NAMES = ("embedded", "galileo-nano", "efficientnet-lite0", "huggingface")
EMBEDDED_FOLDER = Path(__file__).parent / "embedded"


@dataclass(frozen=True)
class InputSpec:
    """What a backbone wants to see: ``(x / scale - mean) / std`` per band.

    Attributes:
        n_bands: Bands of a chip.
        image_size: Height and width in pixels.
        mean: Per band, after the division by ``scale``.
        std: Per band, after the division by ``scale``.
        scale: Largest value of a stored pixel, 255 for 8 bits.
    """

    n_bands: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float


@dataclass
class AdapterRecord:
    """What is known about an attached adapter besides its weights.

    Attributes:
        targets: Full names of the adapted modules inside the encoder, sorted.
        parent: :func:`deblora.models.lora.attached_sha256` of the adapter below it when it was attached or loaded.
    """

    targets: tuple[str, ...]
    parent: str | None = None


@dataclass(frozen=True)
class Identity:
    """What an adapter has to match to be used on a backbone.

    Attributes:
        name: One of ``BACKBONE_NAMES``.
        weights_sha256: SHA-256 of the weight files.
        sensor: Band group of the encoder, empty where there is only one.
    """

    name: str
    weights_sha256: str
    sensor: str = ""


class Backbone(nn.Module):
    """A frozen encoder in evaluation mode and the way its output becomes one vector per chip.

    Batch normalization stays in evaluation mode even while training, so that the statistics of the pre-training
    survive; dropout of an adapter follows the mode as usual.

    Attributes:
        spec: Bands, size and normalization of the input.
        feature_size: Length ``d`` of a feature.
        name: One of ``BACKBONE_NAMES``.
        weights_sha256: SHA-256 of the weight files.
        sensor: Band group of the encoder, empty where there is only one.
        encoder: The network; becomes a PEFT model when an adapter is attached.
        lora_targets: Full names, inside the encoder, of the modules that are adapted by default.
        pool: ``"mean"`` or ``"cls"``.
        adapters: The attached adapters, the lowest first.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        spec: InputSpec,
        feature_size: int,
        identity: Identity,
        lora_targets: tuple[str, ...],
        pool: str,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.spec = spec
        self.feature_size = feature_size
        self.name = identity.name
        self.weights_sha256 = identity.weights_sha256
        self.sensor = identity.sensor
        self.lora_targets = lora_targets
        self.pool = pool
        self.adapters: dict[str, AdapterRecord] = {}
        self.requires_grad_(False)
        self.eval()

    def encode(self, pixels: Float[torch.Tensor, "b c h w"]) -> Float[torch.Tensor, "b d"]:
        """Return one vector per chip; here the encoder already does so."""
        features: torch.Tensor = self.encoder(pixels)
        return features

    def forward(self, pixels: Float[torch.Tensor, "b c h w"]) -> Float[torch.Tensor, "b d"]:
        """Return one feature per chip; a single band is repeated to the bands of the encoder.

        Raises:
            ValueError: If the number of bands is neither one nor that of the encoder.
        """
        if pixels.ndim != 4 or pixels.shape[1] not in (1, self.spec.n_bands):
            raise ValueError(f"pixels must be (b, {self.spec.n_bands}, h, w), not {tuple(pixels.shape)}")
        if pixels.shape[1] != self.spec.n_bands:
            pixels = pixels.expand(-1, self.spec.n_bands, -1, -1)
        return self.encode(pixels)

    def train(self, mode: bool = True) -> "Backbone":
        """Set the mode of everything but batch normalization, which stays in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


def load_backbone(
    name: str,
    *,
    path: Path | None,
    image_size: int | None = None,
    pool: Pool = "mean",
    sensor: str = "S2_RGB",
) -> Backbone:
    """Load a frozen backbone in evaluation mode, from local files only.

    Args:
        name: ``"embedded"`` (shipped with the package), ``"galileo-nano"``, ``"efficientnet-lite0"`` or
            ``"huggingface"`` (a folder of ViT, ViTMAE, DINOv2 or CLIP).
        path: Folder with the weights; may be ``None`` for ``"embedded"``.
        image_size: Pixels per side; default (ours) 128 for Galileo, 112 for EfficientNet, else that of the config.
        pool: Mean of the patch tokens (default, ours) or the class token.
        sensor: ``"S2_RGB"`` or ``"S1"``; only Galileo has several.

    Raises:
        ModelError: If the name is unknown, or files are missing, damaged, pickled or of another architecture.
    """
    if pool not in ("mean", "cls"):
        raise ModelError(f"pool {pool!r} is unknown; choose 'mean' or 'cls'")
    if image_size is not None and image_size < 1:
        raise ModelError(f"image_size {image_size} must be positive")
    if name == "galileo-nano":
        from deblora.models.galileo import load_galileo

        return load_galileo(path, image_size=image_size, pool=pool, sensor=sensor)
    if name == "efficientnet-lite0":
        from deblora.models.efficientnet import load_efficientnet

        return load_efficientnet(path, image_size=image_size, pool=pool)
    from deblora.models.vision import load_vision

    if name == "huggingface":
        return load_vision(path, name=name, image_size=image_size, pool=pool)
    if name == "embedded":
        folder = path or EMBEDDED_FOLDER
        if not (folder / "model.safetensors").is_file():
            raise ModelError(
                f"the embedded backbone is not in {folder}; write it with scripts/pretrain_embedded.py"
            )
        return load_vision(folder, name=name, image_size=image_size, pool=pool)
    raise ModelError(f"backbone {name!r} is unknown; choose one of {', '.join(BACKBONE_NAMES)}")
