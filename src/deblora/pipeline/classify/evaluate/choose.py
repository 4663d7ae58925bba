"""Stage ``choose``: what validation prefers, and what it may be expected to gain on new chips."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deblora.errors import ArtifactError
from deblora.evaluate.intervals import Choice, choose
from deblora.files import write_atomic
from deblora.pipeline.audited import read_audited
from deblora.pipeline.classify.evaluate.fit import read_fitted
from deblora.recipe.classify import Recipe
from deblora.recipe.methods import METHODS, PLAIN
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage

FILE = "choice.json"

Name = tuple[str, str]


def stage_for(methods: Sequence[str]) -> Stage:
    """Return the stage that chooses among all kept classifiers of these methods that may see new chips.

    Left out are methods that were fitted to these test chips, that have learned from the validation chips, or whose
    features only a comparison makes. ``lora`` has to be among the others.
    """
    candidates = [name for name in methods if METHODS[name].for_new_chips]

    def work(run: RunDir, recipe: Recipe) -> None:
        _work(run, recipe, candidates)

    return Stage(
        name="choose",
        settings=lambda _: candidates,
        inputs=lambda run: [run.samples, run.groups, *map(run.fitted, candidates)],
        outputs=lambda run: [run.evaluation(FILE)],
        work=work,
        command="evaluate",
    )


def _work(run: RunDir, recipe: Recipe, methods: Sequence[str]) -> None:
    audited = read_audited(run)
    val = audited.split("val")
    predicted: dict[Name, np.ndarray] = {
        (method, name): own.val
        for method in methods
        for name, own in read_fitted(run, method, audited).items()
    }
    rng = np.random.default_rng(recipe.seed)
    choice = choose(predicted, val.labels, audited.n_classes, reference=PLAIN, rng=rng)
    record = _record(choice, len(val), int(val.counts.min()))
    write_atomic(run.evaluation(FILE), json.dumps(record, indent=1))


def _record(choice: Choice[Name], n_val: int, fewest: int) -> dict[str, Any]:
    ranked = sorted(choice.scores.items(), key=lambda item: -item[1])
    return {
        "method": choice.name[0],
        "classifier": choice.name[1],
        "reference": list(choice.reference),
        "gain": choice.gain,
        "ci_lower": choice.ci_lower,
        "ci_upper": choice.ci_upper,
        "share": choice.share,
        "n_val": n_val,
        "fewest_val": fewest,
        "candidates": [{"method": m, "classifier": c, "macro_f1": score} for (m, c), score in ranked],
    }


def choice_files(run: RunDir) -> list[Path]:
    """Return the file of the choice, if there is one."""
    path = run.evaluation(FILE)
    return [path] if path.is_file() else []


def read_choice(run: RunDir) -> dict[str, Any]:
    """Return what was chosen.

    Raises:
        ArtifactError: If nothing was chosen yet, or the file is damaged.
    """
    path = run.evaluation(FILE)
    again = f"make it with: deblora evaluate {run.root}"
    if not path.is_file():
        raise ArtifactError(f"{path} is missing, so no classifier is chosen yet; {again}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        str(record["method"]), str(record["classifier"]), tuple(record["reference"])
        [float(record[key]) for key in ("gain", "ci_lower", "ci_upper", "share")]
        int(record["fewest_val"]), int(record["n_val"])
        [(row["method"], row["classifier"], float(row["macro_f1"])) for row in record["candidates"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged ({error!r}); {again}") from error
    return dict(record)
