"""Opening a run of detection."""

import json
from pathlib import Path
from typing import Any

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


def read_facts(path: Path) -> dict[str, Any]:
    """Read what a finished stage wrote as JSON.

    Raises:
        ArtifactError: If the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({error}); delete it and go on with deblora detect train --resume"
        ) from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path} is damaged; delete it and go on with deblora detect train --resume")
    return content
