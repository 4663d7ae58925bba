"""From the output of a vision model to one vector per image: which tokens are patches, and how they are pooled."""

import math
import re
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from deblora.errors import ModelError

CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
OTHER_PREFIXES = ("distillation_token", "register_tokens", "reg_token", "storage_tokens")
MAX_PREFIX_TOKENS = 16  # class and register tokens; known models have at most 5


def has_class_token(encoder: nn.Module) -> bool:
    """Tell whether the model learned a class token."""
    return any(name.rsplit(".", 1)[-1] in CLASS_TOKENS for name, _ in encoder.named_parameters())


def n_prefix_tokens(encoder: nn.Module, *, n_tokens: int, n_patches: int | None) -> int:
    """Return how many tokens come before those of the patches: class, distillation and register tokens.

    Tokens less patches is the answer where that is a plausible number. Hierarchical models have fewer tokens than
    patches; there the learned tokens are counted by their names.

    Args:
        encoder: The model.
        n_tokens: Tokens of its output.
        n_patches: Patches of the image; ``None`` where the model names no patch size.
    """
    if n_patches is not None and 0 <= n_tokens - n_patches <= MAX_PREFIX_TOKENS:
        return n_tokens - n_patches
    learned = {
        name.rsplit(".", 1)[-1]: math.prod(parameter.shape[:-1])
        for name, parameter in encoder.named_parameters()
    }
    return sum(learned.get(name, 0) for name in (*CLASS_TOKENS, *OTHER_PREFIXES))


def pooled(output: Any, pool: str, *, n_prefix: int, normalized_class: bool) -> Float[torch.Tensor, "b d"]:
    """Return one vector per image.

    ``mean`` is the mean over patch tokens, without the ``n_prefix`` tokens before them; of a convolutional map it is
    the mean over all cells. ``cls`` is the class token.

    Args:
        output: What a transformers model returns.
        pool: ``mean`` or ``cls``.
        n_prefix: Tokens before the patches.
        normalized_class: Whether the class token is normalized outside of the tokens (CLIP), as ``pooler_output``.
    """
    tokens: torch.Tensor = output.last_hidden_state
    if tokens.ndim == 4:
        return tokens.mean(dim=(2, 3))
    if pool == "cls":
        return output.pooler_output if normalized_class else tokens[:, 0]
    return tokens[:, n_prefix:].mean(dim=1)


def check_pool(encoder: nn.Module, pool: str, name: str) -> None:
    """Check that the model has what is pooled.

    Raises:
        ModelError: If the class token is asked for and the model has none.
    """
    if pool == "cls" and not has_class_token(encoder):
        raise ModelError(
            f"backbone.pool is cls, but the backbone {name} has no class token; set backbone.pool to mean"
        )


# Role -> spellings, as endings of a module's full name. The output projection of the attention is left out on purpose
# (our choice): the default adapter changes what is asked, and what is made of the answer.
ROLES: dict[str, tuple[str, ...]] = {
    "query": ("q_proj", "query", "to_q", "attn.q"),
    "key": ("k_proj", "key", "to_k", "attn.k"),
    "value": ("v_proj", "value", "to_v", "attn.v"),
    "query, key and value in one": ("qkv", "qkv_proj", "query_key_value", "Wqkv"),
    "first layer of the MLP": (
        "fc1",
        "pwconv1",
        "intermediate.dense",
        "up_proj",
        "gate_proj",
        "weights_in",
        "w12",
        "c_fc",
    ),
    "last layer of the MLP": ("fc2", "pwconv2", "output.dense", "down_proj", "weights_out", "w3", "c_proj"),
}
_ADAPTED = re.compile(
    r"(?:^|\.)(?:" + "|".join(re.escape(ending) for endings in ROLES.values() for ending in endings) + ")$"
)
# Parts without influence on pooled tokens, and the attention's own "output.dense" of transformers 4.
_LEFT_OUT = re.compile(
    r"(?:^|\.)(?:pooler|head|classifier|decoder|text_model|lm_head)(?:\.|$)|attention\.output\.dense$"
)


def adapter_targets(encoder: nn.Module) -> tuple[str, ...]:
    """Return the full names of the linear layers that have one of the roles, in the order of the model.

    Pooling heads, classifiers, decoders and text towers are passed over: no pooled image token depends on them.
    """
    return tuple(
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and _ADAPTED.search(name) and not _LEFT_OUT.search(name)
    )


def token_map(
    tokens: Float[torch.Tensor, "b t d"], pixels: Float[torch.Tensor, "b c h w"], *, patch: int, name: str
) -> Float[torch.Tensor, "b d h2 w2"]:
    """Lay the last ``rows * columns`` tokens out; class and register tokens come before them."""
    rows, columns = pixels.shape[2] // patch, pixels.shape[3] // patch
    n_before = tokens.shape[1] - rows * columns
    if not 0 <= n_before <= MAX_PREFIX_TOKENS:
        raise ModelError(
            f"the backbone {name} returns {tokens.shape[1]} tokens for {rows} x {columns} patches; "
            "only models with one token per patch give a feature map"
        )
    return tokens[:, n_before:].transpose(1, 2).reshape(len(tokens), -1, rows, columns)
