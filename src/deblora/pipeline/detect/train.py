"""Stage ``train-detector``: pyramid and head on the extractor, and what the method trains inside it."""

import json
import logging
import shutil
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from deblora.detect.fcos.detector import OrientedFCOS, n_parameters
from deblora.detect.predict import precision
from deblora.detect.samples import MapOrder, MapStore, Tile, TileOrder, plan_tiles
from deblora.detect.training import Detect, DetectOnMaps, measured_background_ratio, save_weights, unassigned
from deblora.files import file_sha256, write_atomic
from deblora.models.adapters.lora import n_trainable, save_adapter
from deblora.models.backbone import Backbone
from deblora.models.maps import feature_maps, map_strides, size_multiple
from deblora.pipeline.adapter import PEFT_NAMES, save_history, sidecar
from deblora.pipeline.audited import class_names, train_counts
from deblora.pipeline.detect import model
from deblora.pipeline.detect.audit import image_sizes, open_split
from deblora.pipeline.open_model import model_settings, noise_settings
from deblora.recipe.detect import DetectionRecipe, DetectionTrainRecipe
from deblora.run.run_dir import RunDir, fingerprint
from deblora.run.stage import Stage
from deblora.train.loop import train

log = logging.getLogger("deblora")
NAME = "detector"
MAPS = "maps"
MANY_LOST = 0.05  # ours: share of unassigned objects from which the user is told
TILING = ("tile", "overlap", "zoom", "min_inside", "keep_empty", "scale", "ignore", "classes")
N_FIRST = 8  # tiles from which a network trained from scratch takes its batch-norm statistics


def _work(run: RunDir, recipe: DetectionRecipe) -> None:
    settings = recipe.train
    names = class_names(run)
    split = open_split(run, recipe.data, "train")
    backbone = model.open_extractor(recipe)
    spec = model.tile_spec(recipe, backbone)
    tiles = plan_tiles(
        image_sizes(run, "train"),
        split.labels,
        names,
        spec,
        min_inside=recipe.data.min_inside,
        keep_empty=recipe.data.keep_empty,
    )
    samples = TileOrder(
        tiles,
        split.files,
        spec,
        n_samples=settings.max_train_steps * settings.train_batch_size,
        seed=recipe.seed,
        flips=settings.flips,
        turns=settings.turns,
    )
    model.randomize(backbone, recipe, _first(samples, size_multiple(backbone)))
    ratio = recipe.method.background_ratio if recipe.method.name == "ecm" else None
    detector = _build(recipe, backbone, run, ratio)
    strides = _strides(detector, backbone, recipe.data.tile)
    lost = _lost(tiles, strides, names)
    if recipe.method.name == "ecm" and ratio is None:
        ratio = measured_background_ratio(tiles, strides, n_classes=len(names))
        detector = _build(recipe, backbone, run, ratio)
    facts = {**_facts(recipe, backbone, detector, tiles, ratio), "strides": strides, "share_unassigned": lost}
    objective, order = _on_maps(run, recipe, detector, backbone, samples)
    records = train(
        objective,
        order,
        folder=run.checkpoints(NAME),
        n_steps=settings.max_train_steps,
        batch_size=settings.train_batch_size,
        learning_rate=settings.learning_rate,
        checkpointing_steps=settings.checkpointing_steps,
        seed=recipe.seed,
        mixed_precision=recipe.mixed_precision,
        n_workers=settings.workers
        if order is samples
        else 0,  # maps are computed by the extractor, in this process
    )
    if model.is_joint(recipe):
        notes = sidecar(run, recipe, "detect")
        save_adapter(backbone, PEFT_NAMES["lora"], run.adapter(model.JOINT), notes)
    whole = recipe.method.name in ("fine-tune", "scratch")
    save_weights(model.weights_path(run), detector, with_extractor=whole)
    save_history(run, NAME, records)
    write_atomic(model.facts_path(run), json.dumps(facts, indent=1))
    shutil.rmtree(run.checkpoints(MAPS), ignore_errors=True)


def _on_maps(
    run: RunDir, recipe: DetectionRecipe, detector: OrientedFCOS, backbone: Backbone, samples: TileOrder
) -> tuple[nn.Module, Dataset[dict[str, torch.Tensor]]]:
    """Return what is trained on which samples: maps of an extractor that is frozen are computed once, if wanted."""
    settings = recipe.train
    if not settings.map_cache_gb or any(p.requires_grad for p in backbone.parameters()):
        return Detect(detector), samples
    place = model.device()
    backbone.to(place)

    @torch.no_grad()
    def extract(pixels: torch.Tensor) -> list[torch.Tensor]:
        with precision(recipe.mixed_precision, place):
            return [level[0] for level in feature_maps(backbone, pixels[None].to(place))]

    key = fingerprint(
        [
            model_settings(recipe.backbone),
            samples.spec.__dict__,
            recipe.mixed_precision,
            *noise_settings(recipe.backbone, seed=recipe.seed),
        ],
        {"adapters": model.adapter_settings(recipe.method), "images": file_sha256(run.samples)},
    )
    folder = Path(settings.map_cache) / key[:16] if settings.map_cache else run.checkpoints(MAPS)
    store = MapStore(folder, extract, max_bytes=int(settings.map_cache_gb * 1e9))
    order = MapOrder(samples, store, multiple=size_multiple(backbone))
    return DetectOnMaps(detector, order.layout), order


def _first(samples: TileOrder, multiple: int) -> torch.Tensor:
    """Return the first tiles, cut to a size that all of them have."""
    found = [samples[i] for i in range(min(N_FIRST, len(samples)))]
    least = torch.stack([one["extents"] for one in found]).amin(dim=0)
    rows, columns = (max(multiple, side // multiple * multiple) for side in least.tolist())
    return torch.stack([one["pixels"][:, :rows, :columns] for one in found])


def _build(recipe: DetectionRecipe, backbone: Backbone, run: RunDir, ratio: float | None) -> OrientedFCOS:
    return model.build(
        recipe, backbone, model.scoring_for(recipe.method, train_counts(run), background_ratio=ratio)
    )


@torch.no_grad()
def _strides(detector: OrientedFCOS, backbone: Backbone, tile: int) -> tuple[float, ...]:
    blank = torch.zeros(1, backbone.spec.n_bands, tile, tile)
    return detector.pyramid.strides(map_strides(blank, feature_maps(backbone, blank)))


def _lost(tiles: list[Tile], strides: tuple[float, ...], names: tuple[str, ...]) -> dict[str, float]:
    """Return the share of objects that no location learns, by class, and warn of classes that lose many."""
    n_seen, n_lost = unassigned(tiles, strides, n_classes=len(names))
    shares = {name: n_lost[i] / n_seen[i] for i, name in enumerate(names) if n_seen[i]}
    for name, share in shares.items():
        if share > MANY_LOST:
            log.warning(
                "%.0f %% of the objects of class %s hold no location of the level that learns their size (narrow ones "
                "slip between locations, %g px apart at the finest level), so nothing is learned from them; raise "
                "data.zoom, or for a backbone with a single map add a finer level (head.scales)",
                100 * share,
                name,
                strides[0],
            )
    return {name: round(float(share), 4) for name, share in shares.items()}


def _facts(
    recipe: DetectionRecipe,
    backbone: Backbone,
    detector: OrientedFCOS,
    tiles: list[Tile],
    ratio: float | None,
) -> dict[str, object]:
    total, trained = n_parameters(backbone)
    return {
        "method": recipe.method.name,
        "backbone": backbone.name,
        "weights_sha256": backbone.weights_sha256,
        "adapter": "joint" if model.is_joint(recipe) else recipe.method.adapter,
        "n_extractor": total,
        "n_extractor_trained": trained,
        "n_head": sum(p.numel() for p in (*detector.pyramid.parameters(), *detector.head.parameters())),
        "n_trained": n_trainable(detector),
        "n_tiles": len(tiles),
        "n_objects_on_tiles": sum(len(tile.labels) for tile in tiles),
        "background_ratio": ratio,
        "seed": recipe.seed,
    }


def _settings(recipe: DetectionRecipe) -> list[object]:
    return [
        model_settings(recipe.backbone),
        {key: getattr(recipe.data, key) for key in TILING},
        recipe.method,
        model.adapter_settings(recipe.method),
        recipe.head,
        _that_change_weights(recipe.train),
        recipe.mixed_precision,
    ]


def _that_change_weights(settings: DetectionTrainRecipe) -> dict[str, object]:
    """Leave out where maps lie and who reads tiles."""
    return {**{key: value for key, value in settings.__dict__.items() if key != "workers"}, "map_cache": None}


STAGE = Stage[DetectionRecipe](
    name="train-detector",
    settings=_settings,
    inputs=lambda run: [run.samples, run.groups],
    outputs=lambda run: [model.weights_path(run), model.facts_path(run), run.history(NAME)],
    work=_work,
)
