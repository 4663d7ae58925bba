"""EfficientNet-Lite0, a real pre-trained convolutional network, written without timm.

Plain ``nn.Conv2d`` layers, so that PEFT can adapt them; TensorFlow's "SAME" padding is done outside of them.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

from deblora.errors import ModelError
from deblora.models.backbone import Backbone, Identity, InputSpec
from deblora.models.weights import files_sha256, fill, find_weights, load_tensors

# repeats, kernel, stride, expansion, channels; source: Google's EfficientNet-Lite0
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
BATCH_NORM_EPS = 1e-3  # TensorFlow's; torch's own 1e-5 changes the top class of photographs
DEFAULT_IMAGE_SIZE = 112
FEATURE_SIZE = 1280


def same_convolution(
    x: Float[torch.Tensor, "b c h w"], conv: nn.Module, kernel: int, stride: int
) -> torch.Tensor:
    """Convolve with "SAME" padding: total ``max((ceil(n / s) - 1) s + k - n, 0)``, the smaller half first."""
    height, width = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
    padding = (width // 2, width - width // 2, height // 2, height - height // 2)
    out: torch.Tensor = conv(functional.pad(x, padding))
    return out


def _conv(n_in: int, n_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, kernel, stride=stride, groups=groups, bias=False)


def _norm(n_channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(n_channels, eps=BATCH_NORM_EPS)


class SeparableBlock(nn.Module):
    """Depthwise then pointwise convolution; the block of the first stage."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride, self.skip = kernel, stride, stride == 1 and n_in == n_out
        self.conv_dw, self.bn1 = _conv(n_in, n_in, kernel, stride, n_in), _norm(n_in)
        self.conv_pw, self.bn2 = _conv(n_in, n_out), _norm(n_out)

    def forward(self, x: Float[torch.Tensor, "b c h w"]) -> torch.Tensor:
        """Apply the block."""
        y = functional.relu6(self.bn1(same_convolution(x, self.conv_dw, self.kernel, self.stride)))
        y = self.bn2(self.conv_pw(y))
        return x + y if self.skip else y


class InvertedBlock(nn.Module):
    """Expansion, depthwise convolution and linear projection."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = n_in * expansion
        self.kernel, self.stride, self.skip = kernel, stride, stride == 1 and n_in == n_out
        self.conv_pw, self.bn1 = _conv(n_in, wide), _norm(wide)
        self.conv_dw, self.bn2 = _conv(wide, wide, kernel, stride, wide), _norm(wide)
        self.conv_pwl, self.bn3 = _conv(wide, n_out), _norm(n_out)

    def forward(self, x: Float[torch.Tensor, "b c h w"]) -> torch.Tensor:
        """Apply the block."""
        y = functional.relu6(self.bn1(self.conv_pw(x)))
        y = functional.relu6(self.bn2(same_convolution(y, self.conv_dw, self.kernel, self.stride)))
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.skip else y


class EfficientNetLite0(nn.Module):
    """Stem, seven stages and head; the output is the pooled 1,280 channels. Names are those of timm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem, self.bn1 = _conv(3, 32, 3, 2), _norm(32)
        stages, n_in = [], 32
        for n_repeats, kernel, stride, expansion, n_out in STAGES:
            blocks: list[nn.Module] = []
            for i in range(n_repeats):
                step = stride if i == 0 else 1
                if expansion == 1:
                    blocks.append(SeparableBlock(n_in, n_out, kernel, step))
                else:
                    blocks.append(InvertedBlock(n_in, n_out, kernel, step, expansion))
                n_in = n_out
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head, self.bn2 = _conv(n_in, FEATURE_SIZE), _norm(FEATURE_SIZE)

    def forward(self, pixels: Float[torch.Tensor, "b 3 h w"]) -> Float[torch.Tensor, "b 1280"]:
        """Return the mean over positions of the last feature map."""
        x = functional.relu6(self.bn1(same_convolution(pixels, self.conv_stem, 3, 2)))
        x = functional.relu6(self.bn2(self.conv_head(self.blocks(x))))
        return x.mean(dim=(2, 3))


def default_targets(encoder: nn.Module) -> tuple[str, ...]:
    """Return the 1x1 convolutions of the last two stages and of the head (default: ours)."""
    last = (f"blocks.{len(STAGES) - 2}.", f"blocks.{len(STAGES) - 1}.", "conv_head")
    return tuple(
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and name.startswith(last)
    )


def load_efficientnet(path: Path | None, *, image_size: int | None = None, pool: str = "mean") -> Backbone:
    """Load the network from a folder with ``model.safetensors`` (names of timm, RGB, mean and std .5).

    Raises:
        ModelError: If files are missing, damaged or of another architecture, or if a class token is asked for.
    """
    if pool != "mean":
        raise ModelError(f"efficientnet-lite0 has no class token; pool must be 'mean', not {pool!r}")
    files = find_weights(path)
    tensors = load_tensors(files[0])
    encoder = EfficientNetLite0()
    fill(encoder, {k: v for k, v in tensors.items() if not k.startswith("classifier.")}, files[0])
    return Backbone(
        encoder,
        spec=InputSpec(3, image_size or DEFAULT_IMAGE_SIZE, (0.5,) * 3, (0.5,) * 3, 255.0),
        feature_size=FEATURE_SIZE,
        identity=Identity("efficientnet-lite0", files_sha256(files)),
        lora_targets=default_targets(encoder),
        pool=pool,
    )
