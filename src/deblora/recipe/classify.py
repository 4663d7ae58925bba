"""The recipe: one frozen dataclass per stage. Field comments give meaning, range and the source of the default."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from deblora.errors import RecipeError
from deblora.recipe.checks import RANGES, problems_of
from deblora.recipe.tables import fill_table, load_yaml, read_recipe, tables, with_settings

__all__ = [
    "Recipe",
    "read_recipe",
    "recipe_from",
    "setting_from_text",
    "tables",
    "to_yaml",
    "with_settings",
]


@dataclass(frozen=True)
class DataRecipe:
    """Which chips, and how they are split. `deblora data` lists the readers; docs/data.md shows their layouts.

    Args:
        source: Folder, list, file or zip that one of the readers takes; the id of a data set with ``hub``.
        format: How to read ``source``; ``auto`` decides by what is there.
        val_fraction: Share of training chips kept for validation where no validation split is given, in (0, 1).
        val_per_class: Validation chips per class instead of a share.
        test_fraction: Share kept for the test where no test split is given, in (0, 1).
        split_by: What a drawn split never parts: whole images or scenes where the reader knows them (auto), or nothing
            but chips, with chips of one image on both sides.
        unit: Column of a list, Parquet file or hub set that names the scene, image or flight of a chip.
        on_error: Chips that cannot be read, also those too large to decode: stop, or skip, count and report them.
        classes: Classes to use; empty takes all.
        ignore: Classes whose chips are left out and counted.
        crop: Objects of ``dota`` and ``voc``: the upright hull of the box (authors), or a square around it (ours).
        context: Side of that crop over the hull's, >= 1 (authors: 1, no margin).
        min_side: Objects with a shorter upright side, in pixels, are left out and counted (authors: 0, none).
        difficult: Keep or drop objects marked difficult (the authors' counts hold all: keep).
        version: Class list of DOTA that labels must obey; ``any`` takes the classes that occur.
        class_names: File with one class name per line, for labels that are numbers.
        images: Folder where the paths of a text list start; null means the folder of the list.
        bands: Bands of GeoTIFF chips to keep, counted from 1; empty keeps all.
        max_missing: Share of missing (nodata) pixels of a GeoTIFF chip, 0 to 1; up to it they get the band's mean,
            beyond it the chip counts as unreadable (ours).
        scale: Pixel value that counts as white; null means 255, for 8-bit chips only.
        offset: Pixel value that counts as black (for example -30 for decibels).
        band_names: What the bands of a chip are, in their order: names or wavelengths as texts (``[B02, B03, B04]`` or
            ``["490 nm", "560 nm"]``). Recorded beside the adapters, and checked against the number of bands.
        largest: Training chips of the largest class of a long-tailed subset; null keeps the data as they are.
        imbalance_factor: Largest class over smallest class of that subset, >= 1.
        groups: How classes become head, middle and tail: thirds of the count order, counts, names, DOTA-v1.0's 3/6/6
            (reference: the authors' later files) or 4/5/6 (reference-oct2024: their files nearest the paper), or
            many/medium/few (shots: above 100, 20 to 100, below 20 training chips).
        head_above: With counts: head classes have more training chips than this.
        tail_below: With counts: tail classes have fewer training chips than this.
        head: With names: the head classes.
        tail: With names: the tail classes.
    """

    source: str = ""
    format: Literal[
        "auto",
        "folder",
        "list",
        "parquet",
        "textlist",
        "dota",
        "voc",
        "fusrs",
        "geotiff",
        "arrays",
        "hub",
    ] = "auto"
    val_fraction: float = 0.2
    val_per_class: int | None = None
    test_fraction: float = 0.2
    split_by: Literal["auto", "chip"] = "auto"
    unit: str | None = None
    on_error: Literal["stop", "skip"] = "stop"
    classes: list[str] = field(default_factory=list)
    ignore: list[str] = field(default_factory=list)
    crop: Literal["hull", "square"] = "hull"
    context: float = 1.0
    min_side: float = 0.0
    difficult: Literal["keep", "drop"] = "keep"
    version: Literal["any", "v1.0", "v1.5", "v2.0"] = "any"
    class_names: str | None = None
    images: str | None = None
    bands: list[int] = field(default_factory=list)
    max_missing: float = 0.5
    scale: float | None = None
    offset: float = 0.0
    band_names: list[str] = field(default_factory=list)
    largest: int | None = None
    imbalance_factor: float | None = None
    groups: Literal["thirds", "counts", "names", "reference", "reference-oct2024", "shots"] = "thirds"
    head_above: int = 100
    tail_below: int = 20
    head: list[str] = field(default_factory=list)
    tail: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class BackboneRecipe:
    """Which pre-trained model.

    Args:
        name: Known backbone, see ``deblora models``; ``huggingface`` takes any vision model folder.
        path: Folder with the weights, or id of a model on the Hugging Face hub (``facebook/dinov2-small``); not
            needed for ``embedded``. For ``stable-diffusion`` a folder of diffusers or ``owner/name@revision``.
        revision: Branch, tag or commit on the hub; null takes the default branch.
        model: Architecture, for backbones that do not store it beside the weights (``timm``).
        n_bands: Bands of the chips, where the model was made for others; null takes the model's own. Other bands get
            the mean of the model's first kernels, times bands before over bands now (our choice, docs/method.md).
        normalize: Bands are brought to mean 0 and standard deviation 1 by the model's own numbers, or by those of
            the training chips; ``n_bands`` other than the model's always takes the latter (our choice).
        image_size: Pixels per side given to the model; null takes the model's own.
        pool: Mean of the tokens or the class token.
        sensor: Galileo's band group.
        l2_normalize: Bring every feature to unit length, for all stages (method.md leaves it open; off).
        timestep: Stable Diffusion: noising step of the features (authors' code: 1).
        draws: Stable Diffusion: noise draws averaged per chip, >= 1 (authors' code: 8).
        layer: Stable Diffusion: block whose output is the feature, ``mid`` (authors' code) or ``up0`` to ``up3``.
        prompt: Stable Diffusion: one text for all chips, never a class name (ours: empty).
    """

    name: str = "embedded"
    path: str | None = None
    revision: str | None = None
    model: str | None = None
    n_bands: int | None = None
    normalize: Literal["model", "train"] = "model"
    image_size: int | None = None
    pool: Literal["mean", "cls"] = "mean"
    sensor: Literal["S2_RGB", "S1"] = "S2_RGB"
    l2_normalize: bool = False
    timestep: int = 1
    draws: int = 8
    layer: Literal["mid", "up0", "up1", "up2", "up3"] = "mid"
    prompt: str = ""


@dataclass(frozen=True)
class LoraRecipe:
    """Stage 0: the LoRA adapter.

    Args:
        adapter: Kind of adapter; formulas and sources in models/adapters.py. VeRA and PiSSA change Linear layers only,
            only LoHa and LoKr change convolutions with groups. The second adapter is of the same kind, plain LoRA
            beside PiSSA and AdaLoRA.
        rank: Inner size r, >= 1 (authors' code: 8); AdaLoRA's mean rank at the end of its schedule.
        alpha: Scale times rank; null means alpha = rank, factor 1 (our choice), and sqrt(rank) for rslora.
        targets: Modules to adapt; null takes the backbone's own list.
        loss: Plain cross-entropy, balanced softmax, or a loss without labels: ``mae``, the reconstruction of masked
            patches (``embedded``, ``vit``, ``vit-mae``, ``satmae``), ``denoise``, Stable Diffusion's own loss, or
            ``contrast``, CLIP's own loss against texts of the class names.
        templates: Sentences around a class name, ``{class}``, for ``contrast`` and the row clip-text; null takes four
            of ours.
        learning_rate: Peak rate of AdamW (our choice).
        max_train_steps: Optimizer steps (our choice).
        train_batch_size: Chips per step (authors' folder names: 32).
        flip: Random flips; off by default because radar shadow has a direction.
        checkpointing_steps: Steps between checkpoints.
    """

    adapter: Literal["lora", "dora", "rslora", "adalora", "loha", "lokr", "vera", "pissa"] = "lora"
    rank: int = 8
    alpha: float | None = None
    targets: list[str] | None = None
    loss: Literal["cross_entropy", "balanced_softmax", "mae", "denoise", "contrast"] = "cross_entropy"
    templates: list[str] | None = None
    learning_rate: float = 2e-3
    max_train_steps: int = 240
    train_batch_size: int = 32
    flip: bool = False
    checkpointing_steps: int = 50


@dataclass(frozen=True)
class ExtractRecipe:
    """Features.

    Args:
        batch_size: Chips per forward pass; does not change the features beyond float rounding.
        precision: Of the model's products; ``bf16`` and ``fp16`` are for GPUs. ``bf16`` moved features by up to 0.2
            (embedded), 1.7 (Galileo) and 14 (EfficientNet-Lite0) percent of their length (docs/scale.md); ``fp16`` is
            refused on CPUs, which compute it far slower than float32. Our choice: ``no``.
        shard_rows: Chips per feature file, where a table does not fit into memory (docs/scale.md); null writes one
            file. It changes no feature.
    """

    batch_size: int = 64
    precision: Literal["no", "bf16", "fp16"] = "no"
    shard_rows: int | None = None


@dataclass(frozen=True)
class ClusterRecipe:
    """K-means with a size floor, or DBSCAN.

    Args:
        method: K-means (paper), or DBSCAN, which finds the number of clusters itself.
        n_clusters: Number of clusters K (authors: 32, insensitive).
        rho: Balance factor, >= 1; floor = N / (K rho). The paper's value is unknown; 10 is ours.
        space: Space in which distances are measured (our choice: standardized dimensions).
        n_init: Restarts (our choice).
        eps: DBSCAN's radius in units of the median distance to the ``min_samples``-th neighbor (our choice).
        min_samples: DBSCAN's neighbors of a core sample, >= 1 (scikit-learn: 5).
    """

    method: Literal["kmeans", "dbscan"] = "kmeans"
    n_clusters: int = 32
    rho: float = 10.0
    space: Literal["standardize", "raw", "l2", "pca"] = "standardize"
    n_init: int = 4
    eps: float = 1.0
    min_samples: int = 5


@dataclass(frozen=True)
class CenterRecipe:
    """De-biased centers, and controls that test whether shared attributes matter.

    Args:
        method: The paper's centers, a control, or the donor classes of the shift.
    """

    method: Literal["debiased", "class_mean", "global_mean", "random_head_mean", "kernel_neighbors"] = (
        "debiased"
    )


@dataclass(frozen=True)
class CalibrateRecipe:
    """How far features move toward their center.

    Args:
        imbalance: Reading of the imbalance ratio: per class (ours) or one for the data set.
        numerator: alpha = min(1, numerator / ir); the paper says 10.
        classes: Classes that move; the paper says tail.
        mode: The paper's contraction, or a shift that keeps the scatter.
    """

    imbalance: Literal["per_class", "dataset"] = "per_class"
    numerator: float = 10.0
    classes: Literal["tail", "tail+middle", "all"] = "tail"
    mode: Literal["contract", "shift"] = "contract"


@dataclass(frozen=True)
class DebloraRecipe:
    """The second adapter, trained to reproduce calibrated features.

    Args:
        placement: Stack on the first adapter (ours), go on training it, a fresh one, or a map in feature space:
            low-rank (``residual``) or with one hidden layer (``residual-mlp``).
        samples: The D_t of the paper read as tail only (literal) or all chips.
        anchor: With tail: weight of the other classes' features staying where they are, >= 0.
        loss: Distance to the target.
        space: Standardized or raw dimensions of the distance.
        rank: Inner size, of ``residual-mlp`` the hidden one; null takes that of stage 0.
        learning_rate: Peak rate of AdamW (our choice).
        max_train_steps: Optimizer steps (our choice).
        train_batch_size: Chips per step.
    """

    placement: Literal["stack", "continue", "fresh", "residual", "residual-mlp"] = "stack"
    samples: Literal["tail", "all"] = "tail"
    anchor: float = 0.0
    loss: Literal["squared_l2", "l2", "cosine"] = "squared_l2"
    space: Literal["standardize", "raw"] = "standardize"
    rank: int | None = None
    learning_rate: float = 1e-3
    max_train_steps: int = 100
    train_batch_size: int = 16


@dataclass(frozen=True)
class ShiftRecipe:
    """Kernel-neighbor centers with a data-driven pull.

    Args:
        temperature: Width of the kernel over cosines of class means.
        n_rounds: Rounds that fit the pull on demoted classes.
    """

    temperature: float = 0.15
    n_rounds: int = 6


@dataclass(frozen=True)
class ProbeRecipe:
    """The linear probe that judges every row.

    Args:
        solver: L-BFGS with the penalty chosen on validation, or the authors' SGD (raw features, 30 epochs).
        l2_normalize: Bring every feature to unit length first, in all rows alike (not with ``sgd``).
        n_bootstrap: Draws of the intervals, >= 100.
        group_f1: Per-class F1 from all predictions; ``filtered`` is the authors' definition, for comparison only.
    """

    solver: Literal["lbfgs", "sgd"] = "lbfgs"
    l2_normalize: bool = True
    n_bootstrap: int = 1000
    group_f1: Literal["per_class", "filtered"] = "per_class"


@dataclass(frozen=True)
class RowsRecipe:
    """Baselines with their own training, each judged by the same probes; only ``deblora compare`` and studies run them.

    What is not named here is that of the first adapter: rank, kind, targets, batch size, flips.

    Args:
        names: Rows that ``compare`` runs: scratch, fine-tune, clora, lora-bs, lift, reslt, sade, self-trained.
        loss: Of scratch and fine-tune; null takes ``lora.loss``, so that rows differ in what is trained only.
        max_train_steps: Steps of every row; null takes ``lora.max_train_steps`` (our choice: equal budgets).
        scratch_max_train_steps: Steps of scratch; null takes ``max_train_steps``.
        clora_max_train_steps: Steps of each of clora's C adapters; null takes ``max_train_steps``: C times the cost.
        scratch_learning_rate: Peak rate of AdamW (our choice).
        fine_tune_learning_rate: Peak rate of AdamW (our choice; all weights move, so less than for an adapter).
        lift_learning_rate: Peak rate of SGD (LIFT's code: .01 at batch 128).
        lift_scale: Logits per unit of cosine (LIFT's code: 25).
        reslt_beta: Weight of ResLT's branch loss, 0 to 1 (our choice; the authors' code has no default).
        sade_tau: Strength of SADE's reversed prior, >= 0 (SADE's code: 2).
    """

    names: list[str] = field(default_factory=list)
    loss: Literal["cross_entropy", "balanced_softmax"] | None = None
    max_train_steps: int | None = None
    scratch_max_train_steps: int | None = None
    clora_max_train_steps: int | None = None
    scratch_learning_rate: float = 1e-3
    fine_tune_learning_rate: float = 1e-4
    lift_learning_rate: float = 1e-2
    lift_scale: float = 25.0
    reslt_beta: float = 0.5
    sade_tau: float = 2.0


ROWS = ("scratch", "fine-tune", "clora", "lora-bs", "lift", "reslt", "sade", "self-trained")
"""Rows of the comparison with their own training, in the order they are run and shown."""


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on.

    Args:
        seed: Seed of subset, split, adapters, clusters and bootstrap.
        mixed_precision: Precision of training on a GPU.
    """

    seed: int = 0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    data: DataRecipe = field(default_factory=DataRecipe)
    backbone: BackboneRecipe = field(default_factory=BackboneRecipe)
    lora: LoraRecipe = field(default_factory=LoraRecipe)
    extract: ExtractRecipe = field(default_factory=ExtractRecipe)
    cluster: ClusterRecipe = field(default_factory=ClusterRecipe)
    center: CenterRecipe = field(default_factory=CenterRecipe)
    calibrate: CalibrateRecipe = field(default_factory=CalibrateRecipe)
    deblora: DebloraRecipe = field(default_factory=DebloraRecipe)
    shift: ShiftRecipe = field(default_factory=ShiftRecipe)
    probe: ProbeRecipe = field(default_factory=ProbeRecipe)
    rows: RowsRecipe = field(default_factory=RowsRecipe)


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """Build a recipe from nested tables, reporting every problem at once.

    Raises:
        RecipeError: If a key is unknown (the nearest known one is named), a type is wrong or a value out of range.
    """
    problems: list[str] = []
    recipe = fill_table(Recipe, values, ranges=RANGES, problems=problems)
    problems += problems_of(values, defaults=tables(Recipe()), rows=ROWS)
    if problems:
        raise RecipeError("the recipe has problems:\n" + "\n".join(f"  - {line}" for line in problems))
    return recipe  # type: ignore[no-any-return]


def setting_from_text(table: str, key: str, text: str) -> Any:
    """Read a setting given on the command line as YAML; a setting that is a text stays as it was typed."""
    section = Recipe.__dataclass_fields__.get(table)
    kind = getattr(section.type, "__dataclass_fields__", {}).get(key) if section else None
    try:
        value = load_yaml(text)
    except (yaml.YAMLError, RecursionError):
        return text
    takes_text = kind is not None and (kind.type is str or kind.type == (str | None))
    return text if takes_text and value is not None else value


def to_yaml(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML."""
    return yaml.safe_dump(tables(recipe), sort_keys=False)
