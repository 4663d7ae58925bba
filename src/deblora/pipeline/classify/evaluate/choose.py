"""Stage ``choose``: which row and head validation prefers, and what that may be expected to gain on new chips."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deblora.errors import ArtifactError
from deblora.evaluate.choice import Choice, choose
from deblora.files import write_atomic
from deblora.pipeline.classify.chips import open_chips
from deblora.pipeline.classify.evaluate.heads import DEFAULT_METHODS, fitted_path, head_stages, read_fitted
from deblora.pipeline.classify.evaluate.samples import SEMI_SUPERVISED, TRANSDUCTIVE
from deblora.pipeline.compare.baselines.settings import SELF_TRAINED
from deblora.recipe.classify import Recipe
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage

FILE = "choice.json"
REFERENCE = ("lora", "cross_entropy")
"""What the gain is measured against: LoRA with a plain probe, which most people would use."""
SHORT_LIST = ("zero-shot", "lora", "deblora", "shift-kernel", SEMI_SUPERVISED)
"""Rows that ``deblora run DATA`` chooses among, each with all its heads."""
FEW = 5
"""Validation chips of a class below which the choice is called uncertain (ours)."""

Name = tuple[str, str]


def judging_stages(methods: Sequence[str] = DEFAULT_METHODS) -> tuple[Stage, ...]:
    """Return the stages that fit and judge the heads of these rows, and the one that chooses among them."""
    stages = head_stages(methods)
    names = [stage.name.removeprefix("heads-") for stage in stages if stage.name.startswith("heads-")]
    # One is fitted to these test chips, no use for new ones; the other has learned from the validation chips.
    names = [name for name in names if name not in (TRANSDUCTIVE, SELF_TRAINED)]
    return (*stages, stage_for(names))


def stage_for(methods: Sequence[str]) -> Stage:
    """Return the stage that chooses among all heads of these rows; ``lora`` has to be one of them."""

    def work(run: RunDir, recipe: Recipe) -> None:
        _choose(run, recipe, methods)

    return Stage(
        name="choose",
        settings=lambda _: list(methods),
        inputs=lambda run: [run.samples, run.groups, *(fitted_path(run, name) for name in methods)],
        outputs=lambda run: [run.evaluation(FILE)],
        work=work,
    )


def _choose(run: RunDir, recipe: Recipe, methods: Sequence[str]) -> None:
    chips = open_chips(run, recipe)
    val, n_test = chips.split("val"), len(chips.split("test"))
    predicted: dict[Name, np.ndarray] = {}
    for method in methods:
        for head, content in read_fitted(run, method, n_test, chips.n_classes).items():
            predicted[method, head] = np.array(content["predicted_val"], dtype=np.int64)
    choice = choose(
        predicted, val.labels, chips.n_classes, reference=REFERENCE, rng=np.random.default_rng(recipe.seed)
    )
    fewest = int(np.bincount(val.labels, minlength=chips.n_classes).min())
    write_atomic(run.evaluation(FILE), json.dumps(_record(choice, len(val), fewest), indent=1))


def _record(choice: Choice[Name], n_val: int, fewest: int) -> dict[str, Any]:
    ranked = sorted(choice.scores.items(), key=lambda item: -item[1])
    return {
        "method": choice.name[0],
        "probe": choice.name[1],
        "reference": list(choice.reference),
        "gain": choice.gain,
        "ci_lower": choice.ci_lower,
        "ci_upper": choice.ci_upper,
        "share": choice.share,
        "n_val": n_val,
        "fewest_val": fewest,
        "candidates": [{"method": m, "probe": p, "macro_f1": score} for (m, p), score in ranked],
    }


def choice_files(run: RunDir) -> list[Path]:
    """Return the file of the choice, if heads were fitted and one was chosen."""
    path = run.evaluation(FILE)
    return [path] if path.is_file() else []


def read_choice(run: RunDir) -> dict[str, Any]:
    """Return what was chosen.

    Raises:
        ArtifactError: If nothing was chosen yet, or the file is damaged.
    """
    path = run.evaluation(FILE)
    again = f"make it with: deblora heads {run.root}"
    if not path.is_file():
        raise ArtifactError(f"{path} is missing, so no head is chosen yet; {again}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        str(record["method"]), str(record["probe"]), tuple(record["reference"])
        [float(record[key]) for key in ("gain", "ci_lower", "ci_upper", "share")]
        int(record["fewest_val"]), int(record["n_val"])
        [(row["method"], row["probe"], float(row["macro_f1"])) for row in record["candidates"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged ({error!r}); {again}") from error
    return dict(record)


def say_choice(record: dict[str, Any]) -> list[str]:
    """Return the choice, the reason and the expected gain as sentences."""
    first, *others = record["candidates"]
    second = [
        f"; next is {row['method']} + {row['probe']} with {100 * row['macro_f1']:.1f}" for row in others[:1]
    ]
    gain, low, high = (100 * record[key] for key in ("gain", "ci_lower", "ci_upper"))
    plain = f"{record['reference'][0]} + {record['reference'][1]}"
    lines = [
        f"Chosen on {record['n_val']} validation chips among {len(record['candidates'])} candidates: "
        f"{record['method']} + {record['probe']}, macro F1 {100 * first['macro_f1']:.1f}{''.join(second)}.",
        f"Expected gain over {plain} on new chips: {gain:+.1f} points [{low:+.1f}, {high:+.1f}], free of the luck of "
        f"the choice; {100 * record['share']:.0f} % of the draws chose the same.",
    ]
    if low <= 0:
        lines.append("The interval does not exclude zero: the choice is no more than a reasonable guess.")
    if record["fewest_val"] < FEW:
        lines.append(
            f"A class has only {record['fewest_val']} validation chips; more of them would make the choice firmer."
        )
    return lines
