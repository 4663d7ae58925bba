"""What a recipe may hold: ranges of numbers, and settings that depend on each other; on plain nested tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from deblora.models.presets import PRESETS
from deblora.recipe.tables import WRONG, as_float

# Lowest and highest allowed value (inclusive) of every number that has a range.
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "data.val_fraction": (0.01, 0.9),
    "data.val_per_class": (1, 1e9),
    "data.test_fraction": (0.01, 0.9),
    "data.context": (1, 100),
    "data.min_side": (0, 1e6),
    "data.max_missing": (0, 1),
    "data.scale": (-1e12, 1e12),
    "data.offset": (-1e12, 1e12),
    "data.largest": (2, 1e9),
    "data.imbalance_factor": (1, 1e9),
    "data.head_above": (0, 1e12),
    "data.tail_below": (0, 1e12),
    "backbone.image_size": (8, 8192),
    "backbone.n_bands": (1, 1000),
    "backbone.timestep": (0, 1e6),
    "backbone.draws": (1, 1000),
    "lora.rank": (1, 4096),
    "lora.alpha": (1e-6, 1e6),
    "lora.learning_rate": (1e-9, 10),
    "lora.max_train_steps": (1, 1e9),
    "lora.train_batch_size": (1, 1e6),
    "lora.checkpointing_steps": (1, 1e9),
    "extract.batch_size": (1, 1e6),
    "extract.shard_rows": (1, 1e12),
    "cluster.n_clusters": (1, 1e6),
    "cluster.rho": (1, float("inf")),
    "cluster.n_init": (1, 1000),
    "cluster.eps": (1e-6, 1e6),
    "cluster.min_samples": (1, 1e6),
    "calibrate.numerator": (1e-9, 1e9),
    "deblora.anchor": (0, 1e6),
    "deblora.rank": (1, 4096),
    "deblora.learning_rate": (1e-9, 10),
    "deblora.max_train_steps": (1, 1e9),
    "deblora.train_batch_size": (1, 1e6),
    "shift.temperature": (1e-6, 1e3),
    "shift.n_rounds": (1, 1000),
    "probe.n_bootstrap": (100, 1e6),
    "rows.max_train_steps": (1, 1e9),
    "rows.scratch_max_train_steps": (1, 1e9),
    "rows.clora_max_train_steps": (1, 1e9),
    "rows.scratch_learning_rate": (1e-9, 10),
    "rows.fine_tune_learning_rate": (1e-9, 10),
    "rows.lift_learning_rate": (1e-9, 10),
    "rows.lift_scale": (1e-3, 1e6),
    "rows.reslt_beta": (0, 1),
    "rows.sade_tau": (0, 100),
}


def problems_of(values: Mapping[str, Any], *, defaults: Mapping[str, Any], rows: Sequence[str]) -> list[str]:
    """Return what is wrong with settings that depend on each other, one line each.

    Args:
        values: Settings as nested tables, as they were given; tables of a wrong type are passed over.
        defaults: Those of every setting.
        rows: Known names of ``rows.names``.
    """
    data = values.get("data") or {}
    problems = _adapter_problems(values, defaults["deblora"]["placement"]) + _row_problems(values, rows)
    if not isinstance(data, Mapping):
        return problems
    return (
        _data_problems(data, defaults["data"])
        + backbone_problems(values.get("backbone") or {})
        + _band_problems(values)
        + _loss_problems(values)
        + problems
    )


def _range_problems(data: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Check settings of the data whose range depends on another one."""
    val, test, above, below = (
        as_float(data.get(key, defaults[key]))
        for key in ("val_fraction", "test_fraction", "head_above", "tail_below")
    )
    problems = []
    if WRONG not in (val, test) and not val + test < 1:
        problems.append(
            f"data.val_fraction {val:g} and data.test_fraction {test:g} leave no training chips; keep their sum below 1"
        )
    if data.get("groups") == "counts" and WRONG not in (above, below) and below > above + 1:
        problems.append(
            f"data.tail_below {below:g} and data.head_above {above:g} overlap; keep tail_below at most head_above + 1"
        )
    return problems


def _adapter_problems(values: Mapping[str, Any], default: str) -> list[str]:
    """Check the kind of adapter against what is built on it."""
    lora, second = (values.get(name) or {} for name in ("lora", "deblora"))
    if not (isinstance(lora, Mapping) and isinstance(second, Mapping) and lora.get("adapter") == "adalora"):
        return []
    placement = second.get("placement", default)
    if placement not in ("stack", "continue"):
        return []
    return [
        f"deblora.placement {placement} cannot be built on lora.adapter adalora; set it to fresh, residual or "
        "residual-mlp"
    ]


def _row_problems(values: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    rows = values.get("rows") or {}
    names = rows.get("names") if isinstance(rows, Mapping) else None
    unknown = [name for name in names if name not in known] if isinstance(names, list) else []
    return [f"rows.names holds {name!r}; known are {', '.join(known)}" for name in unknown]


def _data_problems(data: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    problems = []
    if not data.get("source"):
        problems.append("data.source is not set; give a folder, a list or a Parquet file")
    if (data.get("largest") is None) != (data.get("imbalance_factor") is None):
        problems.append("data.largest and data.imbalance_factor belong together; set both or none")
    problems += _range_problems(data, defaults)
    white, black = as_float(data.get("scale")), as_float(data.get("offset", 0.0))
    if WRONG not in (white, black) and not white > black:
        problems.append(f"data.scale {white:g} (white) must be above data.offset {black:g} (black)")
    bands = data.get("bands") or []
    if isinstance(bands, list) and any(isinstance(band, int) and band < 1 for band in bands):
        problems.append(f"data.bands {bands} counts from 1; 0 and below are no bands")
    if data.get("groups") == "names" and not data.get("tail"):
        problems.append("data.groups is names, but data.tail is empty")
    return problems


def _band_problems(values: Mapping[str, Any]) -> list[str]:
    """Check that as many bands are named as the model is to take."""
    named = (values.get("data") or {}).get("band_names") or []
    backbone = values.get("backbone") or {}
    n_bands = backbone.get("n_bands") if isinstance(backbone, Mapping) else None
    if isinstance(named, list) and named and isinstance(n_bands, int) and len(named) != n_bands:
        return [f"data.band_names names {len(named)} bands, backbone.n_bands is {n_bands}; make them agree"]
    return []


def backbone_problems(backbone: Any) -> list[str]:
    """Check what a table of the backbone says against the table of backbones."""
    if not isinstance(backbone, Mapping):
        return []
    name = backbone.get("name", "embedded")
    if name not in PRESETS:
        return (
            [f"backbone.name is {name!r}, expected one of {', '.join(PRESETS)}"]
            if isinstance(name, str)
            else []
        )
    if PRESETS[name].needs_path and not backbone.get("path"):
        return [f"backbone.path is not set; {name} needs the folder with its weights"]
    return []


def _loss_problems(values: Mapping[str, Any]) -> list[str]:
    """Check that the first adapter's loss fits the backbone."""
    backbone, lora = (values.get(table) or {} for table in ("backbone", "lora"))
    if not (isinstance(backbone, Mapping) and isinstance(lora, Mapping)):
        return []
    loss, name = lora.get("loss"), backbone.get("name", "embedded")
    problems = []
    if loss == "denoise" and name != "stable-diffusion":
        problems.append(f"lora.loss is denoise, which needs backbone.name stable-diffusion, not {name}")
    if loss == "contrast" and (name == "stable-diffusion" or backbone.get("pool") != "cls"):
        problems.append(
            "lora.loss is contrast, which needs the class token of a CLIP folder; set backbone.pool to cls"
        )
    templates = lora.get("templates")
    if isinstance(templates, list) and not all("{class}" in str(template) for template in templates or [""]):
        problems.append("lora.templates needs sentences with {class} in each of them, or null")
    return problems
