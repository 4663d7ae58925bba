"""Detections of a whole scene, window by window, in memory that does not grow with the scene."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from tqdm import tqdm

from deblora.data.scenes.rasters import Scene
from deblora.detect.boxes import corners
from deblora.detect.fcos.detector import OrientedFCOS
from deblora.detect.fcos.head import Detections
from deblora.detect.overlap import rotated_nms
from deblora.detect.tiling import TileSpec, Window, owned, parse_tile_name, read_tile
from deblora.errors import ArtifactError
from deblora.files import write_atomic
from deblora.progress import no_bar

log = logging.getLogger("deblora")
Detector = Callable[[Float[torch.Tensor, "b c h w"]], Sequence[Detections]]
MANY_CUT = 0.2  # ours: share of detections at window borders from which the overlap is called too small
PROGRESS_FROM = 8  # windows


@dataclass(frozen=True)
class SceneDetections:
    """Detections in pixels of a scene: boxes (cx, cy, w, h, theta), scores and classes by falling score."""

    boxes: Float[np.ndarray, "n 5"]
    scores: Float[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]

    @property
    def quads(self) -> Float[np.ndarray, "n 4 2"]:
        """Corners, clockwise on the screen."""
        return np.asarray(corners(torch.from_numpy(self.boxes)).numpy())

    def above(self, min_score: float) -> "SceneDetections":
        """Return the detections with at least this score."""
        keep = self.scores >= min_score
        return SceneDetections(self.boxes[keep], self.scores[keep], self.labels[keep])


@dataclass(frozen=True)
class _Found:
    boxes: list[list[float]]
    scores: list[float]
    labels: list[int]
    n_cut: int


def detector_function(
    detector: OrientedFCOS,
    *,
    device: torch.device,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
    mixed_precision: str = "no",
) -> Detector:
    """Return a function from a batch of tiles to their detections, on the CPU."""
    detector = detector.to(device).eval()

    @torch.inference_mode()
    def run(pixels: Float[torch.Tensor, "b c h w"]) -> Sequence[Detections]:
        with precision(mixed_precision, device):
            outputs = detector(pixels.to(device))
        found = detector.decode(
            outputs,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
            max_detections=max_detections,
        )
        return [Detections(one.boxes.cpu(), one.scores.cpu(), one.labels.cpu()) for one in found]

    return run


def precision(name: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a network computes in ``no`` (full), ``bf16`` or ``fp16`` precision."""
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(device.type, dtype=kinds[name]) if name in kinds else nullcontext()


def predict_scene(
    scene: Scene,
    detect: Detector,
    spec: TileSpec,
    *,
    batch_size: int,
    merge_threshold: float,
    across_classes: bool = False,
    journal: Path | None = None,
    key: str = "",
    resume: bool = False,
    title: str = "windows",
) -> SceneDetections:
    """Detect in overlapping windows and put the parts together.

    A detection belongs to the window whose core holds its center; what another window saw of the same object is
    dropped by class-wise NMS, which can only strike between neighbors, since inside a window it is done already.
    Windows without any valid pixel are skipped. Objects longer than the overlap may be cut or lost.

    Args:
        scene: Read one batch of windows at a time.
        detect: From tiles to detections in pixels of the tile.
        spec: How windows are cut and normalized.
        batch_size: Windows at a time.
        merge_threshold: Largest IoU between detections of a class.
        across_classes: Let detections of different classes suppress each other too: one class per object, for maps;
            average precision is defined without it.
        journal: File to which every finished window is appended, for ``resume``.
        key: Says what the journal belongs to: model, scene and settings.
        resume: Take finished windows from the journal; the result is that of an uninterrupted run.
        title: Of the progress bar, shown from 8 windows on.

    Raises:
        ArtifactError: If the journal belongs to something else.
    """
    windows = spec.windows(scene.height, scene.width)
    done = _open_journal(journal, key, resume=resume) if journal else {}
    batches = [range(i, min(i + batch_size, len(windows))) for i in range(0, len(windows), batch_size)]
    for batch in tqdm(
        batches, desc=title, unit="batch", disable=no_bar(short=len(windows) < PROGRESS_FROM), leave=False
    ):
        # Whole batches always: another batch could round differently, and a resumed run must not differ.
        if all(i in done for i in batch):
            continue
        found = _detect_batch(scene, detect, spec, [windows[i] for i in batch])
        new = {i: entry for i, entry in zip(batch, found, strict=True) if i not in done}
        done.update(new)
        if journal:
            _append(journal, new.items())
    _warn_cut(done.values(), len(windows))
    return _merge([done[i] for i in range(len(windows))], merge_threshold, across_classes=across_classes)


def merge_tiles(
    found: Mapping[str, SceneDetections], *, merge_threshold: float
) -> dict[str, SceneDetections]:
    """Put detections in tiles together to those of their scenes, by the names of the tiles.

    Args:
        found: By name of the tile, ``image__rate__x___y``.
        merge_threshold: Largest IoU between detections of a class (mmrotate: 0.1, devkit: 0.3).

    Raises:
        DataError: If a name is not that of a tile.
    """
    parts: dict[str, list[_Found]] = {}
    for name, entry in found.items():
        image, rate, x, y = parse_tile_name(name)
        boxes = entry.boxes.copy()
        boxes[:, :2] += (x, y)
        boxes[:, :4] /= rate
        part = _Found(boxes.tolist(), entry.scores.tolist(), entry.labels.tolist(), 0)
        parts.setdefault(image, []).append(part)
    return {image: _merge(entries, merge_threshold) for image, entries in parts.items()}


def _detect_batch(scene: Scene, detect: Detector, spec: TileSpec, windows: Sequence[Window]) -> list[_Found]:
    full = [not scene.is_empty(*_inside(scene, window)) for window in windows]
    tiles = [read_tile(scene, window, spec) for window, keep in zip(windows, full, strict=True) if keep]
    results = iter(detect(torch.stack(tiles)) if tiles else [])
    return [
        _own(next(results), window, spec) if keep else _Found([], [], [], 0)
        for window, keep in zip(windows, full, strict=True)
    ]


def _own(found: Detections, window: Window, spec: TileSpec) -> _Found:
    """Keep what belongs to the window, in pixels of the scene."""
    boxes = found.boxes.double().numpy().copy()
    boxes[:, :4] *= spec.factor
    boxes[:, :2] += (window.x, window.y)
    keep = owned(boxes[:, :2], window)
    quads = corners(torch.from_numpy(boxes[keep])).numpy()
    left, top, right, bottom = window.core
    n_cut = np.zeros(len(quads), dtype=bool)
    for open_side, outside in (
        (np.isinf(left), quads[..., 0].min(axis=1) < window.x),
        (np.isinf(top), quads[..., 1].min(axis=1) < window.y),
        (np.isinf(right), quads[..., 0].max(axis=1) > window.x + window.width),
        (np.isinf(bottom), quads[..., 1].max(axis=1) > window.y + window.height),
    ):
        n_cut |= outside & ~open_side
    return _Found(
        boxes[keep].tolist(),
        found.scores.double().numpy()[keep].tolist(),
        found.labels.numpy()[keep].tolist(),
        int(n_cut.sum()),
    )


def _merge(parts: Sequence[_Found], threshold: float, *, across_classes: bool = False) -> SceneDetections:
    boxes = np.array([box for part in parts for box in part.boxes], dtype=np.float64).reshape(-1, 5)
    scores = np.array([score for part in parts for score in part.scores], dtype=np.float64)
    labels = np.array([label for part in parts for label in part.labels], dtype=np.int64)
    classes = None if across_classes else torch.from_numpy(labels)
    keep = rotated_nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold, classes=classes).numpy()
    return SceneDetections(boxes[keep], scores[keep], labels[keep])


def _warn_cut(parts: Iterable[_Found], n_windows: int) -> None:
    parts = list(parts)
    n_cut, n_all = sum(part.n_cut for part in parts), sum(len(part.scores) for part in parts)
    if n_windows > 1 and n_all >= 10 and n_cut > MANY_CUT * n_all:
        log.warning(
            "%d of %d detections reach beyond their window; use a larger overlap than the longest object",
            n_cut,
            n_all,
        )


def _inside(scene: Scene, window: Window) -> tuple[int, int, int, int]:
    return (
        window.x,
        window.y,
        min(window.width, scene.width - window.x),
        min(window.height, scene.height - window.y),
    )


def _open_journal(path: Path, key: str, *, resume: bool) -> dict[int, _Found]:
    """Return the finished windows, and leave the file ending with a whole line."""
    if not (resume and path.is_file()):
        write_atomic(path, json.dumps({"key": key}) + "\n")
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # what follows the last line break was cut off
    try:
        if not lines or json.loads(lines[0])["key"] != key:
            raise ArtifactError(
                f"{path} belongs to another model, scene or setting; predict into another folder, or without --resume"
            )
        rows = [json.loads(line) for line in lines[1:]]
        done = {
            int(row["window"]): _Found(row["boxes"], row["scores"], row["labels"], int(row["n_cut"]))
            for row in rows
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); delete it and predict again") from error
    write_atomic(path, "".join(f"{line}\n" for line in lines))
    return done


def _append(path: Path, entries: Iterable[tuple[int, _Found]]) -> None:
    lines = [json.dumps({"window": number, **entry.__dict__}) for number, entry in entries]
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
