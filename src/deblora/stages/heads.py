"""Stages of ``heads``: every long-tail head on the features of the run; choices on validation, one look at the test.

One stage per kind of features writes predictions and choices, so that a killed or extended comparison goes on where
it was; the last one turns them into tables.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from deblora.artifacts import FeatureTable, write_atomic
from deblora.config import ROWS, Recipe
from deblora.data.longtail import class_counts
from deblora.errors import ArtifactError, RecipeError
from deblora.evaluate.metrics import macro_f1
from deblora.heads.search import Samples
from deblora.heads.trials import every_head, moved_heads
from deblora.run_dir import RunDir
from deblora.stages import mismatch
from deblora.stages.audit import table
from deblora.stages.chips import groups_of, open_chips
from deblora.stages.head_scores import Judged, score_tables, with_chosen
from deblora.stages.moved_rows import MOVED, Training, moved_features, moved_settings
from deblora.stages.rows.settings import FEATURES, JOINT, LOGITS, OWN
from deblora.stages.stage import Stage

EXTRACTED = {"zero-shot": "base", "lora": "lora", "deblora": "deblora"}
METHODS = (*EXTRACTED, *MOVED)
"""Rows that a comparison has unless others are asked for."""
EVERY_METHOD = (*METHODS, *ROWS)
EVERY_HEAD = ("zero-shot", "lora")  # the others are judged by the heads that fit moved features as well
FILES = ("heads.csv", "heads_differences.csv", "heads_predictions.csv", "heads_choices.csv")


def head_stages(methods: Sequence[str] = METHODS) -> tuple[Stage, ...]:
    """Return the stages for these kinds of features, and the one that makes the tables; ``lora`` is always in.

    Raises:
        RecipeError: If a name is unknown.
    """
    unknown = [name for name in methods if name not in EVERY_METHOD]
    if unknown:
        raise RecipeError(f"{unknown[0]} is no row of the comparison; known are {', '.join(EVERY_METHOD)}")
    chosen = [name for name in EVERY_METHOD if name in methods or name == "lora"]
    described = [(name, features_of(RunDir(Path()), name)) for name in chosen if name in (*EXTRACTED, *ROWS)]
    return (*(_stage_for(name) for name in chosen), mismatch.stage_for(described), _table_stage(chosen))


def _fitted_path(run: RunDir, method: str) -> Path:
    return run.evaluation(f"heads/{method}.json")


def features_of(run: RunDir, method: str) -> Path:
    """Return the features of all chips that a row is fitted on; those of moved rows before they were moved."""
    return run.row(method) / FEATURES if method in ROWS else run.features(EXTRACTED.get(method, "lora"))


def _logits_of(run: RunDir, method: str) -> list[Path]:
    return [run.row(method) / LOGITS] if method in JOINT else []


def _stage_for(method: str) -> Stage:
    def work(run: RunDir, recipe: Recipe) -> None:
        _fit(run, recipe, method)

    def settings(recipe: Recipe) -> object:
        return [method, *moved_settings(method, recipe)] if method in MOVED else method

    return Stage(
        name=f"heads-{method}",
        settings=settings,
        inputs=lambda run: [
            run.samples,
            run.groups,
            features_of(run, method),
            *_logits_of(run, method),
        ],
        outputs=lambda run: [_fitted_path(run, method)],
        work=work,
    )


def _fit(run: RunDir, recipe: Recipe, method: str) -> None:
    chips, groups = open_chips(run, recipe), groups_of(run)
    train, val, test = (chips.split(name) for name in ("train", "val", "test"))
    found = FeatureTable.load(features_of(run, method))
    features = found.rows(train.ids)
    training = Training(features, train.labels, chips.n_classes, groups)
    samples = Samples(
        x=moved_features(method, training, recipe) if method in MOVED else features,
        y=train.labels,
        x_val=found.rows(val.ids),
        y_val=val.labels,
        n_classes=chips.n_classes,
        groups=groups,
        statistics_of=features,
        seed=recipe.seed,
    )
    family = every_head if method in EVERY_HEAD else moved_heads
    test_features = found.rows(test.ids)
    with threadpool_limits(limits=1, user_api="blas"):  # small products: more threads wait for each other
        heads = {
            name: {
                "choice": dict(chosen.record),
                "predicted": chosen.head.logits(test_features).argmax(axis=1).tolist(),
            }
            for name, chosen in family(samples)
        }
    for path in _logits_of(run, method):
        own = FeatureTable.load(path)
        score = macro_f1(val.labels, own.rows(val.ids).argmax(axis=1), chips.n_classes)
        guessed = own.rows(test.ids).argmax(axis=1).tolist()
        heads[OWN] = {"choice": {"macro_f1": score, "n_trials": 1}, "predicted": guessed}
    write_atomic(_fitted_path(run, method), json.dumps({"n_test": len(test), "heads": heads}))


def _table_stage(methods: Sequence[str]) -> Stage:
    def work(run: RunDir, recipe: Recipe) -> None:
        _write_tables(run, recipe, methods)

    return Stage(
        name="heads",
        settings=lambda recipe: [recipe.probe.n_bootstrap, recipe.data.source, recipe.backbone.name],
        inputs=lambda run: [run.samples, run.groups, *(_fitted_path(run, name) for name in methods)],
        outputs=lambda run: [run.evaluation(name) for name in FILES],
        work=work,
    )


def _write_tables(run: RunDir, recipe: Recipe, methods: Sequence[str]) -> None:
    chips, groups = open_chips(run, recipe), groups_of(run)
    test = chips.split("test")
    judged: dict[tuple[str, str], Judged] = {}
    choices: list[dict[str, object]] = []
    for method in methods:
        for head, content in _read_fitted(run, method, len(test), chips.n_classes).items():
            choice, predicted = content["choice"], np.array(content["predicted"], dtype=np.int64)
            judged[method, head] = Judged(predicted, float(choice["macro_f1"]))
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


def _read_fitted(run: RunDir, method: str, n_test: int, n_classes: int) -> dict[str, Any]:
    path = _fitted_path(run, method)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        heads = content["heads"]
        for fitted in heads.values():
            predicted = np.array(fitted["predicted"], dtype=np.int64)
            if predicted.shape != (n_test,) or predicted.min() < 0 or predicted.max() >= n_classes:
                raise ValueError(f"it does not predict one of {n_classes} classes for {n_test} test chips")
            float(fitted["choice"]["macro_f1"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path} is damaged ({error}); delete it and fit it again with: deblora heads {run.root}"
        ) from error
    return dict(heads)
