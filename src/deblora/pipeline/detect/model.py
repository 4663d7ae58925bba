"""The detector of a recipe: backbone, what is adapted in it, head, class loss."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deblora.detect.fcos.class_loss import FocalScoring, MarginScoring, Scoring, class_balanced_weights
from deblora.detect.fcos.detector import OrientedFCOS, build_detector, start_afresh, train_all
from deblora.detect.tiling import TileSpec
from deblora.detect.training import load_weights, scales_for
from deblora.errors import ArtifactError, ModelError
from deblora.models.adapters.lora import CONFIG, SIDECAR, attach_lora, load_adapter
from deblora.models.backbone import Backbone
from deblora.models.maps import size_multiple
from deblora.pipeline.adapter import PEFT_NAMES
from deblora.pipeline.audited import class_names, train_counts
from deblora.pipeline.open_model import adopt_input, open_backbone
from deblora.recipe.classify import read_recipe
from deblora.recipe.detect import NO_ADAPTER, DetectionRecipe, MethodRecipe, detection_recipe_from
from deblora.run.run_dir import RunDir

WITH_LORA = ("lora", "reweight", "ecm", "deblora")
JOINT = "lora"  # name of the adapter folder of a run that trained one


def weights_path(run: RunDir) -> Path:
    """Pyramid, head and scoring, and the extractor where it was trained."""
    return run.root / "detector" / "detector.safetensors"


def facts_path(run: RunDir) -> Path:
    """What training decided and counted."""
    return run.root / "detector" / "detector.json"


def tile_spec(recipe: DetectionRecipe, backbone: Backbone) -> TileSpec:
    """Return how tiles are cut for this backbone.

    Raises:
        ModelError: If the tile does not fit it.
    """
    data, spec, multiple = recipe.data, backbone.spec, size_multiple(backbone)
    if data.tile % multiple:
        raise ModelError(
            f"data.tile is {data.tile}, but {backbone.name} needs a multiple of {multiple}; "
            f"{max(1, round(data.tile / multiple)) * multiple} is the next one"
        )
    return TileSpec(data.tile, data.overlap, data.zoom, spec.mean, spec.std, data.scale or spec.scale)


def open_extractor(recipe: DetectionRecipe) -> Backbone:
    """Load the backbone and what the method adds to it; only what is to be trained is trainable.

    Random weights (``scratch``) are set by :func:`randomize`, which needs images.
    """
    backbone, method = open_backbone(recipe.backbone, seed=recipe.seed), recipe.method
    if backbone.train_statistics and (not method.adapter or method.adapter == NO_ADAPTER):
        raise ModelError(
            "backbone.normalize: train takes the statistics of chips, and detection has none; name the adapter of a "
            "`deblora run` in method.adapter, or set backbone.normalize to model and leave backbone.n_bands out"
        )
    if method.name in WITH_LORA and method.adapter != NO_ADAPTER:
        if method.adapter:
            _load_adapters(backbone, method)
        else:
            attach_lora(
                backbone,
                rank=method.rank,
                alpha=method.alpha or method.rank,
                targets=tuple(method.targets) if method.targets else None,
                seed=recipe.seed,
            )
    elif method.name in ("fine-tune", "scratch"):
        train_all(backbone)
    return backbone


def randomize(backbone: Backbone, recipe: DetectionRecipe, pixels: torch.Tensor) -> None:
    """Give the extractor of the row "scratch" random weights."""
    if recipe.method.name == "scratch":
        start_afresh(backbone, seed=recipe.seed, pixels=pixels)


def scoring_for(method: MethodRecipe, counts: np.ndarray, *, background_ratio: float | None) -> Scoring:
    """Return the class loss of a method."""
    if method.name == "reweight":
        return FocalScoring(len(counts), weights=class_balanced_weights(counts, beta=method.beta))
    if method.name == "ecm":
        return MarginScoring(counts, background_ratio=background_ratio or 1.0)
    return FocalScoring(len(counts))


def build(recipe: DetectionRecipe, backbone: Backbone, scoring: Scoring) -> OrientedFCOS:
    """Return the detector with a fresh pyramid and head."""
    head = recipe.head
    return build_detector(
        backbone,
        scoring,
        seed=recipe.seed,
        n_channels=head.n_channels,
        n_convs=head.n_convs,
        scales=tuple(head.scales) or scales_for(size_multiple(backbone)),
        angle=head.angle,
        box_loss=head.box_loss,
    )


def is_joint(recipe: DetectionRecipe) -> bool:
    """Tell whether the run trains an adapter together with the head."""
    return recipe.method.name in WITH_LORA and not recipe.method.adapter


def load_trained(run: RunDir, recipe: DetectionRecipe) -> OrientedFCOS:
    """Return the trained detector of a run.

    Raises:
        ArtifactError: If the run has none, or its files are damaged.
    """
    if is_joint(recipe) and weights_path(run).is_file():
        backbone = open_backbone(recipe.backbone, seed=recipe.seed)
        load_adapter(backbone, run.adapter(JOINT), adapter_name=PEFT_NAMES["lora"])
    else:
        backbone = open_extractor(recipe)
    scoring = scoring_for(recipe.method, train_counts(run), background_ratio=None)
    detector = build(recipe, backbone, scoring)
    load_weights(weights_path(run), detector)
    return detector.eval()


def device() -> torch.device:
    """Return the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def adapter_settings(method: MethodRecipe) -> list[object]:
    """Return the hashes of the adapters that a method loads."""
    from deblora.models.adapters.lora import adapter_sha256

    if method.adapter in (None, NO_ADAPTER):
        return []
    return [adapter_sha256(folder) for _, folder in _adapter_folders(method)]


def _load_adapters(backbone: Backbone, method: MethodRecipe) -> None:
    for name, folder in _adapter_folders(method):
        adopt_input(backbone, folder)
        load_adapter(backbone, folder, adapter_name=PEFT_NAMES[name])


def _adapter_folders(method: MethodRecipe) -> list[tuple[str, Path]]:
    """Return the adapters to load in order: one PEFT folder, or those of a classification run."""
    root = Path(str(method.adapter))
    if method.name != "deblora":
        folder = root if (root / CONFIG).is_file() else root / "adapters" / "lora"
        if not (folder / CONFIG).is_file():
            raise ModelError(
                f"method.adapter {root} is neither a PEFT folder nor a run of `deblora run` with adapters/lora"
            )
        return [("lora", folder)]
    folder = root / "adapters" / "deblora"
    if not (folder / SIDECAR).is_file():
        raise ModelError(
            f"method.adapter {root} has no adapters/deblora; name the folder of a finished `deblora run` "
            "(placement stack, continue or fresh: a map in feature space has no part in feature maps)"
        )
    try:
        parents = json.loads((folder / SIDECAR).read_text(encoding="utf-8")).get("parents") or {}
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder / SIDECAR} is damaged ({error}); train that adapter again") from error
    first = [("lora", root / "adapters" / "lora")] if parents else []
    return [*first, ("deblora", folder)]


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
