"""Stages ``evaluate-<method>``: fit the classifiers of a method on its features, and keep each of them.

Settings are chosen on validation; the test chips are classified once, by what was chosen. Fitted classifiers are files
of the run, predictions a table beside them, so a killed or extended comparison goes on where it was.
"""

import json
import logging
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from deblora.debias.variants import VARIANTS, moved_features
from deblora.errors import ArtifactError, ModelError
from deblora.evaluate.classifiers.cosine import ProjectedCosine
from deblora.evaluate.classifiers.cross_validation import calibrated_score, expected_calibration_error
from deblora.evaluate.classifiers.files import save_classifier
from deblora.evaluate.classifiers.linear import LARGE
from deblora.evaluate.classifiers.names import CLASSIFIERS, ON_REQUEST, SCALABLE
from deblora.evaluate.classifiers.search import Chosen, Samples
from deblora.evaluate.classifiers.semi_supervised import (
    ENOUGH,
    N_FOLDS,
    fit_pseudo_labeled,
    fit_semi_supervised,
    fit_transductive,
    held_out_predictions,
    n_short,
)
from deblora.evaluate.classifiers.trials import fit_classifiers
from deblora.evaluate.metrics import macro_f1
from deblora.files import write_atomic
from deblora.pipeline.audited import Audited, read_audited
from deblora.recipe.classify import Recipe
from deblora.recipe.methods import GAUSSIANS, METHODS, OWN_LOGITS, PSEUDO_LABELED, TEXT, Method
from deblora.run.artifacts import FeatureTable, Targets
from deblora.run.run_dir import FEATURES, LOGITS, SOFT_LABELS, RunDir
from deblora.run.stage import Stage, stage_key

log = logging.getLogger("deblora")


@dataclass(frozen=True)
class Fitted:
    """What a fitted classifier says: its choices on validation, and the classes it predicts.

    Attributes:
        choice: Chosen settings, ``macro_f1`` on validation in [0, 1] and ``n_trials``.
        test: Predicted classes of the test chips.
        val: Those of the validation chips; of a classifier that sees their features, by one that did not see the chip.
    """

    choice: Mapping[str, Any]
    test: Int[np.ndarray, " m"]
    val: Int[np.ndarray, " v"]


def stage_for(name: str) -> Stage:
    """Return the stage that fits the classifiers of a method."""
    method = METHODS[name]
    return Stage(
        name=f"evaluate-{name}",
        settings=lambda recipe: [
            method.chosen_classifiers(recipe.evaluate.classifiers),
            *_settings(method, recipe),
        ],
        inputs=lambda run: [run.samples, run.groups, *_inputs(run, method)],
        outputs=lambda run: [run.fitted(name), run.classifiers(name)],
        work=lambda run, recipe: _work(run, recipe, method),
        command="evaluate",
        method=name,
    )


def can_fit(recipe: Recipe, name: str) -> bool:
    """Tell whether a method has a classifier to fit with this recipe; texts need a whole CLIP model."""
    names = METHODS[name].chosen_classifiers(recipe.evaluate.classifiers)
    return bool(names) and (names != (TEXT,) or text_folder(recipe) is not None)


def has_inputs(run: RunDir, name: str) -> bool:
    """Tell whether everything that a method is fitted on is there."""
    return all(path.is_file() for path in _inputs(run, METHODS[name]))


def with_current(run: RunDir, recipe: Recipe, names: Collection[str]) -> tuple[str, ...]:
    """Return these methods and all others whose classifiers are fitted and up to date, so that tables only grow."""
    return tuple(
        name
        for name in METHODS
        if (name in names and can_fit(recipe, name)) or (name not in names and _is_current(run, recipe, name))
    )


def _is_current(run: RunDir, recipe: Recipe, name: str) -> bool:
    stage = stage_for(name)
    if not run.record(stage.name):
        return False
    try:
        return run.is_done(stage.name, stage_key(stage, run, recipe))
    except ArtifactError:  # its features are gone
        return False


def text_folder(recipe: Recipe) -> Path | None:
    """Return the folder of the backbone if it is here, is a whole CLIP model, and features are its class tokens."""
    from deblora.models.backbones.clip_text import has_text
    from deblora.pipeline.open_model import text_model

    if recipe.backbone.pool != "cls" or not recipe.backbone.path:
        return None
    try:
        folder = text_model(recipe.backbone)
    except ModelError:
        return None
    return folder if has_text(folder) else None


def _settings(method: Method, recipe: Recipe) -> list[object]:
    """Return what the fits of a method depend on beside their classifiers."""
    if method.moved:
        law = recipe.calibrate if VARIANTS[method.moved].law == "imbalance" else None
        return [
            law and law.__dict__,
            recipe.shift.__dict__ if "kernel" in VARIANTS[method.moved].center else None,
        ]
    if method.unlabeled:
        return [N_FOLDS]
    return [recipe.lora.templates] if TEXT in method.classifiers else []


def _inputs(run: RunDir, method: Method) -> list[Path]:
    paths = [features_path(run, table) for table in method.reads]
    if method.targets:
        paths.append(run.targets(method.targets))
    if method.own_logits:
        paths.append(run.row(method.name) / LOGITS)
    if PSEUDO_LABELED in method.classifiers:
        paths.append(run.row(method.name) / SOFT_LABELS)
    return paths


def features_path(run: RunDir, table: str) -> Path:
    """Return the file of a feature table: ``base``, ``lora``, ``deblora``, or a method with a training of its own."""
    is_own = table in METHODS and METHODS[table].trains
    return run.row(table) / FEATURES if is_own else run.features(table)


def side_by_side(run: RunDir, tables: tuple[str, ...], ids: tuple[str, ...]) -> Float[np.ndarray, "n d"]:
    """Return the features of these chips from all tables, one beside the other.

    Raises:
        ArtifactError: If a table is missing, damaged or lacks a chip.
    """
    return np.hstack([FeatureTable.load(features_path(run, table)).rows(ids) for table in tables])


def training_features(
    run: RunDir, recipe: Recipe, method: Method, train: Audited
) -> Float[np.ndarray, "n d"]:
    """Return the features that the classifiers of a method are fitted to; moved ones where it moves them.

    Raises:
        ArtifactError: If a table is missing, damaged or lacks a chip.
    """
    if method.targets:
        return Targets.load(run.targets(method.targets)).rows(train.ids)
    features = side_by_side(run, method.reads, train.ids)
    if not method.moved:
        return features
    return moved_features(
        method.moved,
        features,
        train.labels,
        train.groups,
        which=recipe.calibrate.classes,
        numerator=recipe.calibrate.numerator,
        imbalance=recipe.calibrate.imbalance,
        temperature=recipe.shift.temperature,
        n_rounds=recipe.shift.n_rounds,
        seed=recipe.seed,
    ).features


@dataclass(frozen=True)
class _Data:
    """What the classifiers of a method are fitted on."""

    run: RunDir
    recipe: Recipe
    method: Method
    audited: Audited

    def samples(self, tables: tuple[str, ...]) -> Samples:
        """Return unmoved features of these tables."""
        train, val = self.audited.split("train"), self.audited.split("val")
        features = side_by_side(self.run, tables, train.ids)
        return Samples(
            x=features,
            y=train.labels,
            x_val=side_by_side(self.run, tables, val.ids),
            y_val=val.labels,
            n_classes=train.n_classes,
            groups=train.groups,
            statistics_of=features,
            seed=self.recipe.seed,
            units=train.units,
        )


def _fits(data: _Data, names: tuple[str, ...]) -> Iterator[tuple[str, Chosen, Int[np.ndarray, " v"]]]:
    """Fit classifiers one after the other; yield name, what was chosen, and validation predictions."""
    plain = [name for name in names if name in (*CLASSIFIERS, *ON_REQUEST)]
    if plain:
        samples = data.samples(data.method.reads)
        if data.method.moved or data.method.targets:
            train = data.audited.split("train")
            samples = replace(samples, x=training_features(data.run, data.recipe, data.method, train))
        for name, chosen in fit_classifiers(samples, plain):
            yield name, chosen, _predicted(chosen, samples.x_val)
    for name in names:
        if name in OTHERS:
            yield (name, *OTHERS[name](data))


def _predicted(chosen: Chosen, features: Float[np.ndarray, "n d"]) -> Int[np.ndarray, " n"]:
    return np.asarray(chosen.classifier.logits(features).argmax(axis=1))


def _with_unlabeled(data: _Data, *, tables: tuple[str, ...]) -> tuple[Chosen, Int[np.ndarray, " v"]]:
    """Fit Gaussians that also see the features of validation or test chips, without labels."""
    samples = data.samples(tables)
    sizes = [samples.x.shape[1] // len(tables)] * len(tables)
    chosen = fit_semi_supervised(samples, sizes=sizes)
    if data.method.unlabeled == "test":
        test = side_by_side(data.run, tables, data.audited.split("test").ids)
        chosen = fit_transductive(samples, chosen, test, sizes=sizes)
        return chosen, _predicted(chosen, samples.x_val)
    unseen = held_out_predictions(
        samples,
        shrinkage=float(chosen.record["shrinkage"]),
        temperature=float(chosen.record["temperature"]),
        sizes=sizes,
    )
    return chosen, unseen


def _pseudo_labeled(data: _Data) -> tuple[Chosen, Int[np.ndarray, " v"]]:
    """Fit the probe that learns from the soft labels too; its validation score is that of their teacher."""
    samples = data.samples(data.method.reads)
    table = FeatureTable.load(data.run.row(data.method.name) / SOFT_LABELS)
    soft = table.rows(data.audited.split("val").ids)
    head = fit_pseudo_labeled(samples.x, samples.y, samples.n_classes, samples.x_val, soft)
    predicted = head.logits(samples.x_val).argmax(axis=1)
    score = macro_f1(samples.y_val, predicted, samples.n_classes)
    return Chosen(head, {"macro_f1": score, "n_trials": 1}), predicted


def _of_texts(data: _Data) -> tuple[Chosen, Int[np.ndarray, " v"]]:
    """Return CLIP's own texts of the class names as a classifier; nothing is fitted and nothing tried."""
    from deblora.models.backbones.clip_text import load_text_head
    from deblora.pipeline.adapter import templates_of
    from deblora.pipeline.open_model import text_model

    audited, val = data.audited, data.audited.split("val")
    head = load_text_head(text_model(data.recipe.backbone), audited.class_names, templates_of(data.recipe))
    own = ProjectedCosine(head.projection.numpy().T.copy(), head.texts.numpy().copy(), head.scale)
    predicted = own.logits(side_by_side(data.run, data.method.reads, val.ids)).argmax(axis=1)
    score = macro_f1(val.labels, predicted, audited.n_classes)
    return Chosen(own, {"macro_f1": score, "n_trials": 1}), predicted


OTHERS: Mapping[str, Callable[[_Data], tuple[Chosen, Int[np.ndarray, " v"]]]] = {
    **{name: partial(_with_unlabeled, tables=tables) for name, tables in GAUSSIANS.items()},
    PSEUDO_LABELED: _pseudo_labeled,
    TEXT: _of_texts,
}
"""Classifiers that need more than labeled features."""


def _work(run: RunDir, recipe: Recipe, method: Method) -> None:
    audited = read_audited(run)
    if method.unlabeled:
        _warn_of_few(method.name, audited)
    names = method.chosen_classifiers(recipe.evaluate.classifiers)
    test, val = audited.split("test"), audited.split("val")
    features: dict[tuple[str, ...], Float[np.ndarray, "m d"]] = {}
    found: dict[str, Fitted] = {}
    data = _Data(run, recipe, method, audited)
    is_large = _is_large(data)
    if is_large and not recipe.evaluate.classifiers:
        left_out = [name for name in names if name in CLASSIFIERS and name not in SCALABLE]
        names = tuple(name for name in names if name not in left_out)
        log.info(
            "%s: with %d classes these classifiers are fitted only if evaluate.classifiers names them: %s",
            method.name,
            audited.n_classes,
            ", ".join(left_out),
        )
    # Small products: more threads wait for each other.
    with threadpool_limits(limits=None if is_large else 1, user_api="blas"):
        for name, chosen, on_val in _fits(data, names):
            tables = method.tables_of(name)
            if tables not in features:  # most classifiers of a method read the same tables
                features[tables] = side_by_side(run, tables, test.ids)
            chosen = _calibrated(chosen, side_by_side(run, tables, val.ids), val.labels)
            logits = chosen.classifier.logits(features[tables])
            found[name] = Fitted(
                {
                    **chosen.record,
                    **calibration_errors(logits, test.labels, float(chosen.record["temperature"])),
                },
                np.asarray(logits.argmax(axis=1)),
                on_val,
            )
            save_classifier(
                run.classifier(method.name, name), chosen.classifier, _notes(method, name, chosen, audited)
            )
    if OWN_LOGITS in names:
        found[OWN_LOGITS] = _own_logits(run, method, audited)
    _forget_others(run.classifiers(method.name), found)
    save_fitted(run.fitted(method.name), found, len(test))


def _is_large(data: _Data) -> bool:
    """Tell whether linear fits of this method compute in float32 and stop early."""
    train = data.audited.split("train")
    width = sum(
        FeatureTable.load(features_path(data.run, table)).features.shape[1] for table in data.method.reads
    )
    return bool(len(train) * width * data.audited.n_classes >= LARGE)


def _calibrated(chosen: Chosen, x_val: Float[np.ndarray, "v d"], y_val: Int[np.ndarray, " v"]) -> Chosen:
    """Add the temperature of the logits and the class-balanced Brier score at it, both on validation."""
    temperature, score = calibrated_score(chosen.classifier.logits(x_val), y_val)
    return replace(chosen, record={**chosen.record, "temperature": temperature, "brier_score": score})


def calibration_errors(
    logits: Float[np.ndarray, "m c"], y: Int[np.ndarray, " m"], temperature: float
) -> dict[str, float]:
    """Return the expected calibration error on test chips before and after the temperature."""
    return {
        "calibration_error_before": expected_calibration_error(logits, y),
        "calibration_error": expected_calibration_error(logits / temperature, y),
    }


def _notes(method: Method, classifier: str, chosen: Chosen, audited: Audited) -> dict[str, Any]:
    """Return what is kept beside a classifier, enough to use it without the training."""
    record = dict(chosen.record)
    return {
        "method": method.name,
        "classifier": classifier,
        "tables": list(method.tables_of(classifier)),
        "class_names": list(audited.class_names),
        "validation_macro_f1": record.pop("macro_f1"),
        "n_trials": record.pop("n_trials"),
        "settings": record,
    }


def _own_logits(run: RunDir, method: Method, audited: Audited) -> Fitted:
    """Return what a method that is a classifier itself says."""
    logits = FeatureTable.load(run.row(method.name) / LOGITS)
    val = audited.split("val")
    on_val, on_test = (logits.rows(own.ids).argmax(axis=1) for own in (val, audited.split("test")))
    score = macro_f1(val.labels, on_val, audited.n_classes)
    return Fitted({"macro_f1": score, "n_trials": 1}, on_test, on_val)


def _warn_of_few(method: str, audited: Audited) -> None:
    """Log it if a class has so few validation chips that the validation score says little."""
    n_few = n_short(audited.split("val").labels, audited.n_classes)
    if n_few:
        log.warning(
            "%s: %d of %d classes have fewer than %d validation chips, too few unlabeled ones; do not trust its "
            "validation score",
            method,
            n_few,
            audited.n_classes,
            ENOUGH,
        )


def _forget_others(folder: Path, kept: Mapping[str, Fitted]) -> None:
    """Remove the files of classifiers that were fitted earlier and are not any more."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.stem not in kept:
            path.unlink()


def save_fitted(path: Path, found: Mapping[str, Fitted], n_test: int) -> None:
    """Write what the fitted classifiers of a method chose and predict."""
    content = {
        name: {"choice": dict(own.choice), "predicted": own.test.tolist(), "predicted_val": own.val.tolist()}
        for name, own in found.items()
    }
    write_atomic(path, json.dumps({"n_test": n_test, "classifiers": content}))


def read_fitted(run: RunDir, method: str, audited: Audited) -> dict[str, Fitted]:
    """Return what the stage of a method wrote, by classifier.

    Raises:
        ArtifactError: If the file is damaged or belongs to other chips.
    """
    path = run.fitted(method)
    sizes = [len(audited.split(name)) for name in ("test", "val")]
    try:
        found = {}
        for name, own in json.loads(path.read_text(encoding="utf-8"))["classifiers"].items():
            parts = [np.array(own[key], dtype=np.int64) for key in ("predicted", "predicted_val")]
            if [part.shape for part in parts] != [(n,) for n in sizes] or any(
                part.min() < 0 or part.max() >= audited.n_classes for part in parts
            ):
                raise ValueError(f"it does not predict one of {audited.n_classes} classes for {sizes} chips")
            choice = dict(own["choice"])
            choice["macro_f1"], choice["n_trials"] = float(choice["macro_f1"]), int(choice["n_trials"])
            found[name] = Fitted(choice, *parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path} is damaged ({error}); delete it and fit it again with: deblora evaluate {run.root}"
        ) from error
    return found
