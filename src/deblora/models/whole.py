"""Models of which all weights are trained: what can be trained, a random start, statistics, and files."""

from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import nn

from deblora.errors import ModelError
from deblora.files import write_atomic
from deblora.models.backbone import Backbone
from deblora.models.weights import read_weights

INITIAL_STD = 0.02
"""Of tokens and position codes (ours; the usual value for vision transformers)."""


def make_trainable(backbone: Backbone) -> int:
    """Make every weight trainable that the feature depends on, and return their number.

    A classifier or pooler that the feature does not pass through stays frozen, and is not counted. Normalization
    statistics stay frozen as well, as for an adapter; see :func:`estimate_statistics` for models without any.
    """
    backbone.encoder.requires_grad_(True)
    backbone.zero_grad(set_to_none=True)
    spec = backbone.spec
    device = next(backbone.parameters()).device
    with torch.enable_grad():
        backbone(
            torch.zeros(1, spec.n_bands, spec.image_size, spec.image_size, device=device)
        ).sum().backward()
    n_trainable = 0
    for parameter in backbone.encoder.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        n_trainable += parameter.numel() if parameter.requires_grad else 0
    backbone.zero_grad(set_to_none=True)
    return n_trainable


def reinitialize(backbone: Backbone, *, seed: int) -> None:
    """Replace every weight by a random one: the architecture stays, nothing that was learned does.

    Layers draw their weights as torch does for new ones; tokens and position codes are normal with standard deviation
    .02, other scales 1 and biases 0.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in backbone.encoder.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.ndim > 1 or "token" in name or "embed" in name:
                    parameter.normal_(std=INITIAL_STD)
                else:
                    parameter.fill_(0.0 if "bias" in name else 1.0)


def has_statistics(backbone: Backbone) -> bool:
    """Tell whether the model normalizes by statistics that it keeps (batch norm)."""
    return bool(_batch_norms(backbone))


def learn_statistics(backbone: Backbone) -> None:
    """Normalize by the statistics of each batch from now on, while the model trains.

    For models trained from a random start, whose kept statistics mean nothing. What they keep in passing is in no
    checkpoint; :func:`estimate_statistics` replaces it.
    """
    for module in _batch_norms(backbone):
        module.track_running_stats = False
        module.running_mean = module.running_var = None


def estimate_statistics(backbone: Backbone, batches: Iterable[Float[torch.Tensor, "b c h w"]]) -> None:
    """Set the statistics of batch norm to their mean over training batches, with the final weights.

    As in "Rethinking Batch in BatchNorm" (arXiv 2105.07576): more precise than running averages, and the same after
    a training that was killed and resumed.
    """
    modules = _batch_norms(backbone)
    if not modules:
        return
    before = [module.momentum for module in modules]
    for module in modules:
        module.track_running_stats = True
        module.running_mean = torch.zeros(module.num_features, device=module.weight.device)
        module.running_var = torch.ones(module.num_features, device=module.weight.device)
        module.reset_running_stats()
        module.momentum = None  # the plain mean over batches
        module.train()
    device = next(backbone.parameters()).device
    with torch.no_grad():
        for batch in batches:
            backbone(batch.to(device))
    for module, momentum in zip(modules, before, strict=True):
        module.momentum = momentum
    backbone.encoder.eval()


def save_whole(backbone: Backbone, file: Path) -> None:
    """Write all weights and statistics as safetensors, atomically."""
    from safetensors.torch import save

    state = {
        name: value.detach().cpu().clone().contiguous()
        for name, value in backbone.encoder.state_dict().items()
    }
    write_atomic(file, save(state))


def load_whole(backbone: Backbone, file: Path) -> None:
    """Load weights that :func:`save_whole` wrote onto the same architecture; all stay frozen.

    Raises:
        ModelError: If the file is missing, damaged or of another model.
    """
    if not file.is_file():
        raise ModelError(f"{file} is missing; train its row again")
    try:
        backbone.encoder.load_state_dict(read_weights(file))
    except RuntimeError as error:
        raise ModelError(f"{file} does not fit {backbone.name}: {str(error)[:300]}") from error
    backbone.encoder.requires_grad_(False)
    backbone.encoder.eval()


def _batch_norms(backbone: Backbone) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in backbone.encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
