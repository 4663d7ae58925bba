"""The embedded default: simulated SAR chips with a long tail, written as a folder of pictures that anyone can open."""

from pathlib import Path

from deblora.data.simulate.chip_folder import Simulation, write_chips
from deblora.pipeline.classify.road import run_all
from deblora.recipe.classify import recipe_from
from deblora.run.run_dir import RunDir


def run_demo(run: RunDir, overrides: dict[str, object]) -> None:
    """Simulate the chips into the run folder and run the road on them."""
    from importlib.resources import files

    from deblora.recipe.classify import read_recipe

    recipe = read_recipe(Path(str(files("deblora") / "demo.yaml")))
    recipe["data"]["source"] = str(run.root / "chips")
    recipe.update(overrides)
    write_chips(run.root / "chips", Simulation(), seed=int(recipe["seed"]))
    run_all(run, recipe_from(recipe))
