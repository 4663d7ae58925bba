"""The recipe of a run: one table per stage. Each setting has its range, default, meaning and source in one place."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field
from pydantic.dataclasses import dataclass

from deblora.models.presets import PRESETS
from deblora.recipe.engine import (
    STRICT,
    Number,
    Problem,
    read_recipe,
    settings_from,
    tables,
    to_yaml,
    with_settings,
)
from deblora.recipe.methods import TRAINED, known_classifiers

__all__ = ["Recipe", "read_recipe", "recipe_from", "tables", "to_yaml", "with_settings"]


@dataclass(frozen=True, config=STRICT)
class DataRecipe:
    """Which chips, and how they are split. `deblora data` lists the readers; docs/data.md shows their layouts."""

    source: str = ""
    """Folder, list, file or zip that one of the readers takes; the id of a data set with ``hub``."""
    format: Literal[
        "auto", "folder", "list", "parquet", "textlist", "dota", "voc", "fusrs", "geotiff", "arrays", "hub"
    ] = "auto"
    """How to read ``source``; ``auto`` decides by what is there."""
    val_fraction: Annotated[Number, Field(ge=0.01, le=0.9)] = 0.2
    """Share of training chips kept for validation where no validation split is given, in (0, 1)."""
    val_per_class: Annotated[int | None, Field(ge=1, le=10**9)] = None
    """Validation chips per class instead of a share."""
    test_fraction: Annotated[Number, Field(ge=0.01, le=0.9)] = 0.2
    """Share kept for the test where no test split is given, in (0, 1)."""
    split_by: Literal["auto", "chip"] = "auto"
    """What a drawn split never parts: whole images or scenes where the reader knows them (auto), or nothing
    but chips, with chips of one image on both sides."""
    unit: str | None = None
    """Column of a list, Parquet file or hub set that names the scene, image or flight of a chip."""
    on_error: Literal["stop", "skip"] = "stop"
    """Chips that cannot be read, also those too large to decode: stop, or skip, count and report them."""
    classes: list[str] = Field(default_factory=list)
    """Classes to use; empty takes all."""
    ignore: list[str] = Field(default_factory=list)
    """Classes whose chips are left out and counted."""
    crop: Literal["hull", "square"] = "hull"
    """Objects of ``dota`` and ``voc``: the upright hull of the box (authors), or a square around it (ours)."""
    context: Annotated[Number, Field(ge=1, le=100)] = 1.0
    """Side of that crop over the hull's, >= 1 (authors: 1, no margin)."""
    min_side: Annotated[Number, Field(ge=0, le=1e6)] = 0.0
    """Objects with a shorter upright side, in pixels, are left out and counted (authors: 0, none)."""
    difficult: Literal["keep", "drop"] = "keep"
    """Keep or drop objects marked difficult (the authors' counts hold all: keep)."""
    version: Literal["any", "v1.0", "v1.5", "v2.0"] = "any"
    """Class list of DOTA that labels must obey; ``any`` takes the classes that occur."""
    class_names: str | None = None
    """File with one class name per line, for labels that are numbers."""
    images: str | None = None
    """Folder where the paths of a text list start; null means the folder of the list."""
    bands: list[int] = Field(default_factory=list)
    """Bands of GeoTIFF chips to keep, counted from 1; empty keeps all."""
    max_missing: Annotated[Number, Field(ge=0, le=1)] = 0.5
    """Share of missing (nodata) pixels of a GeoTIFF chip, 0 to 1; up to it they get the band's mean, beyond
    it the chip counts as unreadable (ours)."""
    scale: Annotated[Number | None, Field(ge=-1e12, le=1e12)] = None
    """Pixel value that counts as white; null means 255, for 8-bit chips only."""
    offset: Annotated[Number, Field(ge=-1e12, le=1e12)] = 0.0
    """Pixel value that counts as black (for example -30 for decibels)."""
    band_names: list[str] = Field(default_factory=list)
    """What the bands of a chip are, in their order: names or wavelengths as texts (``[B02, B03, B04]`` or
    ``["490 nm", "560 nm"]``). Recorded beside the adapters, and checked against the number of bands."""
    largest: Annotated[int | None, Field(ge=2, le=10**9)] = None
    """Training chips of the largest class of a long-tailed subset; null keeps the data as they are."""
    imbalance_factor: Annotated[Number | None, Field(ge=1, le=1e9)] = None
    """Largest class over smallest class of that subset, >= 1."""
    groups: Literal["thirds", "counts", "names", "reference", "reference-oct2024", "shots"] = "thirds"
    """How classes become head, middle and tail: thirds of the count order, counts, names, DOTA-v1.0's 3/6/6
    (reference: the authors' later files) or 4/5/6 (reference-oct2024: their files nearest the paper), or
    many/medium/few (shots: above 100, 20 to 100, below 20 training chips)."""
    head_above: Annotated[int, Field(ge=0, le=10**12)] = 100
    """With counts: head classes have more training chips than this."""
    tail_below: Annotated[int, Field(ge=0, le=10**12)] = 20
    """With counts: tail classes have fewer training chips than this."""
    head: list[str] = Field(default_factory=list)
    """With names: the head classes."""
    tail: list[str] = Field(default_factory=list)
    """With names: the tail classes."""


@dataclass(frozen=True, config=STRICT)
class BackboneRecipe:
    """Which pre-trained model."""

    name: str = "embedded"
    """Known backbone, see ``deblora models``; ``huggingface`` takes any vision model folder."""
    path: str | None = None
    """Folder with the weights (for ``stable-diffusion`` one of diffusers), or ``hub:owner/name``, with ``@revision``
    if need be, for a model of the Hugging Face hub (``hub:facebook/dinov2-small``); not needed for ``embedded``."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null takes the default branch."""
    model: str | None = None
    """Architecture, for backbones that do not store it beside the weights (``timm``)."""
    n_bands: Annotated[int | None, Field(ge=1, le=1000)] = None
    """Bands of the chips, where the model was made for others; null takes the model's own. Other bands get
    the mean of the model's first kernels, times bands before over bands now (our choice, docs/method.md)."""
    normalize: Literal["model", "train"] = "model"
    """Bands are brought to mean 0 and standard deviation 1 by the model's own numbers, or by those of the
    training chips; ``n_bands`` other than the model's always takes the latter (our choice)."""
    image_size: Annotated[int | None, Field(ge=8, le=8192)] = None
    """Pixels per side given to the model; null takes the model's own."""
    pool: Literal["mean", "cls"] = "mean"
    """Mean of the tokens or the class token."""
    sensor: Literal["S2_RGB", "S1"] = "S2_RGB"
    """Galileo's band group."""
    l2_normalize: bool = False
    """Bring every feature to unit length, for all stages (method.md leaves it open; off)."""
    timestep: Annotated[int, Field(ge=0, le=10**6)] = 1
    """Stable Diffusion: noising step of the features (authors' code: 1)."""
    draws: Annotated[int, Field(ge=1, le=1000)] = 8
    """Stable Diffusion: noise draws averaged per chip, >= 1 (authors' code: 8)."""
    layer: Literal["mid", "up0", "up1", "up2", "up3"] = "mid"
    """Stable Diffusion: block whose output is the feature, ``mid`` (authors' code) or ``up0`` to ``up3``."""
    prompt: str = ""
    """Stable Diffusion: one text for all chips, never a class name (ours: empty)."""


LOOKED_AT: tuple[Literal[1, 2, 4, 8], ...] = (1, 4)
"""Numbers of views that the first look tries (ours)."""


@dataclass(frozen=True, config=STRICT)
class LookRecipe:
    """First look: which input size and how many views suit the chips, by cross-validation on frozen features.

    It sets ``backbone.image_size`` and ``extract.views``; labels of test chips have no part in it.
    """

    enabled: bool = False
    """Take it. ``deblora run DATA`` does, unless size or views are given."""
    sizes: list[int] = Field(default_factory=list)
    """Pixels per side to try; empty tries the model's own, and 7/8, 1 and 3/2 of the chips' side (ours)."""
    views: list[Literal[1, 2, 4, 8]] = Field(default_factory=lambda: list(LOOKED_AT))
    """Numbers of views to try (ours)."""
    max_chips: Annotated[int, Field(ge=10, le=10**7)] = 1000
    """Labeled chips of training and validation that are looked at: of rare classes all, of others a part (ours)."""


@dataclass(frozen=True, config=STRICT)
class LoraRecipe:
    """Stage 0: the LoRA adapter."""

    adapter: Literal["lora", "dora", "rslora", "adalora", "loha", "lokr", "vera", "pissa"] = "lora"
    """Kind of adapter; formulas and sources in models/adapters.py. VeRA and PiSSA change Linear layers only,
    only LoHa and LoKr change convolutions with groups. The second adapter is of the same kind, plain LoRA
    beside PiSSA and AdaLoRA."""
    rank: Annotated[int, Field(ge=1, le=4096)] = 8
    """Inner size r, >= 1 (authors' code: 8); AdaLoRA's mean rank at the end of its schedule."""
    alpha: Annotated[Number | None, Field(ge=1e-6, le=1e6)] = None
    """Scale times rank; null means alpha = rank, factor 1 (our choice), and sqrt(rank) for rslora."""
    targets: list[str] | None = None
    """Modules to adapt; null takes the backbone's own list."""
    loss: Literal["cross_entropy", "balanced_softmax", "mae", "denoise", "contrast"] = "cross_entropy"
    """Plain cross-entropy, balanced softmax, or a loss without labels: ``mae``, the reconstruction of masked
    patches (``embedded``, ``vit``, ``vit-mae``, ``satmae``), ``denoise``, Stable Diffusion's own loss, or
    ``contrast``, CLIP's own loss against texts of the class names."""
    templates: list[str] | None = None
    """Sentences around a class name, ``{class}``, for ``contrast`` and the row clip-text; null takes four of
    ours."""
    learning_rate: Annotated[Number, Field(ge=1e-9, le=10)] = 0.002
    """Peak rate of AdamW (our choice)."""
    max_train_steps: Annotated[int, Field(ge=1, le=10**9)] = 240
    """Optimizer steps (our choice)."""
    train_batch_size: Annotated[int, Field(ge=1, le=10**6)] = 32
    """Chips per step (authors' folder names: 32)."""
    checkpointing_steps: Annotated[int, Field(ge=1, le=10**9)] = 50
    """Steps between checkpoints."""


@dataclass(frozen=True, config=STRICT)
class ExtractRecipe:
    """Features."""

    batch_size: Annotated[int, Field(ge=1, le=10**6)] = 64
    """Chips per forward pass; does not change the features beyond float rounding."""
    views: Literal[1, 2, 4, 8] = 1
    """Views of a chip whose features are averaged: as it is (1), with its left-right mirror image (2), four flips (4),
    flips and quarter turns (8). Extraction takes that many forward passes; training draws one of them per chip."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Of the model's products; ``bf16`` and ``fp16`` are for GPUs. ``bf16`` moved features by up to 0.2
    (embedded), 1.7 (Galileo) and 14 (EfficientNet-Lite0) percent of their length (docs/scale.md); ``fp16``
    is refused on CPUs, which compute it far slower than float32. Our choice: ``no``."""
    shard_rows: Annotated[int | None, Field(ge=1, le=10**12)] = None
    """Chips per feature file, where a table does not fit into memory (docs/scale.md); null writes one file.
    It changes no feature."""


@dataclass(frozen=True, config=STRICT)
class ClusterRecipe:
    """K-means with a size floor, or DBSCAN."""

    method: Literal["kmeans", "dbscan"] = "kmeans"
    """K-means (paper), or DBSCAN, which finds the number of clusters itself."""
    n_clusters: Annotated[int, Field(ge=1, le=10**6)] = 32
    """Number of clusters K (authors: 32, insensitive)."""
    rho: Annotated[Number, Field(ge=1)] = 10.0
    """Balance factor, >= 1; floor = N / (K rho). The paper's value is unknown; 10 is ours."""
    space: Literal["standardize", "raw", "l2", "pca"] = "standardize"
    """Space in which distances are measured (our choice: standardized dimensions)."""
    n_init: Annotated[int, Field(ge=1, le=1000)] = 4
    """Restarts (our choice)."""
    eps: Annotated[Number, Field(ge=1e-6, le=1e6)] = 1.0
    """DBSCAN's radius in units of the median distance to the ``min_samples``-th neighbor (our choice)."""
    min_samples: Annotated[int, Field(ge=1, le=10**6)] = 5
    """DBSCAN's neighbors of a core sample, >= 1 (scikit-learn: 5)."""


@dataclass(frozen=True, config=STRICT)
class CenterRecipe:
    """De-biased centers, and controls that test whether shared attributes matter."""

    method: Literal["debiased", "class_mean", "global_mean", "random_head_mean", "kernel_neighbors"] = (
        "debiased"
    )
    """The paper's centers, a control, or the donor classes of the shift."""


@dataclass(frozen=True, config=STRICT)
class CalibrateRecipe:
    """How far features move toward their center."""

    imbalance: Literal["per_class", "dataset"] = "per_class"
    """Reading of the imbalance ratio: per class (ours) or one for the data set."""
    numerator: Annotated[Number, Field(ge=1e-9, le=1e9)] = 10.0
    """alpha = min(1, numerator / ir); the paper says 10."""
    classes: Literal["tail", "tail+middle", "all"] = "tail"
    """Classes that move; the paper says tail."""
    mode: Literal["contract", "shift"] = "contract"
    """The paper's contraction, or a shift that keeps the scatter."""


@dataclass(frozen=True, config=STRICT)
class DebloraRecipe:
    """The second adapter, trained to reproduce calibrated features."""

    placement: Literal["stack", "continue", "fresh", "residual", "residual-mlp"] = "stack"
    """Stack on the first adapter (ours), go on training it, a fresh one, or a map in feature space: low-rank
    (``residual``) or with one hidden layer (``residual-mlp``)."""
    samples: Literal["tail", "all"] = "tail"
    """The D_t of the paper read as tail only (literal) or all chips."""
    anchor: Annotated[Number, Field(ge=0, le=1e6)] = 0.0
    """With tail: weight of the other classes' features staying where they are, >= 0."""
    loss: Literal["squared_l2", "l2", "cosine"] = "squared_l2"
    """Distance to the target."""
    space: Literal["standardize", "raw"] = "standardize"
    """Standardized or raw dimensions of the distance."""
    rank: Annotated[int | None, Field(ge=1, le=4096)] = None
    """Inner size, of ``residual-mlp`` the hidden one; null takes that of stage 0."""
    learning_rate: Annotated[Number, Field(ge=1e-9, le=10)] = 0.001
    """Peak rate of AdamW (our choice)."""
    max_train_steps: Annotated[int, Field(ge=1, le=10**9)] = 100
    """Optimizer steps (our choice)."""
    train_batch_size: Annotated[int, Field(ge=1, le=10**6)] = 16
    """Chips per step."""


@dataclass(frozen=True, config=STRICT)
class ShiftRecipe:
    """Kernel-neighbor centers with a data-driven pull."""

    temperature: Annotated[Number, Field(ge=1e-6, le=1000.0)] = 0.15
    """Width of the kernel over cosines of class means."""
    n_rounds: Annotated[int, Field(ge=1, le=1000)] = 6
    """Rounds that fit the pull on demoted classes."""


@dataclass(frozen=True, config=STRICT)
class EvaluateRecipe:
    """Which classifiers are fitted on the features of every method, and how their scores are summed up."""

    classifiers: list[str] = Field(default_factory=list)
    """Names of the classifiers; empty fits all but ``sgd_probe``, the probe of the authors' code (raw features, 30
    epochs). Methods that can fit none of them are left out; ``cross_entropy`` on LoRA features always is fitted."""
    n_bootstrap: Annotated[int, Field(ge=100, le=10**6)] = 1000
    """Draws of the intervals, >= 100."""
    group_f1: Literal["per_class", "filtered"] = "per_class"
    """Per-class F1 from all predictions; ``filtered`` adds the authors' definition, for comparison only."""


@dataclass(frozen=True, config=STRICT)
class RowsRecipe:
    """Baselines with their own training, each judged by the same probes; only ``deblora compare`` and studies run them.

    What is not named here is that of the first adapter: rank, kind, targets, batch size.
    """

    names: list[str] = Field(default_factory=list)
    """Rows that ``compare`` runs: scratch, fine-tune, clora, lora-bs, lift, reslt, sade, self-trained."""
    loss: Literal["cross_entropy", "balanced_softmax"] | None = None
    """Of scratch and fine-tune; null takes ``lora.loss``, so that rows differ in what is trained only."""
    max_train_steps: Annotated[int | None, Field(ge=1, le=10**9)] = None
    """Steps of every row; null takes ``lora.max_train_steps`` (our choice: equal budgets)."""
    scratch_max_train_steps: Annotated[int | None, Field(ge=1, le=10**9)] = None
    """Steps of scratch; null takes ``max_train_steps``."""
    clora_max_train_steps: Annotated[int | None, Field(ge=1, le=10**9)] = None
    """Steps of each of clora's C adapters; null takes ``max_train_steps``: C times the cost."""
    scratch_learning_rate: Annotated[Number, Field(ge=1e-9, le=10)] = 0.001
    """Peak rate of AdamW (our choice)."""
    fine_tune_learning_rate: Annotated[Number, Field(ge=1e-9, le=10)] = 0.0001
    """Peak rate of AdamW (our choice; all weights move, so less than for an adapter)."""
    lift_learning_rate: Annotated[Number, Field(ge=1e-9, le=10)] = 0.01
    """Peak rate of SGD (LIFT's code: .01 at batch 128)."""
    lift_scale: Annotated[Number, Field(ge=0.001, le=1e6)] = 25.0
    """Logits per unit of cosine (LIFT's code: 25)."""
    reslt_beta: Annotated[Number, Field(ge=0, le=1)] = 0.5
    """Weight of ResLT's branch loss, 0 to 1 (our choice; the authors' code has no default)."""
    sade_tau: Annotated[Number, Field(ge=0, le=100)] = 2.0
    """Strength of SADE's reversed prior, >= 0 (SADE's code: 2)."""


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """Everything a run depends on."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of subset, split, adapters, clusters and bootstrap."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of training on a GPU."""
    data: DataRecipe = Field(default_factory=DataRecipe)
    backbone: BackboneRecipe = Field(default_factory=BackboneRecipe)
    lora: LoraRecipe = Field(default_factory=LoraRecipe)
    extract: ExtractRecipe = Field(default_factory=ExtractRecipe)
    look: LookRecipe = Field(default_factory=LookRecipe)
    cluster: ClusterRecipe = Field(default_factory=ClusterRecipe)
    center: CenterRecipe = Field(default_factory=CenterRecipe)
    calibrate: CalibrateRecipe = Field(default_factory=CalibrateRecipe)
    deblora: DebloraRecipe = Field(default_factory=DebloraRecipe)
    shift: ShiftRecipe = Field(default_factory=ShiftRecipe)
    evaluate: EvaluateRecipe = Field(default_factory=EvaluateRecipe)
    rows: RowsRecipe = Field(default_factory=RowsRecipe)


MOST_USED = (
    "seed",
    *("data.source", "data.format", "data.groups", "data.scale", "data.offset", "data.on_error"),
    *("backbone.name", "backbone.path", "backbone.image_size"),
    *("lora.adapter", "lora.rank", "lora.loss", "lora.learning_rate", "lora.max_train_steps"),
    *(
        "extract.batch_size",
        "extract.views",
        "look.enabled",
        "cluster.n_clusters",
        "center.method",
        "calibrate.numerator",
    ),
    *("deblora.placement", "deblora.max_train_steps", "shift.temperature"),
    *("evaluate.n_bootstrap", "rows.names"),
)
"""Settings that the help of a command shows, at least one of each table (ours)."""


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """Build a recipe from nested tables, reporting every problem at once.

    Raises:
        RecipeError: If a key is unknown (the nearest known one is named), a type is wrong, a value out of range or
            two settings do not fit.

    Example:
        >>> recipe_from({"data": {"source": "chips"}, "cluster": {"n_clusters": 8}}).cluster.n_clusters
        8
    """
    return settings_from(Recipe, values, checks=_checks)


def _checks(recipe: Recipe) -> Iterator[Problem]:
    """Yield what is wrong between settings."""
    yield from _split_checks(recipe.data)
    yield from group_checks(recipe.data)
    yield from _pixel_checks(recipe)
    yield from backbone_checks(recipe.backbone)
    yield from _loss_checks(recipe)
    yield from _look_checks(recipe)
    if recipe.lora.adapter == "adalora" and recipe.deblora.placement in ("stack", "continue"):
        yield Problem(
            ("lora.adapter", "deblora.placement"),
            f"deblora.placement {recipe.deblora.placement} cannot be built on lora.adapter adalora; set it to fresh, "
            "residual or residual-mlp",
        )
    for name in recipe.rows.names:
        if name not in TRAINED:
            yield Problem(("rows.names",), f"rows.names holds {name!r}; known are {', '.join(TRAINED)}")
    for name in recipe.evaluate.classifiers:
        if name not in known_classifiers():
            known = ", ".join(known_classifiers())
            yield Problem(
                ("evaluate.classifiers",), f"evaluate.classifiers holds {name!r}; known are {known}"
            )


def _split_checks(data: DataRecipe) -> Iterator[Problem]:
    if not data.source:
        yield Problem(("data.source",), "data.source is not set; give a folder, a list or a Parquet file")
    if (data.largest is None) != (data.imbalance_factor is None):
        yield Problem(
            ("data.largest", "data.imbalance_factor"),
            "data.largest and data.imbalance_factor belong together; set both or none",
        )
    if not data.val_fraction + data.test_fraction < 1:
        yield Problem(
            ("data.val_fraction", "data.test_fraction"),
            f"data.val_fraction {data.val_fraction:g} and data.test_fraction {data.test_fraction:g} leave no training "
            "chips; keep their sum below 1",
        )


def _look_checks(recipe: Recipe) -> Iterator[Problem]:
    if any(not 8 <= size <= 8192 for size in recipe.look.sizes):
        yield Problem(
            ("look.sizes",), f"look.sizes {recipe.look.sizes} holds a size outside 8 to 8192 pixels"
        )
    if not recipe.look.views:
        yield Problem(("look.views",), "look.views is empty; name 1, 2, 4 or 8")
    if recipe.look.enabled and (recipe.backbone.image_size is not None or recipe.extract.views != 1):
        yield Problem(
            ("look.enabled", "backbone.image_size", "extract.views"),
            "look.enabled chooses backbone.image_size and extract.views; leave these two out, or set it to false",
        )


class HasGroups(Protocol):
    """Settings of class groups."""

    @property
    def groups(self) -> str: ...
    @property
    def head_above(self) -> int: ...
    @property
    def tail_below(self) -> int: ...
    @property
    def tail(self) -> list[str]: ...


def group_checks(data: HasGroups) -> Iterator[Problem]:
    """Yield what is wrong with the settings of head, middle and tail, which chips and scenes have alike."""
    if data.groups == "names" and not data.tail:
        yield Problem(("data.groups", "data.tail"), "data.groups is names, but data.tail is empty")
    if data.groups == "counts" and data.tail_below > data.head_above + 1:
        yield Problem(
            ("data.groups", "data.tail_below", "data.head_above"),
            f"data.tail_below {data.tail_below:g} and data.head_above {data.head_above:g} overlap; keep tail_below at "
            "most head_above + 1",
        )


def _pixel_checks(recipe: Recipe) -> Iterator[Problem]:
    data, n_bands = recipe.data, recipe.backbone.n_bands
    if data.scale is not None and not data.scale > data.offset:
        yield Problem(
            ("data.scale", "data.offset"),
            f"data.scale {data.scale:g} (white) must be above data.offset {data.offset:g} (black)",
        )
    if any(band < 1 for band in data.bands):
        yield Problem(("data.bands",), f"data.bands {data.bands} counts from 1; 0 and below are no bands")
    if data.band_names and n_bands is not None and len(data.band_names) != n_bands:
        yield Problem(
            ("data.band_names", "backbone.n_bands"),
            f"data.band_names names {len(data.band_names)} bands, backbone.n_bands is {n_bands}; make them agree",
        )


def backbone_checks(backbone: BackboneRecipe) -> Iterator[Problem]:
    """Yield what is wrong with the backbone, for classification and detection."""
    name = backbone.name
    if name not in PRESETS:
        yield Problem(("backbone.name",), f"backbone.name is {name!r}, expected one of {', '.join(PRESETS)}")
    elif PRESETS[name].needs_path and not backbone.path:
        yield Problem(
            ("backbone.name", "backbone.path"),
            f"backbone.path is not set; {name} needs the folder with its weights",
        )


def _loss_checks(recipe: Recipe) -> Iterator[Problem]:
    """Yield where the first adapter's loss does not fit the backbone."""
    loss, name, templates = recipe.lora.loss, recipe.backbone.name, recipe.lora.templates
    if loss == "denoise" and name != "stable-diffusion":
        yield Problem(
            ("lora.loss", "backbone.name"),
            f"lora.loss is denoise, which needs backbone.name stable-diffusion, not {name}",
        )
    if loss == "contrast" and (name == "stable-diffusion" or recipe.backbone.pool != "cls"):
        yield Problem(
            ("lora.loss", "backbone.name", "backbone.pool"),
            "lora.loss is contrast, which needs the class token of a CLIP folder; set backbone.pool to cls",
        )
    if templates is not None and not all("{class}" in template for template in templates or [""]):
        yield Problem(
            ("lora.templates",), "lora.templates needs sentences with {class} in each of them, or null"
        )
