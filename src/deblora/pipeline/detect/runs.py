"""Opening a run of detection."""

import json
from pathlib import Path
from typing import Any

from deblora.errors import ArtifactError
from deblora.pipeline.audited import class_names
from deblora.recipe.classify import read_recipe
from deblora.recipe.detect import DetectionRecipe, detection_recipe_from
from deblora.run.run_dir import RunDir


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


LEAST_SHOWN = 0.1  # ours: boxes below are not drawn, also where a weak detector is best without any threshold
LEAST_F1 = 0.25  # ours: below, the boxes of a class are noise
UNJUDGED, NEVER = 0.2, 1.0


def evaluation_path(run: RunDir, split: str) -> Path:
    """Scores of a split."""
    return run.evaluation(f"{split}.json")


def shown_from(run: RunDir) -> dict[str, float]:
    """Return the score from which detections of each class are drawn: its best F1 on the validation images.

    Never below .1; 1 (nothing is drawn) for a class of which validation showed no true detection or none worth it.
    Before the validation images are judged, .2 for every class.

    Raises:
        ArtifactError: If the scores are damaged.
    """
    path = evaluation_path(run, "val")
    if not path.is_file():
        return dict.fromkeys(class_names(run), UNJUDGED)
    try:
        rows = read_facts(path)["classes"]
        worth = {
            row["class"]: float(row["threshold"]) for row in rows if (row.get("best_f1") or 0) >= LEAST_F1
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path} is damaged ({error!r}); delete it and go on with deblora detect train --resume"
        ) from error
    return {name: max(LEAST_SHOWN, worth.get(name, NEVER)) for name in class_names(run)}
