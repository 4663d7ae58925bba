"""The row ``clip-text``: classes told apart by the texts of their names alone, without a probe.

Base features give ``clip-text``; features through the adapters give ``clip-text-lora`` and ``clip-text-deblora``. Names
are known before any image is seen, so a row without training labels stays one.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from deblora.artifacts import FeatureTable
from deblora.config import Recipe
from deblora.data.chips import ChipSet
from deblora.models.clip_text import has_text, load_text_head
from deblora.run_dir import RunDir
from deblora.stages.first_objective import templates_of, trained_classes
from deblora.stages.open_model import text_model

ROWS = {"base": "clip-text", "lora": "clip-text-lora", "deblora": "clip-text-deblora"}
PROBE = "text"


def text_folder(recipe: Recipe) -> Path | None:
    """Return the folder of the backbone if it is a whole CLIP model and features are its class tokens."""
    if recipe.backbone.pool != "cls" or not recipe.backbone.path:
        return None
    folder = text_model(recipe.backbone)
    return folder if has_text(folder) else None


@torch.inference_mode()
def text_predictions(
    run: RunDir, recipe: Recipe, splits: dict[str, ChipSet]
) -> dict[tuple[str, str], Int[np.ndarray, " m"]]:
    """Return the test predictions of every row by (method, probe); none where the backbone has no text."""
    folder = text_folder(recipe)
    if folder is None:
        return {}
    trained, names = trained_classes(splits["train"])
    head = load_text_head(folder, names, templates_of(recipe))
    found: dict[tuple[str, str], Int[np.ndarray, " m"]] = {}
    for adapter, method in ROWS.items():
        features = FeatureTable.load(run.features(adapter)).rows(splits["test"].ids)
        best = head(torch.from_numpy(np.asarray(features, dtype=np.float32))).argmax(dim=1).numpy()
        found[method, PROBE] = np.asarray(trained)[best]
    return found
