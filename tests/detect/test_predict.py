"""Windows and their merging, with a detector whose answer depends on nothing far away."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from deblora.data.scenes.rasters import ArrayScene
from deblora.detect.boxes import boxes_from_quads, corners
from deblora.detect.fcos.head import Detections
from deblora.detect.overlap import pairwise_iou
from deblora.detect.predict import SceneDetections, merge_tiles, predict_scene
from deblora.detect.tiling import TileSpec, tile_name
from deblora.errors import ArtifactError, DataError


def spec(tile: int, overlap: int, zoom: float = 1.0) -> TileSpec:
    return TileSpec(tile, overlap, zoom, (0.0,), (1.0,), 1.0)


def blobs(pixels: torch.Tensor) -> list[Detections]:
    """The upright box of every bright blob; the brightness is class and score."""
    found = []
    for image in pixels.numpy():
        marks, n = ndimage.label(image[0] > 0)
        boxes, labels = [], []
        for rows, columns in ndimage.find_objects(marks, max_label=n):
            top, bottom, left, right = rows.start, rows.stop, columns.start, columns.stop
            boxes.append([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top, 0.0])
            labels.append(int(image[0, rows, columns].max()) - 1)
        size = torch.tensor(boxes).reshape(-1, 5)
        scores = size[:, 2] * size[:, 3] / 1e4
        order = scores.argsort(descending=True, stable=True)
        found.append(Detections(size[order], scores[order], torch.tensor(labels, dtype=torch.int64)[order]))
    return found


def scene(rng: np.random.Generator, *, height: int = 300, width: int = 410, longest: int = 30) -> ArrayScene:
    pixels = np.zeros((height, width, 1), dtype=np.float32)
    for _ in range(120):
        h, w = rng.integers(4, longest, 2)
        y, x = rng.integers(0, height - h), rng.integers(0, width - w)
        if not pixels[max(0, y - 2) : y + h + 2, max(0, x - 2) : x + w + 2].any():
            pixels[y : y + h, x : x + w] = rng.integers(1, 4)
    return ArrayScene(pixels)


def rows(found: SceneDetections) -> list[tuple[float, ...]]:
    table = np.column_stack([found.boxes, found.scores, found.labels])
    return sorted(map(tuple, table.round(9).tolist()))


@pytest.mark.parametrize(("tile", "overlap"), [(96, 32), (128, 40), (100, 31)])
def test_windows_find_what_one_piece_finds(rng: np.random.Generator, tile: int, overlap: int) -> None:
    image = scene(rng)
    whole = predict_scene(image, blobs, spec(410, 0), batch_size=1, merge_threshold=0.1)
    parts = predict_scene(image, blobs, spec(tile, overlap), batch_size=3, merge_threshold=0.1)
    assert len(whole.scores) > 60
    assert rows(parts) == rows(whole)


def test_an_object_across_a_seam_is_found_once_also_with_noise(rng: np.random.Generator) -> None:
    def shaken(pixels: torch.Tensor) -> list[Detections]:
        found = []
        for one in blobs(pixels):
            boxes = one.boxes + torch.from_numpy(rng.normal(0, 0.6, one.boxes.shape)) * (one.boxes > 0)
            boxes[:, 4] = 0
            found.append(Detections(boxes.float(), one.scores, one.labels))
        return found

    image = scene(np.random.default_rng(3))
    whole = predict_scene(image, blobs, spec(410, 0), batch_size=1, merge_threshold=0.1)
    parts = predict_scene(image, shaken, spec(96, 40), batch_size=3, merge_threshold=0.1)
    iou = pairwise_iou(torch.from_numpy(whole.boxes), torch.from_numpy(parts.boxes)).numpy()
    assert len(whole.scores) == len(parts.scores)
    assert (iou.max(axis=1) > 0.4).all() and ((iou > 0.4).sum(axis=1) == 1).all()


def test_zoom_gives_boxes_in_pixels_of_the_scene() -> None:
    pixels = np.zeros((64, 64, 1), dtype=np.float32)
    pixels[16:32, 32:40] = 1
    found = predict_scene(ArrayScene(pixels), blobs, spec(128, 16, 2.0), batch_size=1, merge_threshold=0.1)
    iou = pairwise_iou(
        torch.from_numpy(found.boxes), torch.tensor([[36.0, 24, 8, 16, 0]], dtype=torch.float64)
    )
    assert len(found.scores) == 1 and float(iou) > 0.75


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_killed_prediction_resumes_to_an_identical_result(
    tmp_path: Path, rng: np.random.Generator, after: int
) -> None:
    image, calls = scene(rng), []

    def dying(pixels: torch.Tensor) -> Sequence[Detections]:
        calls.append(len(pixels))
        if len(calls) > after:
            raise Killed
        return blobs(pixels)

    options = {"batch_size": 3, "merge_threshold": 0.1, "key": "a"}
    full = predict_scene(image, blobs, spec(96, 32), journal=tmp_path / "full.jsonl", **options)
    path = tmp_path / "cut.jsonl"
    with pytest.raises(Killed):
        predict_scene(image, dying, spec(96, 32), journal=path, **options)
    with path.open("a") as file:
        file.write('{"window": 9, "boxes": [[1')  # the line at which it was killed
    seen = []

    def counting(pixels: torch.Tensor) -> Sequence[Detections]:
        seen.append(len(pixels))
        return blobs(pixels)

    resumed = predict_scene(image, counting, spec(96, 32), journal=path, resume=True, **options)
    for name in ("boxes", "scores", "labels"):
        assert np.array_equal(getattr(resumed, name), getattr(full, name))
    assert path.read_bytes() == (tmp_path / "full.jsonl").read_bytes()
    assert len(seen) < 10


def test_a_journal_of_something_else_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    image, path = scene(rng), tmp_path / "journal.jsonl"
    predict_scene(image, blobs, spec(200, 32), batch_size=2, merge_threshold=0.1, journal=path, key="a")
    with pytest.raises(ArtifactError, match="belongs to another model"):
        predict_scene(
            image, blobs, spec(200, 32), batch_size=2, merge_threshold=0.1, journal=path, key="b", resume=True
        )
    path.write_text(path.read_text() + "no json\n")
    with pytest.raises(ArtifactError, match="damaged"):
        predict_scene(
            image, blobs, spec(200, 32), batch_size=2, merge_threshold=0.1, journal=path, key="a", resume=True
        )


def test_windows_without_valid_pixels_are_not_looked_at(rng: np.random.Generator) -> None:
    class Holed(ArrayScene):
        def is_empty(self, x: int, y: int, width: int, height: int) -> bool:
            return x + width <= 200

    seen = []

    def counting(pixels: torch.Tensor) -> Sequence[Detections]:
        seen.append(len(pixels))
        return blobs(pixels)

    image = scene(rng, height=100, width=400)
    found = predict_scene(Holed(image.pixels), counting, spec(100, 0), batch_size=4, merge_threshold=0.1)
    assert sum(seen) == 2 and (found.boxes[:, 0] >= 200).all()


def test_a_small_overlap_is_complained_about(
    rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    def too_large(pixels: torch.Tensor) -> Sequence[Detections]:
        return [
            Detections(one.boxes * torch.tensor([1, 1, 40.0, 40, 1]), one.scores, one.labels)
            for one in blobs(pixels)
        ]

    with caplog.at_level("WARNING"):
        predict_scene(scene(rng), too_large, spec(96, 8), batch_size=4, merge_threshold=1.0)
    assert "larger overlap" in caplog.text


def test_quads_and_boxes_are_the_same_objects(rng: np.random.Generator) -> None:
    found = predict_scene(scene(rng), blobs, spec(128, 40), batch_size=2, merge_threshold=0.1)
    again = boxes_from_quads(torch.from_numpy(found.quads))
    assert np.allclose(corners(again).numpy().mean(axis=1), found.boxes[:, :2])


def test_detections_in_tiles_come_together_in_the_scene(rng: np.random.Generator) -> None:
    image = scene(rng)
    whole = predict_scene(image, blobs, spec(410, 0), batch_size=1, merge_threshold=0.1)
    settings, found = spec(200, 60), {}
    for window in settings.windows(300, 410):
        tile = ArrayScene(image.read(window.x, window.y, 200, 200))
        one = predict_scene(tile, blobs, spec(200, 0), batch_size=1, merge_threshold=0.1)
        # What the border of a tile cuts is seen whole by its neighbor, but with a lower score.
        found[tile_name("P1", window.x, window.y)] = one
    (merged,) = merge_tiles(found, merge_threshold=0.1).values()
    iou = pairwise_iou(torch.from_numpy(whole.boxes), torch.from_numpy(merged.boxes)).numpy()
    assert (iou.max(axis=1) > 1 - 1e-9).all()
    with pytest.raises(DataError, match="tile name"):
        merge_tiles({"P1": whole}, merge_threshold=0.1)


def test_classes_suppress_each_other_only_on_request() -> None:
    pixels = np.zeros((64, 64, 1), dtype=np.float32)

    def two_classes(tiles: torch.Tensor) -> list[Detections]:
        boxes = torch.tensor([[30.0, 30, 20, 10, 0.1], [31.0, 30, 20, 10, 0.1], [10.0, 50, 8, 8, 0.0]])
        return [Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0]))] * len(tiles)

    image, settings = ArrayScene(pixels), spec(64, 0)
    apart = predict_scene(image, two_classes, settings, batch_size=1, merge_threshold=0.1)
    one = predict_scene(image, two_classes, settings, batch_size=1, merge_threshold=0.1, across_classes=True)
    assert apart.labels.tolist() == [0, 1, 0] and one.scores.round(4).tolist() == [0.9, 0.7]
