"""Write simulated scenes with oriented boxes as a folder in DOTA format.

Usage: ``python scripts/simulate_scenes.py scenes/ --scenes 60 30 30 --sensor optical``. Writes for each split
``<split>/images/`` (PNG; .npy with seven bands for multispectral) and ``<split>/labelTxt/*.txt``, and the settings as
``scenes.json``. The train split has a long tail, val and test are balanced.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from deblora.data.longtail import exponential_counts
from deblora.data.simulate.chips import CLASS_NAMES, SPLITS
from deblora.data.simulate.scenes import SENSORS, SimulatedScene, simulate_scenes


def main() -> None:
    """Draw all splits and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="new or empty folder")
    parser.add_argument("--scenes", type=int, nargs=3, default=(60, 30, 30), help="of train, val and test")
    parser.add_argument("--sensor", choices=SENSORS, default="optical")
    parser.add_argument("--largest", type=int, default=400, help="objects of the first class in train")
    parser.add_argument("--imbalance", type=float, default=50.0, help="largest over smallest class in train")
    parser.add_argument("--balanced", type=int, default=20, help="objects per class in val and in test")
    parser.add_argument("--tail-coverage", type=float, default=0.5)
    parser.add_argument("--size", type=int, default=512, help="side in pixels")
    parser.add_argument("--gsd", type=float, default=0.5, help="meters per pixel")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.out.exists() and any(arguments.out.iterdir()):
        parser.error(f"{arguments.out} is not empty; name a new folder")
    long_tail = exponential_counts(
        len(CLASS_NAMES), largest=arguments.largest, imbalance_factor=arguments.imbalance
    )
    for split, n_scenes in zip(SPLITS, arguments.scenes, strict=True):
        counts = long_tail.tolist() if split == "train" else [arguments.balanced] * len(CLASS_NAMES)
        scenes = simulate_scenes(
            n_scenes,
            split=split,
            quotas=dict(zip(CLASS_NAMES, counts, strict=True)),
            size=arguments.size,
            gsd=arguments.gsd,
            sensor=arguments.sensor,
            tail_coverage=arguments.tail_coverage,
            seed=arguments.seed,
        )
        for scene in scenes:
            write_scene(scene, arguments.out / split, gsd=arguments.gsd)
        print(f"{split}: {n_scenes} scenes, {sum(counts)} objects", flush=True)
    settings = {key: value for key, value in vars(arguments).items() if key != "out"}
    (arguments.out / "scenes.json").write_text(json.dumps(settings, indent=2) + "\n")


def write_scene(scene: SimulatedScene, folder: Path, *, gsd: float) -> None:
    """Write the image and the labels of one scene."""
    images, labels = folder / "images", folder / "labelTxt"
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    n_bands = scene.image.shape[2]
    if n_bands in (1, 3):
        Image.fromarray(scene.image[..., 0] if n_bands == 1 else scene.image).save(
            images / f"{scene.name}.png"
        )
    else:
        np.save(images / f"{scene.name}.npy", scene.image)
    lines = ["imagesource:simulated", f"gsd:{gsd}"]
    for quad, name, difficult in zip(scene.quads, scene.class_names, scene.difficult, strict=True):
        lines.append(" ".join([*(f"{x:.2f}" for x in quad.ravel()), name, str(int(difficult))]))
    (labels / f"{scene.name}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
