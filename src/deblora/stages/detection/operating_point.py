"""From which score detections are drawn: chosen on the validation images of the run."""

import json
from pathlib import Path

from deblora.run_dir import RunDir

LEAST_SHOWN = 0.1  # ours: boxes below are not drawn, also where a weak detector is best without any threshold


def evaluation_path(run: RunDir, split: str) -> Path:
    """Scores of a split."""
    return run.evaluation(f"{split}.json")


def shown_from(run: RunDir) -> float:
    """Return the score from which detections are drawn: that of the best mean F1 on the validation images."""
    path = evaluation_path(run, "val")
    found = json.loads(path.read_text()).get("threshold") if path.is_file() else None
    return max(LEAST_SHOWN, float(found["score"])) if found else LEAST_SHOWN
