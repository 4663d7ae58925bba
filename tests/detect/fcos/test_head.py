"""The head's outputs, and detections decoded from outputs made by hand from the targets."""

import math

import numpy as np
import pytest
import torch

from deblora.detect.fcos.assign import AngleCoding, assign, encode, grid_points
from deblora.detect.fcos.class_loss import FocalScoring, MarginScoring
from deblora.detect.fcos.head import FCOSHead, Level, decode
from deblora.detect.overlap import pairwise_iou

STRIDES = [8.0, 16.0, 32.0]
SIZE = 256


def perfect_levels(
    boxes: torch.Tensor, labels: torch.Tensor, n_classes: int, coding: AngleCoding
) -> list[Level]:
    """Outputs that say exactly what the targets say, for one image."""
    points = [grid_points(int(SIZE / s), int(SIZE / s), s) for s in STRIDES]
    targets = assign(points, STRIDES, boxes, labels, n_classes=n_classes)
    levels, start = [], 0
    for place, stride in zip(points, STRIDES, strict=True):
        end = start + len(place)
        own, classes = targets.boxes[start:end], targets.labels[start:end]
        logits = torch.full((len(place), n_classes), -8.0)
        positive = classes < n_classes
        logits[positive, classes[positive]] = 8.0
        lengths, angle = encode(place, own, coding)
        levels.append(
            Level(
                logits=logits[None],
                lengths=lengths[None],
                angle=angle[None],
                centerness=targets.centerness[start:end].clamp(1e-4, 1 - 1e-4).logit()[None],
                points=place,
                stride=stride,
                inside=torch.ones(len(place), dtype=torch.bool),
            )
        )
        start = end
    return levels


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    boxes = torch.tensor(
        [
            [60.0, 60, 50, 20, 0.4],
            [60.0, 150, 90, 30, -1.2],
            [180.0, 70, 30, 12, -math.pi / 2],
            [190.0, 180, 110, 50, 1.5],
            [120.0, 220, 24, 10, 0.0],
        ]
    )
    return boxes, torch.tensor([0, 1, 2, 1, 0])


@pytest.mark.parametrize("coding", ["vector", "raw"])
def test_what_is_encoded_is_detected(coding: AngleCoding) -> None:
    boxes, labels = scene()
    (found,) = decode(perfect_levels(boxes, labels, 3, coding), FocalScoring(3), coding=coding)
    assert len(found.boxes) == len(boxes)
    iou = pairwise_iou(found.boxes, boxes)
    assert iou.amax(dim=1).min() > 0.999
    assert torch.equal(labels[iou.argmax(dim=1)], found.labels)
    assert (found.scores[:-1] >= found.scores[1:]).all()
    assert (found.boxes[:, 4].abs() <= math.pi / 2 + 1e-6).all()


def test_options_of_decoding() -> None:
    boxes, labels = scene()
    levels = perfect_levels(boxes, labels, 3, "vector")
    (all_of_them,) = decode(levels, FocalScoring(3))
    (best,) = decode(levels, FocalScoring(3), max_detections=2)
    assert torch.equal(best.boxes, all_of_them.boxes[:2])
    (none,) = decode(levels, FocalScoring(3), score_threshold=0.9999)
    assert none.boxes.shape == (0, 5)
    assert none.scores.shape == none.labels.shape == (0,)
    (repeated,) = decode(levels, FocalScoring(3), nms_threshold=1.0)
    assert len(repeated.boxes) > len(boxes)
    (few,) = decode(levels, FocalScoring(3), nms_threshold=1.0, top_k=1)
    assert len(few.boxes) == 2  # the third level is responsible for no object


def one_cell(logits: list[float], centerness: float, n: int = 1) -> list[Level]:
    return [
        Level(
            logits=torch.tensor([[logits] * n]),
            lengths=torch.full((1, n, 4), 10.0),
            angle=torch.zeros(1, n, 2),
            centerness=torch.full((1, n), centerness),
            points=torch.tensor([[20.0, 20.0]] * n),
            stride=8.0,
            inside=torch.ones(n, dtype=torch.bool),
        )
    ]


def test_the_threshold_is_on_the_class_score_and_the_rank_has_centerness() -> None:
    (found,) = decode(one_cell([0.0, -1.0], -4.0), FocalScoring(2), score_threshold=0.3)
    sigmoid = torch.tensor([0.0, -1.0, -4.0]).sigmoid()
    assert found.labels.tolist() == [0]
    torch.testing.assert_close(found.scores, sigmoid[:1] * sigmoid[2])
    # One location may be two classes; suppression stays within a class.
    (found,) = decode(one_cell([0.0, -1.0], 0.0, n=3), FocalScoring(2), score_threshold=0.2)
    assert found.labels.tolist() == [0, 1]


def test_margin_scores_leave_the_background_out() -> None:
    scoring = MarginScoring(np.array([5, 5]), background_ratio=10.0)
    (found,) = decode(one_cell([2.0, -9.0, 1.0], 0.0), scoring, score_threshold=0.05)
    s = torch.tensor([2.0, -1.0]).sigmoid()
    torch.testing.assert_close(found.scores, (s[0] * s[1] * 0.5)[None])


def test_empty_boxes_and_broken_numbers_are_not_detected() -> None:
    for value in (0.0, math.nan):
        level = one_cell([4.0], 0.0)[0]
        level.lengths.fill_(value)
        (found,) = decode([level], FocalScoring(1))
        assert len(found.boxes) == 0


@pytest.mark.parametrize("coding", ["vector", "raw"])
def test_outputs_of_the_head(coding: AngleCoding) -> None:
    torch.manual_seed(0)
    scoring = FocalScoring(3)
    head = FCOSHead(16, 2, bias=scoring.bias, angle=coding, n_convs=1)
    maps = [torch.randn(2, 16, 4, 6), torch.randn(2, 16, 2, 3)]
    with torch.no_grad():
        fine, coarse = head(maps, [8, 16], (32, 48))
    assert fine.logits.shape == (2, 24, 3)
    assert fine.lengths.shape == (2, 24, 4)
    assert fine.angle.shape == (2, 24, 2 if coding == "vector" else 1)
    assert fine.centerness.shape == (2, 24)
    torch.testing.assert_close(coarse.points, grid_points(2, 3, 16))
    # At the start every class is rare and every box two strides wide.
    assert float((fine.logits.sigmoid() - 0.01).abs().max()) < 0.02
    first = torch.tensor([0.0, 0, 2, 2] if coding == "vector" else [1.0] * 4)
    assert float((coarse.lengths / 16 - first).abs().max()) < 0.9


def test_levels_share_weights_but_not_their_scale() -> None:
    torch.manual_seed(0)
    head = FCOSHead(16, 2, bias=FocalScoring(1).bias, n_convs=1)
    x = torch.randn(1, 16, 4, 4)
    with torch.no_grad():
        head.length_scales.copy_(torch.tensor([1.0, 2.0]))
        first, second = head([x, x], [8, 8], (32, 32))
    torch.testing.assert_close(second.lengths, 2 * first.lengths)
    assert torch.equal(first.logits, second.logits)


@pytest.mark.parametrize("coding", ["vector", "raw"])
def test_only_offsets_may_be_negative(coding: AngleCoding) -> None:
    head = FCOSHead(4, 1, bias=FocalScoring(1).bias, angle=coding, n_convs=0)
    with torch.no_grad():
        head.lengths.bias.fill_(-3.0)  # type: ignore[union-attr]
        lengths = head([torch.zeros(1, 4, 1, 1)], [8], (8, 8))[0].lengths[0, 0].tolist()
    assert lengths == ([-24, -24, 0, 0] if coding == "vector" else [0] * 4)


def test_cells_lie_where_the_points_say() -> None:
    """A spot in the map shows in the rows of the points around it, and nowhere else."""
    torch.manual_seed(0)
    head = FCOSHead(4, 1, bias=FocalScoring(1).bias, n_convs=0)
    blank = torch.zeros(1, 4, 8, 8)
    spot = blank.clone()
    spot[0, :, 2, 5] = 10
    with torch.no_grad():
        change = (head([spot], [8], (64, 64))[0].logits - head([blank], [8], (64, 64))[0].logits).abs()[
            0, :, 0
        ]
    near = (grid_points(8, 8, 8) - torch.tensor([5.5 * 8, 2.5 * 8])).abs().amax(dim=1) <= 8
    assert torch.equal(change > 0, near)
