"""The recipe of oriented detection: one frozen dataclass per table; each default with its source."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from deblora.errors import RecipeError
from deblora.recipe.checks import backbone_problems
from deblora.recipe.classify import BackboneRecipe
from deblora.recipe.tables import fill_table, tables

MethodName = Literal["zero-shot", "fine-tune", "lora", "reweight", "ecm", "deblora", "scratch"]
METHODS: tuple[MethodName, ...] = (
    "zero-shot",
    "fine-tune",
    "lora",
    "reweight",
    "ecm",
    "deblora",
    "scratch",
)
NO_ADAPTER = "none"  # value of method.adapter


@dataclass(frozen=True)
class DetectionDataRecipe:
    """Which scenes, which classes, how they are cut.

    Args:
        train: Folder or zip with ``images/`` and ``labelTxt/``: all that training and class counts see.
        val: The same for choices and for the scores that a training run reports.
        test: The same; only ``deblora detect test`` reads it.
        classes: Classes to detect; empty takes those of the training labels.
        ignore: Classes whose objects are left out everywhere.
        protocol: ``dota1.0`` honors the difficult flag in evaluation, ``dota1.5`` counts every object.
        groups: Head, middle, tail by thirds of the count order, by counts, by names, or DOTA's reference.
        head_above: With counts: head classes have more training objects (authors' code: 10000).
        tail_below: With counts: tail classes have fewer training objects (authors' code: 1000).
        head: With names: the head classes.
        tail: With names: the tail classes.
        tile: Side of a tile as the model sees it, pixels (mmrotate: 1024).
        overlap: Pixels of the tile that neighbors share at least (mmrotate: 200).
        zoom: Pixels of the tile per pixel of the scene; below 1 shrinks.
        min_inside: Least share of an object's area inside a tile (mmrotate: 0.7).
        keep_empty: Train on tiles without objects too (mmrotate: no).
        scale: Pixel value that counts as 1; null takes the backbone's (255 for pictures).
    """

    train: str = ""
    val: str = ""
    test: str = ""
    classes: list[str] = field(default_factory=list)
    ignore: list[str] = field(default_factory=list)
    protocol: Literal["dota1.0", "dota1.5"] = "dota1.0"
    groups: Literal["thirds", "counts", "names", "reference"] = "thirds"
    head_above: int = 10_000
    tail_below: int = 1_000
    head: list[str] = field(default_factory=list)
    tail: list[str] = field(default_factory=list)
    tile: int = 1024
    overlap: int = 200
    zoom: float = 1.0
    min_inside: float = 0.7
    keep_empty: bool = False
    scale: float | None = None


@dataclass(frozen=True)
class MethodRecipe:
    """Which row of the table: what is trained in the extractor, and the class loss.

    Args:
        name: The row.
        adapter: A finished ``deblora run`` folder (or one PEFT folder) on object chips; frozen here. Null trains
            LoRA together with the head; ``none`` leaves the extractor as it is (``reweight`` and ``ecm``: the class
            loss alone). ``deblora`` needs a folder.
        rank: Inner size of LoRA trained here (authors' code: 8).
        alpha: Scale times rank; null means alpha = rank (our choice).
        targets: Modules to adapt; null takes the backbone's own list.
        beta: Of class-balanced weights, with ``reweight`` (arXiv 1901.05555).
        background_ratio: Of ECM; null measures it with the assigner on the training tiles.
    """

    name: MethodName = "lora"
    adapter: str | None = None
    rank: int = 8
    alpha: float | None = None
    targets: list[str] | None = None
    beta: float = 0.9999
    background_ratio: float | None = None


@dataclass(frozen=True)
class HeadRecipe:
    """Pyramid and head.

    Args:
        n_channels: Channels of every level (mmrotate: 256).
        n_convs: Convolutions per tower (mmrotate: 4).
        scales: Levels from one map, relative to its size; empty makes the finest stride 8 (or next to it).
        angle: Anisotropy vector (ours), or the plain angle of the reference.
        box_loss: Rotated IoU or Gaussian distance.
    """

    n_channels: int = 256
    n_convs: int = 4
    scales: list[float] = field(default_factory=list)
    angle: Literal["vector", "raw"] = "vector"
    box_loss: Literal["riou", "kld"] = "riou"


@dataclass(frozen=True)
class DetectionTrainRecipe:
    """Training: AdamW with a cosine schedule, as for the other trainings here (ours; mmrotate has SGD, 12 epochs).

    Args:
        learning_rate: Peak rate (our choice).
        max_train_steps: Optimizer steps (our choice).
        train_batch_size: Tiles per step (mmrotate: 2 per GPU).
        checkpointing_steps: Steps between checkpoints.
        flips: Probability of a flip (mmrotate: .75 over three kinds); 0 for SAR.
        turns: Turn by random quarters; off for SAR.
        map_cache_gb: Disk for the feature maps of a frozen extractor, in half precision: each view of a tile then
            passes the extractor once, and steps cost pyramid and head only. 0 computes maps in every step (ours).
        map_cache: Folder for these maps that several runs share (seeds, class losses); each extractor gets a folder
            of its own in it. Null keeps them in the run folder until training is finished.
        workers: Processes that read and cut tiles while the step before runs; 0 does it in between. No part in
            training on stored maps. For GPUs: reading a tile of 1024 px keeps a core busy for about 50 ms (ours).
    """

    learning_rate: float = 1e-3
    max_train_steps: int = 2_000
    train_batch_size: int = 4
    checkpointing_steps: int = 100
    flips: float = 0.75
    turns: bool = True
    map_cache_gb: float = 8.0
    map_cache: str | None = None
    workers: int = 0


@dataclass(frozen=True)
class PredictRecipe:
    """Prediction (mmrotate's values).

    Args:
        batch_size: Windows per forward pass.
        score_threshold: Least class score.
        nms_threshold: Largest IoU of two detections of a class in a window.
        merge_threshold: The same over the whole scene (mmrotate: 0.1, devkit: 0.3).
        max_detections: Per window.
    """

    batch_size: int = 4
    score_threshold: float = 0.05
    nms_threshold: float = 0.1
    merge_threshold: float = 0.1
    max_detections: int = 2000


@dataclass(frozen=True)
class DetectionRecipe:
    """Everything a detection run depends on.

    Args:
        seed: Seed of head, adapters, order and augmentation.
        mixed_precision: Precision of training and prediction. ``bf16`` also works on CPUs: those with bf16
            instructions are faster with it (measured: EfficientNet-Lite0 2.7 times), others slower.
    """

    seed: int = 0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    data: DetectionDataRecipe = field(default_factory=DetectionDataRecipe)
    backbone: BackboneRecipe = field(default_factory=BackboneRecipe)
    method: MethodRecipe = field(default_factory=MethodRecipe)
    head: HeadRecipe = field(default_factory=HeadRecipe)
    train: DetectionTrainRecipe = field(default_factory=DetectionTrainRecipe)
    predict: PredictRecipe = field(default_factory=PredictRecipe)


# Lowest and highest allowed value (inclusive).
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "data.head_above": (0, 1e12),
    "data.tail_below": (0, 1e12),
    "data.tile": (32, 65536),
    "data.overlap": (0, 65535),
    "data.zoom": (1e-3, 100),
    "data.min_inside": (1e-6, 1),
    "data.scale": (1e-9, 1e12),
    "backbone.image_size": (8, 8192),
    "backbone.n_bands": (1, 1000),
    "method.rank": (1, 4096),
    "method.alpha": (1e-6, 1e6),
    "method.beta": (0, 0.9999999999),
    "method.background_ratio": (1e-6, 1e9),
    "head.n_channels": (8, 4096),
    "head.n_convs": (1, 16),
    "train.learning_rate": (1e-9, 10),
    "train.max_train_steps": (1, 1e9),
    "train.train_batch_size": (1, 1e6),
    "train.checkpointing_steps": (1, 1e9),
    "train.flips": (0, 1),
    "train.map_cache_gb": (0, 1e6),
    "train.workers": (0, 1024),
    "predict.batch_size": (1, 1e6),
    "predict.score_threshold": (0, 1),
    "predict.nms_threshold": (0, 1),
    "predict.merge_threshold": (0, 1),
    "predict.max_detections": (1, 1e6),
}


def detection_recipe_from(values: Mapping[str, Any]) -> DetectionRecipe:
    """Build a recipe from nested tables, reporting every problem at once.

    ``method: NAME`` stands for ``method: {name: NAME}``.

    Raises:
        RecipeError: If a key is unknown (the nearest known one is named), a type is wrong or a value out of range.
    """
    values = dict(values)
    if isinstance(values.get("method"), str):
        values["method"] = {"name": values["method"]}
    problems: list[str] = []
    recipe: DetectionRecipe = fill_table(DetectionRecipe, values, ranges=RANGES, problems=problems)
    if not problems:
        problems = _cross_checks(recipe)
    if problems:
        raise RecipeError("the recipe has problems:\n" + "\n".join(f"  - {line}" for line in problems))
    return recipe


def to_yaml(recipe: DetectionRecipe) -> str:
    """Return the resolved recipe as YAML."""
    return yaml.safe_dump(tables(recipe), sort_keys=False)


def _cross_checks(recipe: DetectionRecipe) -> list[str]:
    data, method, problems = recipe.data, recipe.method, []
    if not data.train or not data.val:
        problems.append(
            "data.train and data.val must be set; give folders or zips with images/ and labelTxt/"
        )
    if data.overlap >= data.tile:
        problems.append(f"data.overlap {data.overlap} must be smaller than data.tile {data.tile}")
    if data.groups == "names" and not data.tail:
        problems.append("data.groups is names, but data.tail is empty")
    if data.groups == "counts" and data.tail_below > data.head_above + 1:
        problems.append(f"data.tail_below {data.tail_below} and data.head_above {data.head_above} overlap")
    if method.adapter == NO_ADAPTER and method.name in ("lora", "deblora"):
        problems.append(f"method.adapter none leaves nothing of method {method.name}; take zero-shot")
    if method.name == "deblora" and not method.adapter:
        problems.append(
            "method deblora needs method.adapter: cut object chips with `deblora detect chips`, adapt to them with "
            "`deblora run`, and name that run folder"
        )
    if method.adapter and method.name in ("zero-shot", "fine-tune", "scratch"):
        problems.append(f"method.adapter has no part in method {method.name}; remove it")
    problems += backbone_problems(tables(recipe.backbone))
    return problems
