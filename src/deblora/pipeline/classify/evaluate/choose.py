"""Stage ``choose``: which method and classifier are for new chips, what they may gain, and their last fit.

Unless every class has validation chips enough, nothing is chosen by score: the floor is taken, whose settings come from
the training chips. Linear classifiers are fitted again with the labels of the validation chips, which have done their
work.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from deblora.errors import ArtifactError
from deblora.evaluate.classifiers.classifier import Classifier
from deblora.evaluate.classifiers.files import load_classifier, save_classifier
from deblora.evaluate.classifiers.linear import TOLERANCE, Linear, LinearFits, log_prior, sade_prior
from deblora.evaluate.classifiers.names import FLOOR
from deblora.evaluate.intervals import Choice, choose
from deblora.files import write_atomic
from deblora.pipeline.audited import read_audited
from deblora.pipeline.classify.evaluate.fit import (
    Fitted,
    calibration_errors,
    read_fitted,
    save_fitted,
    side_by_side,
)
from deblora.recipe.classify import Recipe
from deblora.recipe.methods import FLOORS, METHODS, SHIPPED
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage

FILE = "choice.json"

Name = tuple[str, str]

REFITTED = ("cross_entropy", "balanced_softmax", FLOOR, "logit_adjustment", "sade")
"""Classifiers that are fitted again to training and validation chips: a logistic regression and a shift of its bias."""


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
        inputs=lambda run: [
            run.samples,
            run.groups,
            *(path for name in candidates for path in (run.fitted(name), run.classifiers(name))),
        ],
        outputs=lambda run: [run.evaluation(FILE), run.fitted(SHIPPED), run.classifiers(SHIPPED)],
        work=work,
        command="evaluate",
    )


def _work(run: RunDir, recipe: Recipe, methods: Sequence[str]) -> None:
    audited = read_audited(run)
    val = audited.split("val")
    fitted: dict[Name, Fitted] = {
        (method, name): own for method in methods for name, own in read_fitted(run, method, audited).items()
    }
    floors = [name for name in FLOORS if name in fitted]
    floor = min(floors, key=lambda name: float(fitted[name].choice["brier_score"]))
    choice = choose(
        {name: own.val for name, own in fitted.items()},
        val.labels,
        audited.groups,
        floor=floor,
        reference=floors[0],
        units=val.units,
        rng=np.random.default_rng(recipe.seed),
    )
    record = _record(choice, len(val), {name: float(fitted[name].choice["brier_score"]) for name in floors})
    record["is_refitted"] = _ship(run, choice.name, fitted[choice.name])
    write_atomic(run.evaluation(FILE), json.dumps(record, indent=1))


def _record(choice: Choice[Name], n_val: int, brier_scores: Mapping[Name, float]) -> dict[str, Any]:
    ranked = sorted(choice.scores.items(), key=lambda item: -item[1])
    return {
        "method": choice.name[0],
        "classifier": choice.name[1],
        "best": list(choice.best),
        "floor": list(choice.floor),
        "floor_scores": {method: score for (method, _), score in brier_scores.items()},
        "reference": list(choice.reference),
        "gains": {group: vars(gain) for group, gain in choice.gains.items()},
        "sure": choice.sure,
        "n_val": n_val,
        "fewest_val": choice.n_fewest,
        "candidates": [{"method": m, "classifier": c, "macro_f1": score} for (m, c), score in ranked],
    }


def _ship(run: RunDir, name: Name, own: Fitted) -> bool:
    """Save the chosen classifier as the one for new chips, fitted again where it can be; return whether it was."""
    classifier, notes = load_classifier(run.classifier(*name))
    again = _refitted(run, name, notes)
    kept = classifier if again is None else again
    audited = read_audited(run)
    test = audited.split("test")
    tables = tuple(notes["tables"])
    logits = kept.logits(side_by_side(run, tables, test.ids))
    temperature = float(own.choice["temperature"])
    shipped = Fitted(
        {**own.choice, **calibration_errors(logits, test.labels, temperature)},
        np.asarray(logits.argmax(axis=1)),
        own.val,  # those of the fit that did not see these chips
    )
    save_classifier(run.classifier(SHIPPED, name[1]), kept, {**notes, "is_refitted": again is not None})
    for path in run.classifiers(SHIPPED).iterdir():
        if path.stem != name[1]:
            path.unlink()
    save_fitted(run.fitted(SHIPPED), {name[1]: shipped}, len(test))
    return again is not None


def _refitted(run: RunDir, name: Name, notes: Mapping[str, Any]) -> Classifier | None:
    """Return the classifier at its chosen settings, fitted to training and validation chips; None if it cannot be."""
    if not can_fit_again(*name):
        return None
    audited = read_audited(run)
    train, val = audited.split("train"), audited.split("val")
    y = np.concatenate([train.labels, val.labels])
    x = side_by_side(run, METHODS[name[0]].reads, (*train.ids, *val.ids))
    with threadpool_limits(limits=1, user_api="blas"):
        return fit_again(name[1], notes["settings"], x, y, audited.n_classes)


def can_fit_again(method: str, classifier: str) -> bool:
    """Tell whether :func:`fit_again` fits a classifier of a method: a linear one on features that are not moved."""
    return classifier in REFITTED and not METHODS[method].moved and not METHODS[method].targets


def fit_again(
    classifier: str,
    settings: Mapping[str, Any],
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    tolerance: float = TOLERANCE,
) -> Linear:
    """Fit one of :data:`REFITTED` at settings that were chosen before, to other samples.

    Args:
        classifier: Its name.
        settings: Its ``l2``, and ``tau`` where it has one.
        x: Features.
        y: Their classes.
        n_classes: Number of classes, each with a sample.
        tolerance: Of the fit.

    Raises:
        DataError: If a class has no sample or a feature is not finite.
    """
    plain = LinearFits.of(x, y, n_classes).fit(float(settings["l2"]), tolerance=tolerance)
    if classifier == "cross_entropy":
        return plain
    if classifier == "sade":
        return plain.adjusted(sade_prior(y, n_classes, tau=float(settings["tau"])))
    return plain.adjusted(log_prior(y, n_classes), float(settings.get("tau", 1.0)))


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
        str(record["method"]), str(record["classifier"]), float(record["sure"]), bool(record["is_refitted"])
        [tuple(record[key]) for key in ("reference", "floor", "best")]
        {str(method): float(score) for method, score in record["floor_scores"].items()}
        [
            float(record["gains"][group][key])
            for group in ("tail", "all")
            for key in ("value", "ci_lower", "ci_upper")
        ]
        int(record["fewest_val"]), int(record["n_val"])
        [(row["method"], row["classifier"], float(row["macro_f1"])) for row in record["candidates"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path} is damaged ({error!r}); {again}") from error
    return dict(record)
