"""Prediction: of the validation or test images of a run (a stage), or of any image, folder or zip."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from deblora.data.scenes.labeled_images import SceneFiles, list_images
from deblora.data.scenes.rasters import BandScene, Scene
from deblora.detect.export import (
    IN_PIXELS,
    place_quads,
    write_coco,
    write_geojson,
    write_geopackage,
    write_pixel_table,
)
from deblora.detect.predict import Detector, SceneDetections, detector_function, merge_tiles, predict_scene
from deblora.detect.task1 import QuadDetections, check_image_names, write_task1
from deblora.detect.tiling import TileSpec, parse_tile_name
from deblora.errors import DataError
from deblora.files import file_sha256, remove_leftovers, write_atomic
from deblora.models.backbone import Backbone
from deblora.pipeline.audited import class_names, groups_of
from deblora.pipeline.detect import model
from deblora.pipeline.detect.audit import open_split, value_type
from deblora.pipeline.detect.model import shown_from
from deblora.progress import no_bar
from deblora.recipe.detect import DetectionRecipe
from deblora.report.overlays import overlay, thumbnail
from deblora.run.run_dir import RunDir, fingerprint
from deblora.run.stage import Stage

ON_THE_EARTH = {"geojson": (write_geojson, ".geojson"), "geopackage": (write_geopackage, ".gpkg")}
"""Formats that need a coordinate reference system: their writer and the ending of their files, one per image."""

FORMATS = ("task1", "coco", *ON_THE_EARTH, "csv", "overlay", "thumbnails")
N_THUMBNAILS = 20  # per image and class
THUMBNAIL_SIDE = 128  # pixels


def write_image(
    out: Path,
    name: str,
    scene: Scene,
    quads: QuadDetections,
    groups: Mapping[str, str],
    formats: Sequence[str],
    *,
    least_score: Mapping[str, float],
) -> None:
    """Write what belongs to one image: ``geojson/``, ``geopackage/``, ``overlays/``, ``thumbnails/<class>/``.

    Args:
        out: Folder of the prediction.
        name: Of the image, without extension.
        scene: The image.
        quads: Its detections.
        groups: Class to group.
        formats: Some of ``FORMATS``; the others are passed over.
        least_score: By class; detections below are not drawn.
    """
    for kind, (write, ending) in ON_THE_EARTH.items():
        if kind in formats:
            write(
                out / kind / f"{name}{ending}",
                quads,
                crs=getattr(scene, "crs", None),
                transform=getattr(scene, "transform", None),
                group_of=groups,
                origin=name,
            )
    if "overlay" in formats:
        (out / "overlays").mkdir(parents=True, exist_ok=True)
        picture = overlay(scene, quads, groups, least_score=least_score)
        picture.save(out / "overlays" / f"{name}.png")
    if "thumbnails" in formats:
        _write_thumbnails(out / "thumbnails", name, scene, quads, groups)


def write_all(
    out: Path,
    quads: QuadDetections,
    boxes: Float[np.ndarray, "n 5"],
    names: Sequence[str],
    sizes: Mapping[str, tuple[int, int]],
    formats: Sequence[str],
) -> None:
    """Write what speaks of all images: ``task1.zip``, ``detections.json``, ``detections.csv``."""
    if "task1" in formats:
        write_task1(out / "task1.zip", quads, class_names=names)
    if "coco" in formats:
        write_coco(out / "detections.json", quads, boxes, class_names=names, sizes=sizes)
    if "csv" in formats:
        write_pixel_table(out / "detections.csv", quads, boxes)


def _write_thumbnails(
    folder: Path, name: str, scene: Scene, quads: QuadDetections, groups: Mapping[str, str]
) -> None:
    """Write the best detections of every class as ``<class>/<image>_<rank>_<score>.png``."""
    names = np.array(quads.class_names)
    for class_name in sorted(set(quads.class_names)):
        rows = np.flatnonzero(names == class_name)
        best = rows[np.argsort(-quads.scores[rows], kind="stable")][:N_THUMBNAILS]
        target = folder / re.sub(r"[^\w.-]+", "_", class_name)
        target.mkdir(parents=True, exist_ok=True)
        for rank, row in enumerate(best.tolist()):
            picture = thumbnail(
                scene, quads.quads[row], group=groups.get(class_name, ""), side=THUMBNAIL_SIDE
            )
            picture.save(target / f"{name}_{rank:02d}_{quads.scores[row]:.2f}.png")


log = logging.getLogger("deblora")


@dataclass(frozen=True)
class Predictor:
    """A trained detector, ready for scenes.

    Attributes:
        detect: From tiles to detections.
        spec: How scenes are cut.
        class_names: In the order of labels.
        recipe: Of the run.
        key: Hash of the weights and of the settings of prediction.
    """

    detect: Detector
    spec: TileSpec
    class_names: tuple[str, ...]
    recipe: DetectionRecipe
    key: str

    def scene(
        self,
        scene: Scene,
        *,
        journal: Path | None = None,
        resume: bool = False,
        title: str = "windows",
        across_classes: bool = False,
    ) -> SceneDetections:
        """Return the detections of a scene."""
        settings = self.recipe.predict
        return predict_scene(
            scene,
            self.detect,
            self.spec,
            batch_size=settings.batch_size,
            merge_threshold=settings.merge_threshold,
            across_classes=across_classes,
            journal=journal,
            key=fingerprint(self.key, {"scene": scene.digest if journal else ""}),
            resume=resume,
            title=title,
        )


def open_predictor(run: RunDir, recipe: DetectionRecipe) -> Predictor:
    """Load the trained detector of a run."""
    detector, settings = model.load_trained(run, recipe), recipe.predict
    backbone: Backbone = detector.extractor  # type: ignore[assignment]
    spec = model.tile_spec(recipe, backbone)
    detect = detector_function(
        detector,
        device=model.device(),
        score_threshold=settings.score_threshold,
        nms_threshold=settings.nms_threshold,
        max_detections=settings.max_detections,
        mixed_precision=recipe.mixed_precision,
    )
    weights = [
        file_sha256(model.weights_path(run)),
        backbone.weights_sha256,
        *model.adapter_settings(recipe.method),
    ]
    if model.is_joint(recipe):
        weights.append(file_sha256(run.adapter(model.JOINT) / "adapter_model.safetensors"))
    key = fingerprint([settings.__dict__, spec.__dict__, recipe.mixed_precision], {"weights": weights})
    return Predictor(detect, spec, class_names(run), recipe, key)


def predict_source(
    run: RunDir,
    recipe: DetectionRecipe,
    source: Path,
    out: Path,
    *,
    formats: Sequence[str] = ("task1", "coco", "overlay"),
    resume: bool = False,
    tiles: bool = False,
    bands: Sequence[int] = (),
    across_classes: bool = False,
    min_score: float = 0.0,
) -> QuadDetections:
    """Predict an image, or every image of a folder or zip, and write what was asked for.

    Args:
        run: A trained run.
        recipe: Its recipe.
        source: Image, folder or zip.
        out: Folder for the files; ``journal/`` in it keeps finished windows.
        formats: Some of ``task1`` (zip), ``coco``, ``geojson``, ``geopackage``, ``csv``, ``overlay``, ``thumbnails``.
        resume: Go on where a killed prediction stopped.
        tiles: The images are tiles of scenes: Task-1 and table speak of the scenes, in their pixels.
        bands: Bands to take, counted from 1, in the order of the model (red, green, blue for pictures); none takes all.
        across_classes: One class per object: detections of different classes suppress each other too.
        min_score: Detections below are in no file; 0 keeps all. The journal holds all, so another value costs no
            prediction with ``resume``.

    Raises:
        DataError: If the score is out of range, a format is unknown or does not suit an image; nothing is predicted
            then.
    """
    if not 0 <= min_score <= 1:
        raise DataError(f"the least score must be between 0 and 1, got {min_score}")
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise DataError(f"there is no output format {unknown[0]!r}; known are {', '.join(FORMATS)}")
    files = list_images(source)
    if tiles:
        _refuse_tiles(files, formats)
    if "task1" in formats:
        check_image_names(files.members)
    if any(name in ON_THE_EARTH for name in formats):
        _refuse_without_place(files)
    predictor = open_predictor(run, recipe)
    kind = value_type(run)
    remove_leftovers(out)
    found: dict[str, SceneDetections] = {}
    sizes: dict[str, tuple[int, int]] = {}
    groups, least_score = group_of(run), shown_from(run)
    for name in files.members:
        scene = files.open(name)
        if bands:
            scene = BandScene(scene, bands, name=name)
        log.info("predict %s (%d x %d px)", name, scene.width, scene.height)
        if kind and (own := scene.read(0, 0, 1, 1).dtype.name) != kind:
            raise DataError(
                f"{files.members[name]}: values are {own}, those of the training images {kind}; convert the image to "
                "the values of training"
            )
        sizes[name] = scene.height, scene.width
        found[name] = predictor.scene(
            scene,
            journal=out / "journal" / f"{name}.jsonl",
            resume=resume,
            title=name,
            across_classes=across_classes,
        ).above(min_score)
        quads = as_quads({name: found[name]}, predictor.class_names)
        write_image(out, name, scene, quads, groups, formats, least_score=least_score)
    if tiles:
        found = merge_tiles(found, merge_threshold=recipe.predict.merge_threshold)
    quads = as_quads(found, predictor.class_names)
    boxes = np.concatenate([np.zeros((0, 5)), *(entry.boxes for entry in found.values())])
    write_all(out, quads, boxes, predictor.class_names, sizes, formats)
    return quads


def as_quads(found: dict[str, SceneDetections], names: Sequence[str]) -> QuadDetections:
    """Return the detections of several images as one list."""
    return QuadDetections(
        tuple(image for image, entry in found.items() for _ in entry.scores),
        tuple(names[label] for entry in found.values() for label in entry.labels),
        np.concatenate([np.zeros(0), *(entry.scores for entry in found.values())]),
        np.concatenate([np.zeros((0, 4, 2)), *(entry.quads for entry in found.values())]),
    )


def group_of(run: RunDir) -> dict[str, str]:
    """Return the group of every class."""
    names = class_names(run)
    return {names[i]: group for group, members in groups_of(run).named().items() for i in members}


def predictions_path(run: RunDir, split: str) -> Path:
    """Task-1 files of a split."""
    return run.root / "predictions" / split / "task1.zip"


def stage_for(split: str) -> Stage[DetectionRecipe]:
    """Return the stage that predicts ``val`` or ``test``."""

    def settings(recipe: DetectionRecipe) -> list[object]:
        return [recipe.data, recipe.predict, recipe.mixed_precision]

    def work(run: RunDir, recipe: DetectionRecipe) -> None:
        from tqdm import tqdm

        files = open_split(run, recipe.data, split).files
        check_image_names(files.members)
        predictor = open_predictor(run, recipe)
        found = {
            name: predictor.scene(files.open(name), title=name)
            for name in tqdm(files.members, desc=f"predict {split}", unit="image", disable=no_bar())
        }
        path = predictions_path(run, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_task1(path, as_quads(found, predictor.class_names), class_names=predictor.class_names)
        write_atomic(path.parent / "images.json", json.dumps(sorted(found)))

    return Stage[DetectionRecipe](
        name=f"predict-{split}",
        settings=settings,
        inputs=lambda run: [run.samples, run.groups, model.weights_path(run)],
        outputs=lambda run: [predictions_path(run, split)],
        work=work,
    )


def _refuse_tiles(files: SceneFiles, formats: Sequence[str]) -> None:
    for name in files.members:
        parse_tile_name(name)
    wrong = [name for name in formats if name == "coco" or name in ON_THE_EARTH]
    if wrong:
        raise DataError(f"{wrong[0]} needs whole images, not tiles; ask for task1, csv or overlay")


def _refuse_without_place(files: SceneFiles) -> None:
    """Ask for the place of the middle of every image, before hours go into one that has none."""
    if files.root.is_file():
        raise DataError(f"{files.root}: georeferences are not read inside a zip; unpack it, or {IN_PIXELS}")
    for name, member in files.members.items():
        scene = files.open(name)
        crs, transform = getattr(scene, "crs", None), getattr(scene, "transform", None)
        middle = np.full((1, 4, 2), (scene.width / 2, scene.height / 2))
        place_quads(middle, crs=crs, transform=transform, origin=member)
