"""Which layers of a transformer or ConvNeXt an adapter changes, found by the role that a layer's name states.

The same role has several spellings: transformers 4 wrote ``attention.attention.query`` and ``output.dense`` where
transformers 5 writes ``attention.q_proj`` and ``mlp.fc2``; timm and the original MAE fuse the three projections into
``qkv``; OpenCLIP writes ``c_fc`` and ``c_proj``.
"""

import re

from torch import nn

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
