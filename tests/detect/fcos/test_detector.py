"""The whole detector: parts of its loss, gradients, determinism, and that it can learn two images by heart."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deblora.detect.fcos.assign import (
    AngleCoding,
    Targets,
    background_ratio,
    encode,
    grid_points,
    sides_from_boxes,
)
from deblora.detect.fcos.class_loss import FocalScoring, MarginScoring, Scoring, class_balanced_weights
from deblora.detect.fcos.detector import OrientedFCOS, build_detector
from deblora.detect.fcos.head import FCOSHead, Level, build_pyramid
from deblora.detect.fcos.loss import BoxLoss, detection_losses
from deblora.detect.overlap import pairwise_iou
from deblora.detect.samples import MapLayout
from deblora.detect.training import Detect, DetectOnMaps
from deblora.models.adapters.lora import attach_lora
from deblora.models.backbone import load_backbone

SIZE = 64
BOXES = [
    torch.tensor([[18.0, 18, 26, 10, 0.5], [46, 44, 28, 12, -1.5], [16, 48, 14, 14, 0.3]]),
    torch.tensor([[40.0, 16, 34, 12, -0.2], [20, 42, 30, 10, 1.5], [50, 50, 16, 15, 0.3]]),
]
LABELS = [torch.tensor([0, 1, 2]), torch.tensor([1, 0, 2])]


def paint(boxes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Noise with one bright rectangle per box, its class in its band."""
    image = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 0.2
    for box, label in zip(boxes, labels, strict=True):
        inside = sides_from_boxes(grid_points(SIZE, SIZE, 1), box[None]).amin(dim=1) > 0
        image[int(label)][inside.reshape(SIZE, SIZE)] += 1
    return image


def pixels() -> torch.Tensor:
    return torch.stack([paint(boxes, labels) for boxes, labels in zip(BOXES, LABELS, strict=True)])


def tiny(
    scoring: Scoring | None = None, *, angle: AngleCoding = "vector", box_loss: BoxLoss = "riou"
) -> OrientedFCOS:
    """A detector on three convolutions, with levels of stride 8 and 16."""
    torch.manual_seed(0)
    scoring = scoring or FocalScoring(3)
    widths = (3, 16, 32, 32)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.ReLU()]
    pyramid = build_pyramid([32], 32, scales=(1, 0.5), n_extra=0)
    head = FCOSHead(32, pyramid.n_levels, bias=scoring.bias, angle=angle, n_convs=1)
    return OrientedFCOS(
        nn.Sequential(*layers),
        pyramid,
        head,
        scoring,
        angle=angle,
        box_loss=box_loss,
        maps=lambda extractor, x: [extractor(x)],
    )


def targets_of(detector: OrientedFCOS) -> list[Targets]:
    return detector.targets(detector(pixels()), BOXES, LABELS)


def test_it_learns_two_images_by_heart() -> None:
    detector, images = tiny(), pixels()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=70)
    for _ in range(70):
        outputs = detector(images)
        loss = detector.loss([(outputs, detector.targets(outputs, BOXES, LABELS))])["loss"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 35.0)
        optimizer.step()
        schedule.step()
    overlaps = []
    for found, boxes, labels in zip(
        detector.decode(detector(images), score_threshold=0.3), BOXES, LABELS, strict=True
    ):
        assert len(found.boxes) == len(boxes)
        best, place = pairwise_iou(boxes, found.boxes).max(dim=1)
        assert torch.equal(found.labels[place], labels)
        overlaps += best.tolist()
    assert sum(overlaps) / len(overlaps) > 0.8
    assert min(overlaps[:2] + overlaps[3:5]) > 0.7  # the third of each image is a square: no angle to learn


@pytest.mark.parametrize(
    ("scoring", "angle", "box_loss"),
    [
        (FocalScoring(3), "vector", "riou"),
        (FocalScoring(3), "vector", "kld"),
        (FocalScoring(3), "raw", "riou"),
        (FocalScoring(3), "raw", "kld"),
        (FocalScoring(3, weights=class_balanced_weights(np.array([2, 20, 200]))), "vector", "riou"),
        (MarginScoring(np.array([2, 20, 200]), background_ratio=30.0), "vector", "riou"),
    ],
)
def test_every_parameter_gets_a_finite_gradient(
    scoring: Scoring, angle: AngleCoding, box_loss: BoxLoss
) -> None:
    detector = tiny(scoring, angle=angle, box_loss=box_loss)
    losses = detector.loss([(detector(pixels()), targets_of(detector))])
    parts = {"class", "box", "centerness"} | ({"angle"} if angle == "vector" else set())
    assert set(losses) == parts | {"loss"}
    torch.testing.assert_close(losses["loss"], torch.stack([losses[part] for part in parts]).sum())
    losses["loss"].backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("angle", ["vector", "raw"])
def test_images_without_objects_have_a_loss_and_gradients(angle: AngleCoding) -> None:
    detector = tiny(angle=angle)
    outputs = detector(pixels())
    none = [torch.zeros(0, 5)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2
    losses = detector.loss([(outputs, detector.targets(outputs, *none))])
    assert float(losses["class"].detach()) > 0
    assert all(float(losses[part].detach()) == 0 for part in losses if part not in ("class", "loss"))
    losses["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in detector.parameters())


def test_perfect_outputs_have_no_box_and_angle_loss() -> None:
    points = [grid_points(8, 8, 8), grid_points(4, 4, 16)]
    detector = tiny()
    boxes, labels = [BOXES[1]] * 2, [LABELS[1]] * 2  # no exact square, whose angle would be lost
    targets = detector.targets(detector(pixels()), boxes, labels)
    levels, start = [], 0
    for place, stride in zip(points, (8.0, 16.0), strict=True):
        rows = slice(start, start + len(place))
        written = [encode(place, target.boxes[rows], "vector") for target in targets]
        logits = torch.full((2, len(place), 3), -30.0)
        for i, target in enumerate(targets):
            own = target.labels[rows]
            logits[i, own < 3, own[own < 3]] = 30.0
        center = torch.stack([target.centerness[rows] for target in targets]).clamp(1e-6, 1 - 1e-6).logit()
        lengths, angle = (torch.stack(part) for part in zip(*written, strict=True))
        levels.append(
            Level(logits, lengths, angle, center, place, stride, torch.ones(len(place), dtype=torch.bool))
        )
        start += len(place)
    losses = detection_losses([(levels, targets)], FocalScoring(3))
    assert float(losses["class"]) < 1e-6
    assert float(losses["box"]) == pytest.approx(0, abs=1e-4)
    assert float(losses["angle"]) == pytest.approx(0, abs=1e-6)
    weight = torch.cat([target.centerness[target.labels < 3] for target in targets])
    entropy = -(weight * weight.log() + (1 - weight) * (1 - weight).log()).nan_to_num()
    assert float(losses["centerness"]) == pytest.approx(float(entropy.mean()), rel=1e-3)


def test_the_order_of_boxes_does_not_matter() -> None:
    detector = tiny()
    outputs = detector(pixels())
    first = detector.loss([(outputs, detector.targets(outputs, BOXES, LABELS))])
    order = torch.tensor([2, 0, 1])
    other = detector.targets(outputs, [b[order] for b in BOXES], [y[order] for y in LABELS])
    second = detector.loss([(outputs, other)])
    assert all(torch.equal(first[part], second[part]) for part in first)


def test_an_image_is_detected_alike_alone_and_in_a_batch() -> None:
    detector = tiny().eval()
    images = pixels()
    both = detector.decode(detector(images), score_threshold=0.005)
    (alone,) = detector.decode(detector(images[1:]), score_threshold=0.005)
    assert len(alone.boxes) > 0
    torch.testing.assert_close(both[1].boxes, alone.boxes, rtol=1e-4, atol=1e-3)


def test_the_background_ratio_feeds_the_margins() -> None:
    ratio = background_ratio(targets_of(tiny()), n_classes=3)
    assert 1 < ratio < 160
    assert MarginScoring(np.array([2, 2, 2]), background_ratio=ratio).n_channels == 4


def test_targets_of_another_size_are_refused() -> None:
    detector = tiny()
    with pytest.raises(ValueError, match="locations"):
        detector.loss([(detector(pixels()), targets_of(detector)[:1])])


def test_a_detector_on_the_embedded_backbone_with_an_adapter() -> None:
    backbone = load_backbone("embedded", path=None)
    attach_lora(backbone, rank=2, alpha=2, seed=0)
    detector = build_detector(backbone, FocalScoring(3), seed=0, n_channels=16, n_convs=1, scales=(1, 0.5))
    outputs = detector(torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(0)))
    assert [level.stride for level in outputs] == [8, 16, 32, 64]
    assert [len(level.points) for level in outputs] == [12 * 8, 6 * 4, 3 * 2, 2 * 1]
    detector.loss([(outputs, detector.targets(outputs, BOXES[:1], LABELS[:1]))])["loss"].backward()
    for name, parameter in detector.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.requires_grad == (not name.startswith("extractor") or "lora_" in name), name
    assert not any(module.training for module in detector.train().extractor.encoder.modules())  # type: ignore[union-attr]


def test_the_same_seed_gives_the_same_detector() -> None:
    backbone = load_backbone("embedded", path=None)
    state = torch.get_rng_state()
    a, b, c = (
        build_detector(backbone, FocalScoring(2), seed=seed, n_channels=8, n_convs=1) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a.head.logits.weight, b.head.logits.weight)
    assert not torch.equal(a.head.logits.weight, c.head.logits.weight)


def test_a_saved_detector_detects_alike() -> None:
    first, second = tiny().eval(), tiny().eval()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.01)
    second.load_state_dict(first.state_dict())
    found = [d.decode(d(pixels()), score_threshold=0.005)[0].boxes for d in (first, second)]
    assert torch.equal(found[0], found[1])


def test_images_of_any_size_are_filled_up_and_nothing_is_found_or_learned_beyond_them() -> None:
    detector = build_detector(
        load_backbone("embedded", path=None), FocalScoring(2), seed=0, n_channels=8, n_convs=1
    )
    outputs = detector(torch.zeros(1, 3, 50, 60))
    assert [len(level.points) for level in outputs][:2] == [14 * 16, 7 * 8]
    for level in outputs:
        assert torch.equal(level.inside, (level.points[:, 0] < 60) & (level.points[:, 1] < 50))
    assert not all(level.inside.all() for level in outputs)
    targets = detector.targets(outputs, [torch.zeros(0, 5)], [torch.zeros(0, dtype=torch.int64)])
    losses = detector.loss([(outputs, targets)])
    for level in outputs:
        with torch.no_grad():
            level.logits[:, ~level.inside] = 9.0
    assert torch.equal(detector.loss([(outputs, targets)])["class"], losses["class"])
    (found,) = detector.decode(outputs, score_threshold=0.9)
    assert len(found.boxes) == 0


def test_a_batch_of_two_sizes_has_the_loss_of_its_parts() -> None:
    detector = tiny()
    boxes, labels = torch.stack(BOXES), torch.stack(LABELS)
    extents = torch.tensor([[64, 64], [64, 48]])
    both = Detect(detector)(pixels=pixels(), boxes=boxes, labels=labels, extents=extents)["loss"]
    parts = []
    for i, (rows, columns) in enumerate(extents.tolist()):
        outputs = detector(pixels()[i : i + 1, :, :rows, :columns])
        parts.append((outputs, detector.targets(outputs, BOXES[i : i + 1], LABELS[i : i + 1])))
    assert torch.equal(both, detector.loss(parts)["loss"])
    other = pixels()
    other[1, :, :, 48:] = 7.0  # what a tile is filled up with does not matter
    again = Detect(detector)(pixels=other, boxes=boxes, labels=labels, extents=extents)["loss"]
    assert torch.equal(both, again)


def test_values_do_not_grow_from_level_to_level() -> None:
    pyramid = build_pyramid([8, 16, 24], 32)
    torch.manual_seed(0)
    maps = [torch.randn(1, n, 64 // s, 64 // s) * 30 for n, s in ((8, 2), (16, 4), (24, 8))]
    sizes = [float(level.detach().square().mean().sqrt()) for level in pyramid(maps)]
    assert max(sizes) < 1.5 * min(sizes)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "folder", "strides"),
    [
        ("galileo-nano", "galileo_nano", [8, 16, 32, 64]),
        ("efficientnet-lite0", "efficientnet_lite0_in1k", [8, 16, 32, 64, 128]),
    ],
)
def test_detectors_on_real_weights(
    shared: Callable[[str], Path], name: str, folder: str, strides: list[float]
) -> None:
    backbone = load_backbone(name, path=shared(f"weights/{folder}"))
    detector = build_detector(backbone, FocalScoring(3), seed=0, n_channels=16, n_convs=1, scales=(1, 0.5))
    outputs = detector(torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)))
    assert [level.stride for level in outputs] == strides
    loss = detector.loss([(outputs, detector.targets(outputs, BOXES[:1], LABELS[:1]))])["loss"]
    assert math.isfinite(float(loss.detach()))


def test_the_loss_on_maps_is_the_loss_on_pixels() -> None:
    detector = tiny()
    boxes, labels = torch.stack(BOXES), torch.stack(LABELS)
    with torch.no_grad():
        maps = detector.extractor(pixels())
    extents = torch.tensor([[SIZE, SIZE]] * 2)
    on_pixels = Detect(detector)(pixels=pixels(), boxes=boxes, labels=labels, extents=extents)["loss"]
    on_maps = DetectOnMaps(detector, MapLayout((maps.shape[1],), (8,), 8))(
        maps=maps.flatten(1), boxes=boxes, labels=labels, extents=extents
    )["loss"]
    assert torch.equal(on_pixels, on_maps)
    on_maps.backward()
    assert all((p.grad is None) == name.startswith("extractor") for name, p in detector.named_parameters())
