"""Opening a run of detection."""

from pathlib import Path

from deblora.config import read_recipe
from deblora.detection_config import DetectionRecipe, detection_recipe_from
from deblora.errors import ArtifactError
from deblora.run_dir import RunDir


def open_run(root: Path) -> tuple[RunDir, DetectionRecipe]:
    """Open a run of detection with its recipe.

    Raises:
        ArtifactError: If the folder holds no such run.
    """
    run = RunDir.open(root)
    values = read_recipe(run.recipe) if run.recipe.is_file() else {}
    if "head" not in values:
        raise ArtifactError(f"{root} is no run of detection; start one with deblora detect train")
    return run, detection_recipe_from(values)
