"""Stages of ``heads``: every long-tail head on the features of the run; choices on validation, one look at the test.

One stage per kind of features writes predictions and choices, so that a killed or extended comparison goes on where
it was; the last one turns them into tables.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from deblora.artifacts import FeatureTable, write_atomic
from deblora.config import ROWS, Recipe
from deblora.data.longtail import class_counts
from deblora.errors import ArtifactError, RecipeError
from deblora.evaluate.metrics import macro_f1
from deblora.heads.search import Chosen, Samples
from deblora.heads.teacher import fit_pseudo_labeled
from deblora.heads.trials import every_head, moved_heads
from deblora.heads.unlabeled_trials import N_FOLDS
from deblora.run_dir import RunDir
from deblora.stages import mismatch
from deblora.stages.audit import table
from deblora.stages.chips import groups_of, open_chips
from deblora.stages.head_scores import Judged, score_tables, with_chosen
from deblora.stages.moved_rows import MOVED, Training, moved_features, moved_settings
from deblora.stages.rows.settings import JOINT, LOGITS, OWN, SELF_TRAINED, SOFT_LABELS
from deblora.stages.stage import Stage, stage_key
from deblora.stages.unlabeled_rows import (
    KINDS,
    SEMI_SUPERVISED,
    TRANSDUCTIVE,
    UNLABELED,
    samples_of,
    side_by_side,
    table_of,
    unlabeled_head,
    unseen_predictions,
    warn_of_few,
)

EXTRACTED = {"zero-shot": "base", "lora": "lora", "deblora": "deblora"}
METHODS = (*EXTRACTED, *MOVED, *UNLABELED)
DEFAULT_METHODS = tuple(name for name in METHODS if name != TRANSDUCTIVE)
"""Rows that a comparison has unless others are asked for; the transductive one sees the test features."""
EVERY_METHOD = (*METHODS, *ROWS)
EVERY_HEAD = ("zero-shot", "lora")  # the others are judged by the heads that fit moved features as well
PSEUDO_LABELED = "pseudo_labeled"
"""The probe of the self-trained row that is fitted to labeled and pseudo-labeled features."""
FILES = ("heads.csv", "heads_differences.csv", "heads_predictions.csv", "heads_choices.csv")


def head_stages(methods: Sequence[str] = DEFAULT_METHODS) -> tuple[Stage, ...]:
    """Return the stages for these kinds of features, and the one that makes the tables; ``lora`` is always in.

    Raises:
        RecipeError: If a name is unknown.
    """
    unknown = [name for name in methods if name not in EVERY_METHOD]
    if unknown:
        raise RecipeError(f"{unknown[0]} is no row of the comparison; known are {', '.join(EVERY_METHOD)}")
    chosen = [name for name in EVERY_METHOD if name in methods or name == "lora"]
    described = [(name, features_of(RunDir(Path()), name)) for name in chosen if name in (*EXTRACTED, *ROWS)]
    return (*(stage_for(name) for name in chosen), mismatch.stage_for(described), _table_stage(chosen))


def fitted_path(run: RunDir, method: str) -> Path:
    """Return where the predictions of the heads of a row lie."""
    return run.evaluation(f"heads/{method}.json")


def features_of(run: RunDir, method: str) -> Path:
    """Return the features of all chips that a row is fitted on; those of moved rows before they were moved."""
    return table_of(run, _all_kinds(method)[0])


def _logits_of(run: RunDir, method: str) -> list[Path]:
    return [run.row(method) / LOGITS] if method in JOINT else []


def _soft_of(run: RunDir, method: str) -> list[Path]:
    return [run.row(method) / SOFT_LABELS] if method == SELF_TRAINED else []


def stage_for(method: str) -> Stage:
    """Return the stage that fits the heads of a row."""

    def work(run: RunDir, recipe: Recipe) -> None:
        _fit(run, recipe, method)

    def settings(recipe: Recipe) -> object:
        if method == SEMI_SUPERVISED:
            return [method, N_FOLDS]
        return [method, *moved_settings(method, recipe)] if method in MOVED else method

    return Stage(
        name=f"heads-{method}",
        settings=settings,
        inputs=lambda run: [
            run.samples,
            run.groups,
            *(table_of(run, kind) for kind in _all_kinds(method)),
            *_logits_of(run, method),
            *_soft_of(run, method),
        ],
        outputs=lambda run: [fitted_path(run, method)],
        work=work,
        command="probe" if method == SEMI_SUPERVISED else "heads",  # the probe shows it too
    )


def with_current(run: RunDir, recipe: Recipe, methods: Sequence[str]) -> tuple[str, ...]:
    """Return these rows and all whose heads are fitted already and up to date, so that tables only grow."""
    return tuple(name for name in EVERY_METHOD if name in methods or _is_current(run, recipe, name))


def _is_current(run: RunDir, recipe: Recipe, method: str) -> bool:
    stage = stage_for(method)
    if not run.record(stage.name):
        return False
    try:
        return run.is_done(stage.name, stage_key(stage, run, recipe))
    except ArtifactError:  # its features are gone
        return False


def kinds_of(method: str, head: str) -> tuple[str, ...]:
    """Return the feature tables that a head of a row reads, one beside the other, by their names."""
    if method in UNLABELED:
        return KINDS[head]
    return (method,) if method in ROWS else (EXTRACTED.get(method, "lora"),)


def _all_kinds(method: str) -> tuple[str, ...]:
    return ("lora", "base") if method in UNLABELED else kinds_of(method, "")


def fitted_heads(run: RunDir, recipe: Recipe, method: str) -> Iterator[tuple[str, Chosen, Samples]]:
    """Fit the heads of a row one after the other, each chosen on validation, with what it was fitted on."""
    chips, groups = open_chips(run, recipe), groups_of(run)
    splits = {name: chips.split(name) for name in ("train", "val", "test")}

    def seen(kinds: tuple[str, ...]) -> Samples:
        return samples_of(run, kinds, splits, groups, seed=recipe.seed)

    if method in UNLABELED:
        for name, kinds in KINDS.items():
            samples = seen(kinds)
            test = side_by_side(run, kinds, splits["test"].ids) if method == TRANSDUCTIVE else None
            yield name, unlabeled_head(samples, n_kinds=len(kinds), test=test), samples
        return
    samples = seen(kinds_of(method, ""))
    if method in MOVED:
        training = Training(samples.x, samples.y, chips.n_classes, groups)
        samples = replace(samples, x=moved_features(method, training, recipe))
    for name, chosen in (every_head if method in EVERY_HEAD else moved_heads)(samples):
        yield name, chosen, samples
    if method == SELF_TRAINED:
        yield PSEUDO_LABELED, _pseudo_labeled(run, samples, splits["val"].ids), samples


def _pseudo_labeled(run: RunDir, samples: Samples, ids: tuple[str, ...]) -> Chosen:
    """Fit the probe that learns from the soft labels too; its validation score is that of their teacher."""
    soft = FeatureTable.load(run.row(SELF_TRAINED) / SOFT_LABELS).rows(ids)
    head = fit_pseudo_labeled(samples.x, samples.y, samples.n_classes, samples.x_val, soft)
    score = macro_f1(samples.y_val, head.logits(samples.x_val).argmax(axis=1), samples.n_classes)
    return Chosen(head, {"macro_f1": score, "n_trials": 1})


def _fit(run: RunDir, recipe: Recipe, method: str) -> None:
    chips = open_chips(run, recipe)
    test = chips.split("test")
    if method in UNLABELED:
        warn_of_few(method, chips.split("val").labels, chips.n_classes)
    with threadpool_limits(limits=1, user_api="blas"):  # small products: more threads wait for each other
        heads: dict[str, dict[str, Any]] = {}
        features: dict[tuple[str, ...], Float[np.ndarray, "m d"]] = {}
        for name, chosen, samples in fitted_heads(run, recipe, method):
            kinds = kinds_of(method, name)
            if kinds not in features:  # most heads of a row read the same table
                features[kinds] = side_by_side(run, kinds, test.ids)
            heads[name] = {
                "choice": dict(chosen.record),
                "predicted": chosen.head.logits(features[kinds]).argmax(axis=1).tolist(),
                "predicted_val": _on_validation(method, name, chosen, samples).tolist(),
            }
    for path in _logits_of(run, method):
        heads[OWN] = _own_logits(run, recipe, FeatureTable.load(path))
    write_atomic(fitted_path(run, method), json.dumps({"n_test": len(test), "heads": heads}))


def _own_logits(run: RunDir, recipe: Recipe, logits: FeatureTable) -> dict[str, Any]:
    """Judge a row that is a classifier itself by its own logits."""
    chips = open_chips(run, recipe)
    val, test = chips.split("val"), chips.split("test")
    on_val, on_test = (logits.rows(own.ids).argmax(axis=1) for own in (val, test))
    return {
        "choice": {"macro_f1": macro_f1(val.labels, on_val, chips.n_classes), "n_trials": 1},
        "predicted": on_test.tolist(),
        "predicted_val": on_val.tolist(),
    }


def _on_validation(method: str, name: str, chosen: Chosen, samples: Samples) -> Int[np.ndarray, " v"]:
    """Return validation predictions; of a head that sees validation features, those on chips it did not see."""
    if method == SEMI_SUPERVISED:
        return unseen_predictions(samples, chosen, n_kinds=len(KINDS[name]))
    return np.asarray(chosen.head.logits(samples.x_val).argmax(axis=1))


def _table_stage(methods: Sequence[str]) -> Stage:
    def work(run: RunDir, recipe: Recipe) -> None:
        _write_tables(run, recipe, methods)

    return Stage(
        name="heads",
        settings=lambda recipe: [recipe.probe.n_bootstrap, recipe.data.source, recipe.backbone.name],
        inputs=lambda run: [run.samples, run.groups, *(fitted_path(run, name) for name in methods)],
        outputs=lambda run: [run.evaluation(name) for name in FILES],
        work=work,
    )


def _write_tables(run: RunDir, recipe: Recipe, methods: Sequence[str]) -> None:
    chips, groups = open_chips(run, recipe), groups_of(run)
    test = chips.split("test")
    judged: dict[tuple[str, str], Judged] = {}
    choices: list[dict[str, object]] = []
    for method in methods:
        for head, content in read_fitted(run, method, len(test), chips.n_classes).items():
            choice, predicted = content["choice"], np.array(content["predicted"], dtype=np.int64)
            held_out = choice.get("held_out_macro_f1") if method == SEMI_SUPERVISED else None
            judged[method, head] = Judged(predicted, float(choice["macro_f1"]), held_out)
            choices += [
                {"method": method, "probe": head, "choice": key, "value": value}
                for key, value in choice.items()
            ]
    every, behind = with_chosen(judged)
    choices += [
        {"method": method, "probe": probe, "choice": "row", "value": " ".join(row)}
        for (method, probe), row in behind.items()
    ]
    results, differences = score_tables(
        every,
        test.labels,
        groups,
        class_counts(chips.split("train").labels, chips.n_classes),
        names={"dataset": Path(recipe.data.source).name, "backbone": recipe.backbone.name},
        n_draws=recipe.probe.n_bootstrap,
        seed=recipe.seed,
    )
    predictions: list[dict[str, object]] = [
        {
            "id": chip_id,
            "true": chips.class_names[label],
            "method": method,
            "probe": head,
            "predicted": chips.class_names[guess],
        }
        for (method, head), row in judged.items()
        for chip_id, label, guess in zip(test.ids, test.labels, row.predicted, strict=True)
    ]
    tables = (results, differences, predictions, choices)
    for name, rows in zip(FILES, tables, strict=True):
        write_atomic(run.evaluation(name), table(rows))


def read_fitted(run: RunDir, method: str, n_test: int, n_classes: int) -> dict[str, Any]:
    """Return what the stage of a row wrote, by head.

    Raises:
        ArtifactError: If the file is damaged or belongs to other chips.
    """
    path = fitted_path(run, method)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        heads = content["heads"]
        for fitted in heads.values():
            predicted = np.array(fitted["predicted"], dtype=np.int64)
            if predicted.shape != (n_test,) or predicted.min() < 0 or predicted.max() >= n_classes:
                raise ValueError(f"it does not predict one of {n_classes} classes for {n_test} test chips")
            float(fitted["choice"]["macro_f1"]), np.array(fitted["predicted_val"], dtype=np.int64)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path} is damaged ({error}); delete it and fit it again with: deblora heads {run.root}"
        ) from error
    return dict(heads)
