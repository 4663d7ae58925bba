"""The embedded default: simulated SAR chips with a long tail, written as a folder of pictures that anyone can open."""

from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from deblora.config import recipe_from
from deblora.data.longtail import exponential_counts
from deblora.data.simulate import CLASS_NAMES, simulated_chips
from deblora.pipeline import run_all
from deblora.run_dir import RunDir

N_LARGEST, IMBALANCE_FACTOR = 200, 50.0
N_VAL, N_TEST = 15, 40  # per class
CHIP_SIZE = 64
TAIL_COVERAGE = 0.5


def run_demo(run: RunDir, overrides: dict[str, object]) -> None:
    """Simulate the chips into the run folder and run the road on them."""
    from importlib.resources import files

    from deblora.config import read_recipe

    recipe = read_recipe(Path(str(files("deblora") / "demo.yaml")))
    recipe["data"]["source"] = str(run.root / "chips")
    recipe.update(overrides)
    write_chips(run.root / "chips", seed=int(recipe["seed"]))
    run_all(run, recipe_from(recipe))


def write_chips(folder: Path, *, seed: int) -> None:
    """Write ``folder/<split>/<class>/<name>.png``; counts fall exponentially in the order of the classes."""
    train = exponential_counts(len(CLASS_NAMES), largest=N_LARGEST, imbalance_factor=IMBALANCE_FACTOR)
    counts = {
        "train": tuple(int(n) for n in train),
        "val": (N_VAL,) * len(CLASS_NAMES),
        "test": (N_TEST,) * len(CLASS_NAMES),
    }
    chips = simulated_chips(
        sensor="sar", counts_per_class=counts, chip_size=CHIP_SIZE, tail_coverage=TAIL_COVERAGE, seed=seed
    )
    for i, chip_id in enumerate(tqdm(chips.ids, desc="simulate SAR chips", unit="chip")):
        path = folder / f"{chip_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = chips.pixels.read(i)
        Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)).save(path)
