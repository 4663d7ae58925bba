"""Kinds of adapters: which layers each can change, its settings for peft, and which of the weights are its own.

All are standard PEFT adapters. Formulas for a layer ``y = W x`` with rank ``r`` and ``s = alpha / r``:

=========  ===============================================================  ==================
kind       adapted layer                                                    source
=========  ===============================================================  ==================
lora       ``W + s B A``, ``B = 0`` at the start                            arXiv 2106.09685
rslora     the same with ``s = alpha / sqrt(r)``                            arXiv 2312.03732
dora       rows of ``W + s B A`` brought to learned lengths                 arXiv 2402.09353
pissa      ``W_res + s B A`` from the ``r`` largest singular values of W    arXiv 2404.02948
adalora    ``W + s P diag(e) Q``, the least useful ``e`` are set to zero    arXiv 2303.10512
loha       ``W + s (B1 A1) * (B2 A2)``, a product entry by entry            arXiv 2108.06098
lokr       ``W + s (W1 kron W2)``, the larger factor of low rank            arXiv 2309.14859
vera       ``W + diag(b) B diag(d) A``, only b and d are trained            arXiv 2310.11454
=========  ===============================================================  ==================
"""

from typing import Any, Literal, get_args

from torch import nn

from deblora.errors import ModelError

AdapterKind = Literal["lora", "dora", "rslora", "adalora", "loha", "lokr", "vera", "pissa"]
KINDS: tuple[AdapterKind, ...] = get_args(AdapterKind)

PREFIXES = ("lora_", "hada_", "lokr_", "vera_")
"""How peft names what an adapter adds inside a layer."""

SHARED = ("vera_A", "vera_B")
"""Fixed matrices that all layers of a VeRA adapter share; no weights of a single one."""

LINEAR_ONLY = ("vera", "pissa")
GROUPED = ("loha", "lokr")
"""Kinds that can change a convolution with groups; the others refuse it in peft, or cannot be merged."""

NO_STACK = ("adalora",)
"""Kinds on which no second adapter of theirs can be trained (peft holds one trainable AdaLoRA adapter)."""

RANK_SHARE = 2
"""AdaLoRA starts with twice the target rank (arXiv 2303.10512 uses 1.5 times; ours, so that ranks stay whole)."""

WARM_UP, FINAL = 0.1, 0.3
"""Shares of AdaLoRA's steps before the rank falls and after it has fallen (ours, near the paper's)."""


def suits(kind: AdapterKind, layer: nn.Module) -> bool:
    """Tell whether peft can adapt a layer with this kind, starting from the identity and mergeable."""
    if isinstance(layer, nn.Linear):
        return True
    if isinstance(layer, nn.Conv2d) and kind not in LINEAR_ONLY:
        return layer.groups == 1 or kind in GROUPED
    return False


def refusal(kind: AdapterKind, name: str, layer: nn.Module) -> str:
    """Say why a kind cannot adapt a layer, and what can."""
    what = type(layer).__name__
    if isinstance(layer, nn.Conv2d):
        grouped = layer.groups > 1
        what = f"a convolution with {layer.groups} groups" if grouped else "a convolution"
        others = GROUPED if grouped else tuple(k for k in KINDS if k not in LINEAR_ONLY)
        return (
            f"the adapter {kind} cannot change {name}, {what}; leave it out of lora.targets, or set lora.adapter to "
            f"{' or '.join(others)}"
        )
    return f"{name} is {what}, which no adapter changes; lora.targets takes Linear and Conv2d layers"


def second_kind(kind: AdapterKind) -> AdapterKind:
    """Return the kind of a second adapter beside a first one.

    PiSSA would split weights that the first adapter has already changed, so plain LoRA, of the same peft type, follows
    it. AdaLoRA cannot be stacked on; a second adapter of its own is plain LoRA too.
    """
    return "lora" if kind in ("pissa", "adalora") else kind


def peft_settings(
    kind: AdapterKind,
    *,
    rank: int,
    alpha: float,
    targets: list[str],
    dropout: float = 0.0,
    n_steps: int | None = None,
) -> Any:
    """Return the configuration of peft.

    Args:
        kind: See the table of the module.
        rank: Inner size; for AdaLoRA the mean rank at the end, for VeRA that of the shared matrices.
        alpha: Scale times rank; not used by VeRA.
        targets: Full names of modules.
        dropout: On the adapter's input, while training.
        n_steps: Steps of the training, from which AdaLoRA makes its schedule; ``None`` leaves its rank as it is.

    Raises:
        ModelError: If the kind is unknown.
    """
    import peft

    scale = int(alpha) if float(alpha).is_integer() else alpha
    if kind in ("loha", "lokr"):
        kind_of = peft.LoHaConfig if kind == "loha" else peft.LoKrConfig
        return kind_of(r=rank, alpha=scale, target_modules=targets, rank_dropout=dropout)
    if kind == "vera":
        # One key for all seeds: adapters on one model must share the fixed matrices, which are saved with each.
        return peft.VeraConfig(
            r=rank, target_modules=targets, vera_dropout=dropout, projection_prng_key=0, save_projection=True
        )
    common = {"lora_alpha": scale, "target_modules": targets, "lora_dropout": dropout, "bias": "none"}
    if kind == "adalora":
        return _adalora(rank, n_steps, common)
    extra: dict[str, Any] = {"lora": {}, "dora": {"use_dora": True}, "rslora": {"use_rslora": True}}
    extra["pissa"] = {"init_lora_weights": "pissa"}
    if kind not in extra:
        raise ModelError(f"unknown adapter {kind!r}; known are {', '.join(KINDS)}")
    return peft.LoraConfig(r=rank, **common, **extra[kind])


def _adalora(rank: int, n_steps: int | None, common: dict[str, Any]) -> Any:
    """Ranks fall from twice the target over the middle of the training; of fewer than 10 steps they do not."""
    import peft

    if n_steps is None or n_steps < 10:
        total = max(2, n_steps or 2)
        return peft.AdaLoraConfig(init_r=rank, target_r=rank, tinit=0, tfinal=0, total_step=total, **common)
    return peft.AdaLoraConfig(
        init_r=RANK_SHARE * rank,
        target_r=rank,
        tinit=round(WARM_UP * n_steps),
        tfinal=round(FINAL * n_steps),
        deltaT=max(1, n_steps // 100),
        total_step=n_steps,
        **common,
    )


def config_from(values: dict[str, Any]) -> Any:
    """Return the configuration of a saved adapter, whatever its kind.

    Raises:
        KeyError: If peft does not know its type.
        TypeError: If its settings are not those of its type.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = PEFT_TYPE_TO_CONFIG_MAPPING[values.get("peft_type", "LORA")]
    return kind(**{k: v for k, v in values.items() if k in kind.__dataclass_fields__ and k != "peft_type"})


def is_of(parameter: str, adapter_name: str) -> bool:
    """Tell whether a parameter, by its full name, belongs to an adapter."""
    inside = f".{adapter_name}." in parameter or parameter.endswith(f".{adapter_name}")
    own = any(prefix in parameter for prefix in PREFIXES) and not any(name in parameter for name in SHARED)
    return inside and own
