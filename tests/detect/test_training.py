"""The whole chain, tiles to average precision, learns a few scenes by heart on stored maps of the embedded ViT."""

from pathlib import Path

import numpy as np
import torch

from deblora.data.longtail import Groups
from deblora.data.scenes.labeled_images import read_detection_set
from deblora.detect.average_precision import summarize_detections
from deblora.detect.fcos.class_loss import FocalScoring
from deblora.detect.fcos.detector import build_detector
from deblora.detect.predict import detector_function, predict_scene
from deblora.detect.samples import MapOrder, MapStore, TileOrder, plan_tiles
from deblora.detect.tiling import TileSpec
from deblora.detect.training import DetectOnMaps
from deblora.models.backbone import load_backbone
from deblora.models.maps import feature_maps
from deblora.pipeline.detect.predict import as_quads
from deblora.train.loop import train
from toy_scenes import NAMES

N_STEPS = 150


def test_a_few_scenes_are_learned_by_heart(scenes: Path, tmp_path: Path) -> None:
    backbone = load_backbone("embedded", path=None)
    found = read_detection_set(scenes / "train")
    spec = TileSpec(64, 16, 1.0, backbone.spec.mean, backbone.spec.std, backbone.spec.scale)
    tiles = plan_tiles(dict.fromkeys(found.names, (64, 64)), found.labels, NAMES, spec)
    order = TileOrder(tiles, found.files, spec, n_samples=4 * N_STEPS, seed=0, flips=0.0, turns=False)

    @torch.no_grad()
    def extract(pixels: torch.Tensor) -> list[torch.Tensor]:
        return [level[0] for level in feature_maps(backbone, pixels[None])]

    maps = MapOrder(order, MapStore(tmp_path / "maps", extract, max_bytes=10**8), multiple=8)
    detector = build_detector(backbone, FocalScoring(3), seed=0, n_channels=32, n_convs=1, scales=(1, 0.5))
    train(
        DetectOnMaps(detector, maps.layout),
        maps,
        folder=tmp_path / "checkpoints",
        n_steps=N_STEPS,
        batch_size=4,
        learning_rate=1e-2,
        checkpointing_steps=N_STEPS,
    )
    detect = detector_function(
        detector, device=torch.device("cpu"), score_threshold=0.05, nms_threshold=0.1, max_detections=50
    )
    detections = {
        name: predict_scene(found.files.open(name), detect, spec, batch_size=1, merge_threshold=0.1)
        for name in found.names
    }
    summary = summarize_detections(
        as_quads(detections, NAMES), found.labels, NAMES, Groups((0,), (1,), (2,)), protocol="dota1.0"
    )
    assert summary["groups"]["map50"]["all"] > 0.9
    assert min(row["best_f1"] for row in summary["classes"]) > 0.8
    assert np.mean([row["ap50_95"] for row in summary["classes"]]) > 0.4
