"""``deblora detect chips``: object chips of a training split, for the classification road."""

from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from deblora.data.scenes.crops import CropShape, crop
from deblora.data.scenes.labeled_images import class_names_of, read_detection_set, without
from deblora.detect.tiling.labels import drop_flat
from deblora.errors import ArtifactError, DataError
from deblora.report.overlays import to_rgb

LARGEST = 4.0  # ours: objects that are so many times longer than the image are wrong labels
CONTEXT = 1.5  # ours: side of a chip over the longer upright side of its object


def cut_chips(
    source: Path,
    out: Path,
    *,
    context: float | None = None,
    shape: CropShape = "square",
    difficult: bool = False,
    ignored: tuple[str, ...] = (),
) -> dict[str, int]:
    """Write ``out/<class>/<image>_<object>.png``, the folder that ``deblora run`` reads.

    Only what is in ``source`` is cut: give it the training split, so that no validation or test object can reach an
    adapter. Objects whose center lies outside the image are left out. ``deblora run`` draws its
    own validation and test chips from these; they share images with its training chips, so its scores are a sanity
    check of the adapters and no result.

    Args:
        source: DOTA folder or zip.
        out: Folder for the chips.
        context: Side of a chip over that of its object, >= 1; None means 1.5 for squares and 1 for hulls.
        shape: A square around the object (ours), or the upright hull of its box (the authors' rule).
        difficult: Cut objects marked difficult too (the authors' counts hold them).
        ignored: Classes left out.

    Returns:
        Chips per class.

    Raises:
        ArtifactError: If ``out`` is not empty.
        DataError: If the data or the context are wrong, or an object is many times longer than its image.
    """
    context = (CONTEXT if shape == "square" else 1.0) if context is None else context
    if context < 1:
        raise DataError(f"context is {context}, but below 1 the object would be cut; give 1 or more")
    if out.is_dir() and any(out.iterdir()):
        raise ArtifactError(f"{out} is not empty; name a new folder")
    found = read_detection_set(source)
    labels, _ = drop_flat(without(found.labels, ignored))
    names = class_names_of(labels.values())
    for class_name in names:
        (out / class_name).mkdir(parents=True, exist_ok=True)
    counts = dict.fromkeys(names, 0)
    for name in tqdm(found.names, desc="cut chips", unit="scene"):
        entry = labels[name]
        if not len(entry.quads):
            continue
        scene = found.files.open(name)
        for row, class_name in enumerate(entry.class_names):
            x, y = entry.quads[row].mean(axis=0)
            inside = 0 <= x < scene.width and 0 <= y < scene.height
            if not inside or (entry.difficult[row] and not difficult) or class_name not in counts:
                continue
            extent = float(np.ptp(entry.quads[row], axis=0).max())
            if extent > LARGEST * max(scene.width, scene.height):
                raise DataError(
                    f"{source}: object {row + 1} of {name} is {extent:.0f} px long in an image of {scene.width} x "
                    f"{scene.height} px; correct its label"
                )
            chip = Image.fromarray(to_rgb(crop(scene, entry.quads[row], context=context, shape=shape)))
            chip.save(out / class_name / f"{name}_{row:05d}.png")
            counts[class_name] += 1
    return {name: counts[name] for name in sorted(counts, key=lambda key: -counts[key])}
