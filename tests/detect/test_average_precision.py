from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deblora.data.longtail import Groups
from deblora.data.scenes.dota import Labels
from deblora.detect.average_precision import (
    COCO_THRESHOLDS,
    average_precision,
    evaluate_detections,
    map_over_groups,
    precision_curves,
)
from deblora.detect.task1 import QuadDetections
from deblora.errors import DataError

shapely = pytest.importorskip("shapely")

CLASSES = ("a", "b", "c")


def box(x: float, y: float, w: float = 10, h: float = 10) -> list[list[float]]:
    return [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]


def labels_of(*rows: tuple[list[list[float]], str, int]) -> Labels:
    quads = np.array([row[0] for row in rows], dtype=np.float64).reshape(-1, 4, 2)
    return Labels(quads, tuple(row[1] for row in rows), np.array([row[2] for row in rows], dtype=np.int64))


def detections_of(*rows: tuple[str, str, float, list[list[float]]]) -> QuadDetections:
    images, names, scores, quads = zip(*rows, strict=True) if rows else ((), (), (), ())
    return QuadDetections(
        tuple(images), tuple(names), np.array(scores), np.array(quads, dtype=np.float64).reshape(-1, 4, 2)
    )


# --- average precision -------------------------------------------------------------------------------------


def test_average_precision_by_hand() -> None:
    recall, precision = np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3])
    assert average_precision(recall, precision, method="area") == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert average_precision(recall, precision, method="voc07") == pytest.approx((6 + 5 * 2 / 3) / 11)
    nothing = np.zeros(0)
    for method in ("area", "voc07"):
        assert average_precision(nothing, nothing, method=method) == 0.0
        assert average_precision(np.ones(1), np.ones(1), method=method) == pytest.approx(1.0)
        assert np.isnan(average_precision(np.full(2, np.nan), np.ones(2), method=method))


def test_the_grid_is_that_of_the_devkit() -> None:
    """Its fourth value is 0.30000000000000004, which a recall of 3/10 does not reach."""
    ones = np.ones(10)
    recall = np.arange(1, 11) / 10
    assert average_precision(recall[:3], ones[:3], method="voc07") == pytest.approx(3 / 11)
    assert average_precision(recall[:2], ones[:2], method="voc07") == pytest.approx(3 / 11)
    assert average_precision(recall[:4], ones[:4], method="voc07") == pytest.approx(5 / 11)


def test_bad_curves() -> None:
    with pytest.raises(ValueError, match="recall has shape"):
        average_precision(np.zeros(2), np.zeros(3), method="area")
    with pytest.raises(ValueError, match="method must be"):
        average_precision(np.zeros(2), np.zeros(2), method="voc12")  # type: ignore[arg-type]


# --- rules, by hand ----------------------------------------------------------------------------------------


def counts(detections: QuadDetections, truth: dict[str, Labels], **options: object) -> tuple[int, int, int]:
    result = evaluate_detections(detections, truth, CLASSES, **options)["a"]  # type: ignore[arg-type]
    assert result.n_true + result.n_false + result.n_ignored == len(result.scores)
    return result.n_true, result.n_false, result.n_ignored


def test_exactly_half_is_no_match() -> None:
    truth = {"x": labels_of((box(0, 0, 20, 10), "a", 0))}
    assert counts(detections_of(("x", "a", 0.9, box(0, 0))), truth) == (0, 1, 0)
    assert counts(detections_of(("x", "a", 0.9, box(0, 0, 10.001))), truth) == (1, 0, 0)
    assert counts(detections_of(("x", "a", 0.9, box(0, 0))), truth, iou_threshold=0.49) == (1, 0, 0)


def test_the_second_detection_of_an_object_is_false() -> None:
    truth = {"x": labels_of((box(0, 0), "a", 0))}
    detections = detections_of(("x", "a", 0.5, box(0, 0)), ("x", "a", 0.9, box(1, 0)))
    result = evaluate_detections(detections, truth, CLASSES)["a"]
    assert result.scores.tolist() == [0.9, 0.5]
    assert result.recall.tolist() == [1.0, 1.0]
    assert result.precision.tolist() == [1.0, 0.5]


def test_the_largest_overlap_is_the_candidate_even_if_taken() -> None:
    """A matcher that moves on to the next free object would count two here."""
    truth = {"x": labels_of((box(0, 0), "a", 0), (box(2, 0), "a", 0))}
    detections = detections_of(("x", "a", 0.9, box(0, 0)), ("x", "a", 0.8, box(0.5, 0)))
    assert counts(detections, truth) == (1, 1, 0)


def test_difficult_objects_are_ignored_or_count() -> None:
    truth = {"x": labels_of((box(0, 0), "a", 1), (box(50, 0), "a", 0), (box(90, 0), "a", 2))}
    detections = detections_of(
        ("x", "a", 0.9, box(0, 0)), ("x", "a", 0.8, box(1, 0)), ("x", "a", 0.7, box(50, 0))
    )
    assert counts(detections, truth) == (1, 0, 2)
    assert counts(detections, truth, protocol="dota1.5") == (2, 1, 0)
    strict = evaluate_detections(detections, truth, CLASSES)["a"]
    assert (strict.n_ground_truth, strict.n_difficult, strict.ap) == (1, 2, pytest.approx(1.0))
    loose = evaluate_detections(detections, truth, CLASSES, protocol="dota1.5")["a"]
    assert (loose.n_ground_truth, loose.n_difficult) == (3, 0)


def test_images_and_classes_are_kept_apart() -> None:
    truth = {"x": labels_of((box(0, 0), "a", 0)), "y": labels_of((box(50, 0), "b", 0)), "z": labels_of()}
    elsewhere = [("y", "a", 0.9, box(0, 0)), ("z", "a", 0.8, box(0, 0)), ("y", "a", 0.7, box(50, 0))]
    assert counts(detections_of(*elsewhere), truth) == (0, 3, 0)


def test_equal_objects_go_to_the_first_and_equal_scores_keep_their_order() -> None:
    truth = {"x": labels_of((box(0, 0), "a", 1), (box(0, 0), "a", 0))}
    assert counts(detections_of(("x", "a", 0.9, box(0, 0))), truth) == (0, 0, 1)
    truth = {"x": labels_of((box(0, 0), "a", 0))}
    tied = detections_of(("x", "a", 0.5, box(0, 0)), ("x", "a", 0.5, box(70, 0)))
    assert evaluate_detections(tied, truth, CLASSES)["a"].precision.tolist() == [1.0, 0.5]


def test_self_crossing_quads_are_taken_as_their_hulls() -> None:
    square = box(0, 0)
    bow_tie = [square[0], square[2], square[1], square[3]]
    truth = {"x": labels_of((bow_tie, "a", 0))}
    detections = detections_of(("x", "a", 0.9, square), ("x", "a", 0.8, bow_tie))
    assert counts(detections, truth) == (1, 1, 0)
    assert evaluate_detections(detections, truth, CLASSES)["a"].n_untangled == 2


def test_classes_without_objects_or_detections() -> None:
    truth = {"x": labels_of((box(0, 0), "a", 0), (box(0, 0), "other", 0), (box(30, 0), "c", 1))}
    results = evaluate_detections(detections_of(("x", "b", 0.9, box(0, 0))), truth, CLASSES)
    assert results["a"].ap == 0.0
    assert np.isnan(results["b"].ap)
    assert np.isnan(results["c"].ap)
    assert results["b"].n_false == 1
    ap = np.array([results[name].ap for name in CLASSES])
    means, missing = map_over_groups(ap, CLASSES, Groups(head=(0,), middle=(1,), tail=(2,)))
    assert means["all"] == 0.0
    assert np.isnan(means["tail"])
    assert missing == ("b", "c")
    with pytest.raises(ValueError, match="values of AP"):
        map_over_groups(ap, CLASSES[:2], Groups((0,), (1,), ()))


# --- against an independent evaluation ---------------------------------------------------------------------


def slow_evaluation(
    detections: QuadDetections, truth: dict[str, Labels], name: str, threshold: float
) -> tuple[float, float, list[str]]:
    """Evaluate one class detection by detection, with polygons; return both APs and the verdicts."""
    order = sorted(
        (i for i, c in enumerate(detections.class_names) if c == name), key=lambda i: -detections.scores[i]
    )
    taken: dict[tuple[str, int], bool] = defaultdict(bool)
    verdicts = []
    for i in order:
        image, quad = detections.image_names[i], shapely.Polygon(detections.quads[i])
        best, which = -1.0, -1
        for j, (other, label) in enumerate(zip(truth[image].quads, truth[image].class_names, strict=True)):
            polygon = shapely.Polygon(other)
            if label == name and quad.intersects(polygon):
                shared = quad.intersection(polygon).area
                iou = shared / (quad.area + polygon.area - shared)
                if iou > best + 1e-12:
                    best, which = iou, j
        if best <= threshold:
            verdicts.append("false")
        elif truth[image].difficult[which]:
            verdicts.append("ignored")
        elif taken[image, which]:
            verdicts.append("false")
        else:
            taken[image, which] = True
            verdicts.append("true")
    n = sum(
        label == name and not flag
        for labels in truth.values()
        for label, flag in zip(labels.class_names, labels.difficult, strict=True)
    )
    return *slow_average_precision(verdicts, n), verdicts


def slow_average_precision(verdicts: list[str], n: int) -> tuple[float, float]:
    if not n:
        return float("nan"), float("nan")
    recall, precision, tp, fp = [], [], 0, 0
    for verdict in verdicts:
        tp, fp = tp + (verdict == "true"), fp + (verdict == "false")
        recall.append(tp / n)
        precision.append(tp / max(tp + fp, np.finfo(float).eps))
    voc07 = 0.0
    for t in np.arange(0.0, 1.1, 0.1):
        voc07 += max((p for r, p in zip(recall, precision, strict=True) if r >= t), default=0.0) / 11
    area, last = 0.0, 0.0
    for k, r in enumerate(recall):
        area += (r - last) * max(precision[k:])
        last = r
    return voc07, area


def random_scene(seed: int) -> tuple[QuadDetections, dict[str, Labels]]:
    """Turned boxes, noisy copies of them as detections, duplicates, false alarms, an empty image."""
    rng = np.random.default_rng(seed)

    def quads(center: np.ndarray, sides: np.ndarray, angle: np.ndarray) -> np.ndarray:
        u = np.stack([np.cos(angle), np.sin(angle)], axis=1) * sides[:, :1] / 2
        v = np.stack([-np.sin(angle), np.cos(angle)], axis=1) * sides[:, 1:] / 2
        return np.stack([center - u - v, center + u - v, center + u + v, center - u + v], axis=1)

    truth, rows = {"empty": labels_of()}, [("empty", "a", 0.5, box(0, 0))]
    for image in ("P1", "P2", "P3"):
        n = 12
        center, sides = rng.uniform(0, 80, (n, 2)), rng.uniform(5, 20, (n, 2))
        angle = rng.uniform(-3, 3, n)
        names = rng.choice(CLASSES[:2], n).tolist()
        found = quads(center, sides, angle)
        truth[image] = Labels(found, tuple(names), (rng.random(n) < 0.2).astype(np.int64))
        for _ in range(2):
            noisy = quads(
                center + rng.normal(0, 1, (n, 2)),
                sides * rng.uniform(0.8, 1.2, (n, 2)),
                angle + rng.normal(0, 0.1, n),
            )
            labels = [name if rng.random() < 0.8 else "c" for name in names]
            scores = rng.random(n).round(1)
            rows += [(image, *row) for row in zip(labels, scores.tolist(), noisy.tolist(), strict=True)]
    return detections_of(*rows), truth


@given(st.integers(0, 2**20), st.sampled_from([0.3, 0.5, 0.75]))
@settings(max_examples=12, deadline=None)
def test_equals_the_independent_evaluation(seed: int, threshold: float) -> None:
    detections, truth = random_scene(seed)
    for method, column in (("voc07", 0), ("area", 1)):
        results = evaluate_detections(detections, truth, CLASSES, iou_threshold=threshold, method=method)
        for name, result in results.items():
            expected = slow_evaluation(detections, truth, name, threshold)
            assert result.ap == pytest.approx(expected[column], nan_ok=True)
            verdicts = expected[2]
            assert (result.n_true, result.n_false, result.n_ignored) == tuple(
                verdicts.count(word) for word in ("true", "false", "ignored")
            )


@given(st.integers(0, 2**20))
@settings(max_examples=10, deadline=None)
def test_order_of_files_and_joint_scale_do_not_matter(seed: int) -> None:
    detections, truth = random_scene(seed)
    rng = np.random.default_rng(seed)
    scores = rng.permutation(len(detections.scores)) / len(detections.scores)
    plain = QuadDetections(detections.image_names, detections.class_names, scores, detections.quads)
    order = rng.permutation(len(scores))
    shuffled = QuadDetections(
        tuple(plain.image_names[i] for i in order),
        tuple(plain.class_names[i] for i in order),
        scores[order],
        plain.quads[order] * 3 + 100,
    )
    moved = {
        image: Labels(truth[image].quads * 3 + 100, truth[image].class_names, truth[image].difficult)
        for image in sorted(truth, reverse=True)
    }
    before, after = evaluate_detections(plain, truth, CLASSES), evaluate_detections(shuffled, moved, CLASSES)
    for name in CLASSES:
        np.testing.assert_array_equal(before[name].precision, after[name].precision)
        assert before[name].ap == pytest.approx(after[name].ap, nan_ok=True)


def test_all_thresholds_at_once_equal_one_at_a_time() -> None:
    detections, truth = random_scene(5)
    curves = precision_curves(detections, truth, CLASSES, method="area")
    table = np.array([[entry.ap for entry in curves[name]] for name in CLASSES]).T
    assert table.shape == (10, 3)
    assert COCO_THRESHOLDS[0] == 0.5
    assert COCO_THRESHOLDS[-1] == 0.95
    for row, threshold in zip(table, COCO_THRESHOLDS, strict=True):
        single = evaluate_detections(detections, truth, CLASSES, iou_threshold=threshold, method="area")
        np.testing.assert_array_equal(row, [single[name].ap for name in CLASSES])
    assert (np.diff(np.nan_to_num(table), axis=0) <= 1e-12).all()


def test_perfect_detections_have_average_precision_one() -> None:
    _, truth = random_scene(8)
    rows = [
        (image, name, 0.5, quad)
        for image, labels in truth.items()
        for name, quad in zip(labels.class_names, labels.quads.tolist(), strict=True)
    ]
    for entries in precision_curves(detections_of(*rows), truth, CLASSES[:2], method="area").values():
        np.testing.assert_allclose([entry.ap for entry in entries], 1.0)


# --- bad input ---------------------------------------------------------------------------------------------


def test_bad_input() -> None:
    truth = {"x": labels_of((box(0, 0), "a", 0))}
    good = detections_of(("x", "a", 0.9, box(0, 0)))
    with pytest.raises(DataError, match="detections in y and 0 other images"):
        evaluate_detections(detections_of(("y", "a", 0.9, box(0, 0))), truth, CLASSES)
    with pytest.raises(DataError, match="class 'plane', which is not evaluated"):
        evaluate_detections(detections_of(("x", "plane", 0.9, box(0, 0))), truth, CLASSES)
    with pytest.raises(DataError, match="not finite"):
        evaluate_detections(detections_of(("x", "a", float("nan"), box(0, 0))), truth, CLASSES)
    for options, message in (
        ({"iou_threshold": 1.0}, "IoU thresholds"),
        ({"iou_threshold": -0.1}, "IoU thresholds"),
        ({"protocol": "coco"}, "protocol must be"),
        ({"method": "mean"}, "method must be"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_detections(good, truth, CLASSES, **options)
    for names in ((), ("a", "a")):
        with pytest.raises(ValueError, match="class names must be distinct"):
            evaluate_detections(good, truth, names)
