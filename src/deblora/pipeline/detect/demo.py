"""The demo of detection: simulated scenes with a long tail, two methods, one table."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from deblora.data.longtail import exponential_counts
from deblora.data.scenes.dota import Labels, write_labels
from deblora.data.simulate.chips import SPLITS
from deblora.data.simulate.scenes import simulate_scenes
from deblora.errors import ArtifactError
from deblora.files import write_atomic
from deblora.pipeline.detect.compare import comparison_text
from deblora.pipeline.detect.road import train_detector
from deblora.progress import no_bar
from deblora.recipe.detect import detection_recipe_from
from deblora.run.run_dir import RunDir

DEMO_METHODS = ("zero-shot", "lora")
# All at least one cell of the detector (8 px) wide; each tail class has a partner of like shape among the others.
DEMO_CLASSES = (
    "storage-tank",
    "plane",
    "tennis-court",
    "helicopter",
    "basketball-court",
    "roundabout",
)
N_TAIL = 3
RECIPE = "detect-demo.yaml"


def scene_settings(seed: int) -> dict[str, Any]:
    """Return what the simulated scenes depend on (all ours).

    Classes by falling frequency in training; scenes of train, val and test; training objects of the first class, and
    how many times more these are than those of the last; objects per class in val and test; side in pixels; meters
    per pixel; sensor; share of looks that tail classes show in training.
    """
    return {
        "class_names": DEMO_CLASSES,
        "n_scenes": (120, 40, 0),
        "largest": 180,
        "imbalance": 10.0,
        "balanced": 20,
        "size": 192,
        "gsd": 0.5,
        "sensor": "optical",
        "tail_coverage": 0.75,
        "seed": seed,
    }


def run_demo(root: Path, *, seed: int, resume: bool) -> list[str]:
    """Simulate scenes, train both methods on them, and return the table as lines.

    Raises:
        ArtifactError: If the folder is in use by something else, or in use at all and ``resume`` is off.
    """
    from importlib.resources import files

    from deblora.recipe.classify import read_recipe

    settings = scene_settings(seed)
    if root.is_dir() and any(root.iterdir()) and not resume:
        raise ArtifactError(f"{root} is not empty; add --resume to go on, or name another folder with --out")
    write_scenes(root / "scenes", settings)
    values = read_recipe(Path(str(files("deblora") / RECIPE)))
    values["seed"] = seed
    values["data"].update(train=str(root / "scenes" / "train"), val=str(root / "scenes" / "val"))
    folders = []
    for method in DEMO_METHODS:
        run = RunDir.create(root / method, resume=True, overwrite=False)
        recipe = detection_recipe_from({**values, "method": {**values.get("method", {}), "name": method}})
        train_detector(run, recipe)
        folders.append(run.root)
    lines = comparison_text(folders).splitlines()
    write_atomic(root / "comparison.md", "\n".join(lines) + "\n")
    return [*lines, "", *(f"report: {folder / 'report' / 'index.html'}" for folder in folders)]


def write_scenes(folder: Path, settings: dict[str, Any]) -> None:
    """Write ``folder/<split>/images`` and ``labelTxt``; nothing is done if they are there with these settings.

    Raises:
        ArtifactError: If the folder holds other scenes.
    """
    note, text = folder / "scenes.json", json.dumps(settings, indent=1)
    if note.is_file():
        if note.read_text() == text:
            return
        raise ArtifactError(f"{folder} holds scenes of other settings; name another folder")
    long_tail = exponential_counts(
        len(settings["class_names"]), largest=settings["largest"], imbalance_factor=settings["imbalance"]
    )
    for split, n_scenes in zip(SPLITS, settings["n_scenes"], strict=True):
        if not n_scenes:
            continue
        counts = (
            long_tail.tolist() if split == "train" else [settings["balanced"]] * len(settings["class_names"])
        )
        scenes = simulate_scenes(
            n_scenes,
            split=split,
            quotas=dict(zip(settings["class_names"], counts, strict=True)),
            size=settings["size"],
            gsd=settings["gsd"],
            sensor=settings["sensor"],
            tail_coverage=settings["tail_coverage"],
            tail_class_names=settings["class_names"][-N_TAIL:],
            seed=settings["seed"],
        )
        images, labels = folder / split / "images", folder / split / "labelTxt"
        for path in (images, labels):
            path.mkdir(parents=True, exist_ok=True)
        for scene in tqdm(
            scenes, desc=f"simulate {split} scenes", unit="scene", total=n_scenes, disable=no_bar()
        ):
            Image.fromarray(scene.image).save(images / f"{scene.name}.png")
            objects = Labels(
                scene.quads.round(2),
                scene.class_names,
                scene.difficult.astype(np.int64),
                settings["gsd"],
                "simulated",
            )
            write_labels(labels / f"{scene.name}.txt", objects)
    write_atomic(note, text)
    logging.getLogger("deblora").info("scenes in %s", folder)
