"""EfficientNet-Lite0 (timm names of ``tf_efficientnet_lite0``), written out so that no timm is needed."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

from deblora.errors import ModelError
from deblora.files import file_sha256
from deblora.models.backbone import Backbone, InputSpec
from deblora.models.weights import read_weights, weights_file

# repeats, kernel, stride, expansion, channels
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
BN_EPS = 1e-3
MAP_STAGES = (2, 4, 6)  # the last stages of strides 8, 16 and 32: 40, 112 and 320 channels
N_ADAPTED_STAGES = 2  # the last stages carry the semantics; early ones stay cheap to run


def _same(x: Float[torch.Tensor, "b c h w"], kernel: int, stride: int) -> Float[torch.Tensor, "b c h2 w2"]:
    """TensorFlow's SAME padding, the smaller half first."""
    pads: list[int] = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads) if any(pads) else x


class Block(nn.Module):
    """Inverted residual without squeeze-excitation; plain convolutions, so that peft can adapt them."""

    def __init__(self, n_in: int, n_out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = n_in * expansion
        self.kernel, self.stride, self.expansion = kernel, stride, expansion
        self.skip = stride == 1 and n_in == n_out
        if expansion == 1:
            self.conv_dw = nn.Conv2d(inner, inner, kernel, stride, groups=inner, bias=False)
            self.bn1 = nn.BatchNorm2d(inner, eps=BN_EPS)
            self.conv_pw = nn.Conv2d(inner, n_out, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(n_out, eps=BN_EPS)
        else:
            self.conv_pw = nn.Conv2d(n_in, inner, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(inner, eps=BN_EPS)
            self.conv_dw = nn.Conv2d(inner, inner, kernel, stride, groups=inner, bias=False)
            self.bn2 = nn.BatchNorm2d(inner, eps=BN_EPS)
            self.conv_pwl = nn.Conv2d(inner, n_out, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(n_out, eps=BN_EPS)

    def forward(self, x: Float[torch.Tensor, "b c h w"]) -> Float[torch.Tensor, "b c2 h2 w2"]:
        """Return the block's output."""
        if self.expansion == 1:
            y = functional.relu6(self.bn1(self.conv_dw(_same(x, self.kernel, self.stride))))
            y = self.bn2(self.conv_pw(y))
        else:
            y = functional.relu6(self.bn1(self.conv_pw(x)))
            y = functional.relu6(self.bn2(self.conv_dw(_same(y, self.kernel, self.stride))))
            y = self.bn3(self.conv_pwl(y))
        return x + y if self.skip else y


class EfficientNetLite0(nn.Module):
    """The network of the weight file: stem, blocks, head convolution, classifier."""

    map_multiple = 32

    def __init__(self, n_bands: int = 3, n_classes: int = 1000) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(n_bands, 32, 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(32, eps=BN_EPS)
        n_in, stages = 32, []
        for repeats, kernel, stride, expansion, n_out in STAGES:
            blocks = []
            for i in range(repeats):
                blocks.append(
                    Block(n_in, n_out, kernel=kernel, stride=stride if i == 0 else 1, expansion=expansion)
                )
                n_in = n_out
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(n_in, 1280, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280, eps=BN_EPS)
        self.classifier = nn.Linear(1280, n_classes)

    def forward(self, pixels: Float[torch.Tensor, "b c h w"]) -> Float[torch.Tensor, "b 1280"]:
        """Return the pooled feature; ``classifier`` turns it into ImageNet logits."""
        x = functional.relu6(self.bn1(self.conv_stem(_same(pixels, 3, 2))))
        x = functional.relu6(self.bn2(self.conv_head(self.blocks(x))))
        return x.mean(dim=(2, 3))

    def feature_maps(self, pixels: Float[torch.Tensor, "b c h w"]) -> list[Float[torch.Tensor, "b d h2 w2"]]:
        """Return the outputs of the last stages of strides 8, 16 and 32, before the head convolution."""
        x = pixels.contiguous(memory_format=torch.channels_last)
        x = functional.relu6(self.bn1(self.conv_stem(_same(x, 3, 2))))
        maps = []
        for i, stage in enumerate(self.blocks):
            x = stage(x)
            if i in MAP_STAGES:
                maps.append(x)
        return maps


def load(path: Path, *, image_size: int | None = None) -> Backbone:
    """Load EfficientNet-Lite0; default input 112 px (ours, for chips), normalized by mean and std .5.

    Raises:
        ModelError: If the file is missing, damaged or of another network.
    """
    file = weights_file(path)
    network = EfficientNetLite0()
    try:
        network.load_state_dict(read_weights(file))
    except RuntimeError as error:
        raise ModelError(
            f"{file} does not hold EfficientNet-Lite0 in timm names: {str(error)[:300]}"
        ) from error
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    last = len(STAGES) - N_ADAPTED_STAGES
    targets = tuple(
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and (name == "conv_head" or int(name.split(".")[1]) >= last)
    )
    half = (0.5, 0.5, 0.5)
    return Backbone(
        network,
        lambda encoder, pixels: encoder(pixels.contiguous(memory_format=torch.channels_last)),
        spec=InputSpec(3, image_size or 112, half, half, 255.0),
        feature_size=1280,
        name="efficientnet-lite0",
        weights_sha256=file_sha256(file),
        lora_targets=targets,
        pool="mean",
    )
