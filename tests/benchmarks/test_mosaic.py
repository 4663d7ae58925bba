"""A detector finds on a scene what it finds on images smaller than its tiles: nothing depends on filling."""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from mosaic import lay_out, take_apart

from deblora.data.longtail import Groups
from deblora.data.scenes.labeled_images import DetectionSet, read_detection_set
from deblora.data.scenes.rasters import ArrayScene
from deblora.detect.average_precision import summarize_detections
from deblora.detect.fcos.class_loss import FocalScoring
from deblora.detect.fcos.detector import OrientedFCOS, build_detector, train_all
from deblora.detect.fcos.head import FCOSHead, build_pyramid
from deblora.detect.predict import SceneDetections, detector_function, predict_scene
from deblora.detect.samples import TileOrder, plan_tiles
from deblora.detect.tiling import TileSpec
from deblora.detect.training import Detect
from deblora.models.adapters.lora import attach_lora
from deblora.models.backbone import load_backbone
from deblora.pipeline.detect.predict import as_quads
from deblora.train.loop import train
from toy_scenes import NAMES

TILE, SIDE = 128, 64
"""Three quarters of a tile would be filling."""


def test_what_is_laid_out_comes_apart_again(rng: np.random.Generator) -> None:
    images = {f"i{n}": rng.integers(0, 255, (20 + n, 30, 3), dtype=np.uint8) for n in range(5)}
    whole, places = lay_out(images)
    for name, (x, y) in places.items():
        height, width = images[name].shape[:2]
        assert (whole[y : y + height, x : x + width] == images[name]).all()
    boxes = np.array([[x + 3.0, y + 4, 5, 2, 0.1] for x, y in places.values()])
    found = SceneDetections(boxes, np.ones(5), np.arange(5))
    parts = take_apart(found, places, {name: image.shape[:2] for name, image in images.items()})
    assert [part.labels.tolist() for part in parts.values()] == [[i] for i in range(5)]
    assert all(part.boxes[0, :2].tolist() == [3, 4] for part in parts.values())


def detector_of(kind: str) -> OrientedFCOS:
    """A small detector: a CNN trained as a whole, or the embedded ViT frozen or with LoRA."""
    if kind == "cnn":
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise((3, 16, 32, 32)):
            layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.ReLU()]
        pyramid, scoring = build_pyramid([32], 32, scales=(1, 0.5), n_extra=0), FocalScoring(3)
        head = FCOSHead(32, pyramid.n_levels, bias=scoring.bias, n_convs=1)
        return OrientedFCOS(
            nn.Sequential(*layers),
            pyramid,
            head,
            scoring,
            maps=lambda extractor, x: [extractor(x)],
            multiple=8,
        )
    backbone = load_backbone("embedded", path=None)
    if kind == "lora":
        attach_lora(backbone, rank=2, alpha=2, seed=0)
    elif kind == "fine-tune":
        train_all(backbone)
    return build_detector(backbone, FocalScoring(3), seed=0, n_channels=32, n_convs=1, scales=(1, 0.5))


def map50(found: dict[str, SceneDetections], truth: DetectionSet) -> float:
    summary = summarize_detections(
        as_quads(found, NAMES), truth.labels, NAMES, Groups((0,), (1,), (2,)), protocol="dota1.0"
    )
    return float(summary["groups"]["map50"]["all"])


@pytest.mark.parametrize(
    ("kind", "n_steps"), [("cnn", 250), ("frozen", 60), ("lora", 60), ("fine-tune", 100)]
)
def test_images_and_their_mosaic_have_the_same_score(
    kind: str, n_steps: int, scenes: Path, tmp_path: Path
) -> None:
    found = read_detection_set(scenes / "train")
    spec = TileSpec(TILE, 32, 1.0, (0.25,) * 3, (0.25,) * 3, 255.0)
    tiles = plan_tiles(dict.fromkeys(found.names, (SIDE, SIDE)), found.labels, NAMES, spec)
    detector = detector_of(kind)
    order = TileOrder(tiles, found.files, spec, n_samples=4 * n_steps, seed=0, flips=0.0, turns=False)
    train(
        Detect(detector), order, folder=tmp_path, n_steps=n_steps, batch_size=4,
        learning_rate=3e-3 if kind == "fine-tune" else 1e-2, checkpointing_steps=n_steps,
    )  # fmt: skip
    detect = detector_function(
        detector, device=torch.device("cpu"), score_threshold=0.05, nms_threshold=0.1, max_detections=50
    )
    images = {name: found.files.open(name).read(0, 0, SIDE, SIDE) for name in found.names}
    whole, places = lay_out(images)
    alone = {
        name: predict_scene(ArrayScene(image), detect, spec, batch_size=1, merge_threshold=0.1)
        for name, image in images.items()
    }
    together = predict_scene(ArrayScene(whole), detect, spec, batch_size=1, merge_threshold=0.1)
    one, other = (
        map50(alone, found),
        map50(take_apart(together, places, dict.fromkeys(images, (SIDE, SIDE))), found),
    )
    assert one > 0.8
    assert abs(one - other) <= 0.05
