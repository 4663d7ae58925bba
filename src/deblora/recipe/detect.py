"""The recipe of oriented detection: one frozen dataclass per table; each default with its source."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from deblora.recipe.classify import BackboneRecipe, backbone_checks, group_checks
from deblora.recipe.engine import STRICT, Number, Problem, settings_from, to_yaml

__all__ = ["METHODS", "DetectionRecipe", "detection_recipe_from", "to_yaml"]

MethodName = Literal["zero-shot", "fine-tune", "lora", "reweight", "ecm", "deblora", "scratch"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)
NO_ADAPTER = "none"  # value of method.adapter


@dataclass(frozen=True, config=STRICT)
class DetectionDataRecipe:
    """Which scenes, which classes, how they are cut."""

    train: str = ""
    """Folder or zip with ``images/`` and ``labelTxt/``: all that training and class counts see."""
    val: str = ""
    """The same for choices and for the scores that a training run reports."""
    test: str = ""
    """The same; only ``deblora detect test`` reads it."""
    classes: list[str] = Field(default_factory=list)
    """Classes to detect; empty takes those of the training labels."""
    ignore: list[str] = Field(default_factory=list)
    """Classes whose objects are left out everywhere."""
    protocol: Literal["dota1.0", "dota1.5"] = "dota1.0"
    """``dota1.0`` honors the difficult flag in evaluation, ``dota1.5`` counts every object."""
    groups: Literal["thirds", "counts", "names", "reference"] = "thirds"
    """Head, middle, tail by thirds of the count order, by counts, by names, or DOTA's reference."""
    head_above: Annotated[int, Field(ge=0, le=10**12)] = 10_000
    """With counts: head classes have more training objects (authors' code: 10000)."""
    tail_below: Annotated[int, Field(ge=0, le=10**12)] = 1000
    """With counts: tail classes have fewer training objects (authors' code: 1000)."""
    head: list[str] = Field(default_factory=list)
    """With names: the head classes."""
    tail: list[str] = Field(default_factory=list)
    """With names: the tail classes."""
    tile: Annotated[int, Field(ge=32, le=65_536)] = 1024
    """Side of a tile as the model sees it, pixels (mmrotate: 1024)."""
    overlap: Annotated[int, Field(ge=0, le=65_535)] = 200
    """Pixels of the tile that neighbors share at least (mmrotate: 200)."""
    zoom: Annotated[Number, Field(ge=0.001, le=100)] = 1.0
    """Pixels of the tile per pixel of the scene; below 1 shrinks."""
    min_inside: Annotated[Number, Field(ge=1e-6, le=1)] = 0.7
    """Least share of an object's area inside a tile (mmrotate: 0.7)."""
    keep_empty: bool = False
    """Train on tiles without objects too (mmrotate: no)."""
    scale: Annotated[Number | None, Field(ge=1e-9, le=1e12)] = None
    """Pixel value that counts as 1; null takes the backbone's (255 for pictures)."""


@dataclass(frozen=True, config=STRICT)
class MethodRecipe:
    """Which row of the table: what is trained in the extractor, and the class loss."""

    name: MethodName = "lora"
    """The row."""
    adapter: str | None = None
    """A finished ``deblora run`` folder (or one PEFT folder) on object chips; frozen here. Null trains LoRA
    together with the head; ``none`` leaves the extractor as it is (``reweight`` and ``ecm``: the class
    loss alone). ``deblora`` needs a folder."""
    rank: Annotated[int, Field(ge=1, le=4096)] = 8
    """Inner size of LoRA trained here (authors' code: 8)."""
    alpha: Annotated[Number | None, Field(ge=1e-6, le=1e6)] = None
    """Scale times rank; null means alpha = rank (our choice)."""
    targets: list[str] | None = None
    """Modules to adapt; null takes the backbone's own list."""
    beta: Annotated[Number, Field(ge=0, le=0.9999999999)] = 0.9999
    """Of class-balanced weights, with ``reweight`` (arXiv 1901.05555)."""
    background_ratio: Annotated[Number | None, Field(ge=1e-6, le=1e9)] = None
    """Of ECM; null measures it with the assigner on the training tiles."""


@dataclass(frozen=True, config=STRICT)
class HeadRecipe:
    """Pyramid and head."""

    n_channels: Annotated[int, Field(ge=8, le=4096)] = 256
    """Channels of every level (mmrotate: 256)."""
    n_convs: Annotated[int, Field(ge=1, le=16)] = 4
    """Convolutions per tower (mmrotate: 4)."""
    scales: list[Number] = Field(default_factory=list)
    """Levels from one map, relative to its size; empty makes the finest stride 8 (or next to it)."""
    angle: Literal["vector", "raw"] = "vector"
    """Anisotropy vector (ours), or the plain angle of the reference."""
    box_loss: Literal["riou", "kld"] = "riou"
    """Rotated IoU or Gaussian distance."""


@dataclass(frozen=True, config=STRICT)
class DetectionTrainRecipe:
    """Training: AdamW with a cosine schedule, as for the other trainings here (ours; mmrotate has SGD, 12 epochs)."""

    learning_rate: Annotated[Number, Field(ge=1e-9, le=10)] = 0.001
    """Peak rate (our choice)."""
    max_train_steps: Annotated[int, Field(ge=1, le=10**9)] = 2000
    """Optimizer steps (our choice)."""
    train_batch_size: Annotated[int, Field(ge=1, le=10**6)] = 4
    """Tiles per step (mmrotate: 2 per GPU)."""
    checkpointing_steps: Annotated[int, Field(ge=1, le=10**9)] = 100
    """Steps between checkpoints."""
    flips: Annotated[Number, Field(ge=0, le=1)] = 0.75
    """Probability of a flip (mmrotate: .75 over three kinds); 0 for SAR."""
    turns: bool = True
    """Turn by random quarters; off for SAR."""
    map_cache_gb: Annotated[Number, Field(ge=0, le=1e6)] = 8.0
    """Disk for the feature maps of a frozen extractor, in half precision: each view of a tile then passes the
    extractor once, and steps cost pyramid and head only. 0 computes maps in every step (ours)."""
    map_cache: str | None = None
    """Folder for these maps that several runs share (seeds, class losses); each extractor gets a folder of
    its own in it. Null keeps them in the run folder until training is finished."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes that read and cut tiles while the step before runs; 0 does it in between. No part in training
    on stored maps. For GPUs: reading a tile of 1024 px keeps a core busy for about 50 ms (ours)."""


@dataclass(frozen=True, config=STRICT)
class PredictRecipe:
    """Prediction (mmrotate's values)."""

    batch_size: Annotated[int, Field(ge=1, le=10**6)] = 4
    """Windows per forward pass."""
    score_threshold: Annotated[Number, Field(ge=0, le=1)] = 0.05
    """Least class score."""
    nms_threshold: Annotated[Number, Field(ge=0, le=1)] = 0.1
    """Largest IoU of two detections of a class in a window."""
    merge_threshold: Annotated[Number, Field(ge=0, le=1)] = 0.1
    """The same over the whole scene (mmrotate: 0.1, devkit: 0.3)."""
    max_detections: Annotated[int, Field(ge=1, le=10**6)] = 2000
    """Per window."""


@dataclass(frozen=True, config=STRICT)
class DetectionRecipe:
    """Everything a detection run depends on."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of head, adapters, order and augmentation."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of training and prediction. ``bf16`` also works on CPUs: those with bf16 instructions are
    faster with it (measured: EfficientNet-Lite0 2.7 times), others slower."""
    data: DetectionDataRecipe = Field(default_factory=DetectionDataRecipe)
    backbone: BackboneRecipe = Field(default_factory=BackboneRecipe)
    method: MethodRecipe = Field(default_factory=MethodRecipe)
    head: HeadRecipe = Field(default_factory=HeadRecipe)
    train: DetectionTrainRecipe = Field(default_factory=DetectionTrainRecipe)
    predict: PredictRecipe = Field(default_factory=PredictRecipe)


MOST_USED = (
    "seed",
    *("data.train", "data.val", "data.test", "data.groups", "data.tile"),
    *("backbone.name", "backbone.path", "method.name", "method.adapter", "head.n_channels"),
    *("train.learning_rate", "train.max_train_steps", "train.train_batch_size", "train.flips"),
    *("predict.score_threshold",),
)
"""Settings that the help of a command shows, at least one of each table (ours)."""


def detection_recipe_from(values: Mapping[str, Any]) -> DetectionRecipe:
    """Build a recipe from nested tables, reporting every problem at once.

    ``method: NAME`` stands for ``method: {name: NAME}``.

    Raises:
        RecipeError: If a key is unknown (the nearest known one is named), a type is wrong, a value out of range or
            two settings do not fit.
    """
    values = dict(values)
    if isinstance(values.get("method"), str):
        values["method"] = {"name": values["method"]}
    return settings_from(DetectionRecipe, values, checks=_checks)


def _checks(recipe: DetectionRecipe) -> Iterator[Problem]:
    """Yield what is wrong between settings."""
    data = recipe.data
    if not data.train or not data.val:
        yield Problem(
            ("data.train", "data.val"),
            "data.train and data.val must be set; give folders or zips with images/ and labelTxt/",
        )
    if data.overlap >= data.tile:
        yield Problem(
            ("data.overlap", "data.tile"),
            f"data.overlap {data.overlap} must be smaller than data.tile {data.tile}",
        )
    yield from group_checks(data)
    yield from _method_checks(recipe.method)
    yield from backbone_checks(recipe.backbone)


def _method_checks(method: MethodRecipe) -> Iterator[Problem]:
    names = ("method.name", "method.adapter")
    if method.adapter == NO_ADAPTER and method.name in ("lora", "deblora"):
        yield Problem(names, f"method.adapter none leaves nothing of method {method.name}; take zero-shot")
    if method.name == "deblora" and not method.adapter:
        yield Problem(
            names,
            "method deblora needs method.adapter: cut object chips with `deblora detect chips`, adapt to them with "
            "`deblora run`, and name that run folder",
        )
    if method.adapter and method.name in ("zero-shot", "fine-tune", "scratch"):
        yield Problem(names, f"method.adapter has no part in method {method.name}; remove it")
