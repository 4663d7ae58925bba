"""Stages of ``heads``: every long-tail head on the features of the run; choices on validation, one look at the test.

One stage per kind of features writes predictions and choices, so that a killed or extended comparison goes on where
it was; the last one turns them into tables.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from deblora.data.chips import ChipSet
from deblora.data.longtail import Groups, class_counts
from deblora.debias.spaces import unit_rows
from deblora.debias.variants import MOVED, Training, moved_features, moved_settings
from deblora.errors import ArtifactError, RecipeError
from deblora.evaluate.bootstrap import bootstrap_scores, judged_by_one, stratified_draws, without_interval
from deblora.evaluate.features import separation
from deblora.evaluate.heads.search import Chosen, Samples
from deblora.evaluate.heads.semi_supervised import N_FOLDS, fit_pseudo_labeled
from deblora.evaluate.heads.trials import CLASSIFIERS, PRIOR_CLASSIFIERS, fit_classifiers
from deblora.evaluate.metrics import filtered_group_f1, group_scores, macro_f1, per_class_f1
from deblora.evaluate.probe import Loss, Probe, adjust_logits, log_prior, select_probe, select_tau
from deblora.evaluate.sgd_probe import fit_sgd_probe
from deblora.files import write_atomic
from deblora.models.backbones.clip_text import has_text, load_text_head
from deblora.pipeline.adapter import templates_of, trained_classes
from deblora.pipeline.audited import groups_of
from deblora.pipeline.classify.chips import open_chips
from deblora.pipeline.classify.evaluate import mismatch
from deblora.pipeline.classify.evaluate.samples import (
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
from deblora.pipeline.classify.evaluate.scores import Judged, score_tables, with_chosen
from deblora.pipeline.compare.baselines.settings import JOINT, OWN, SELF_TRAINED
from deblora.pipeline.open_model import text_model
from deblora.pipeline.tables import interval_cells, say_judged_by_one, table
from deblora.progress import titled
from deblora.recipe.classify import ROWS, ProbeRecipe, Recipe
from deblora.run.artifacts import FeatureTable, Targets
from deblora.run.run_dir import LOGITS, SOFT_LABELS, RunDir
from deblora.run.stage import Stage, stage_key

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
    names = CLASSIFIERS if method in EVERY_HEAD else PRIOR_CLASSIFIERS
    for name, chosen in fit_classifiers(samples, names[:3] if method in MOVED else names):
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


log = logging.getLogger("deblora")
PROBES = ("cross_entropy", "balanced_softmax", "logit_adjustment")
BASELINES = (("lora", "cross_entropy"), ("lora", "balanced_softmax"))
GAUSSIANS = "gaussians"


@dataclass(frozen=True)
class Row:
    """Features of one method, per split, and the features whose statistics normalize the probe."""

    method: str
    train: Float[np.ndarray, "n d"]
    val: Float[np.ndarray, "v d"]
    test: Float[np.ndarray, "m d"]
    statistics_of: Float[np.ndarray, "n d"]


def rows_of(run: RunDir, splits: dict[str, ChipSet]) -> list[Row]:
    """Return the rows of the table, in the order they are printed."""
    rows = []
    parts: dict[str, dict[str, Float[np.ndarray, "n d"]]] = {}
    for method, adapter in (("zero-shot", "base"), ("lora", "lora"), ("deblora", "deblora")):
        features = FeatureTable.load(run.features(adapter))
        parts[method] = {name: features.rows(chips.ids) for name, chips in splits.items()}
        part = parts[method]
        rows.append(Row(method, part["train"], part["val"], part["test"], part["train"]))
    lora = parts["lora"]
    literal, shifted = Targets.load(run.targets("deblora")), Targets.load(run.targets("shift"))
    ids = splits["train"].ids
    calibrated = literal.rows(ids)
    rows.append(Row("calibration-only", calibrated, lora["val"], lora["test"], lora["train"]))
    unit = {name: unit_rows(values) for name, values in lora.items()}
    moved = shifted.rows(ids)
    rows.append(Row("shift", moved, unit["val"], unit["test"], unit["train"]))
    return rows


def fit_probes(
    row: Row, splits: dict[str, ChipSet], recipe: ProbeRecipe
) -> dict[str, tuple[Int[np.ndarray, " m"], dict[str, float]]]:
    """Return the test predictions and the validation choices of each probe on one row."""
    y, y_val, n_classes = splits["train"].labels, splits["val"].labels, splits["train"].n_classes
    prior = log_prior(y, n_classes)
    out: dict[str, tuple[Int[np.ndarray, " m"], dict[str, float]]] = {}

    def fit(loss: Loss) -> tuple[Probe, dict[str, float]]:
        if recipe.solver == "sgd":
            return fit_sgd_probe(row.train, y, row.val, y_val, n_classes, loss=loss)
        return select_probe(
            row.train,
            y,
            row.val,
            y_val,
            n_classes,
            loss=loss,
            statistics_of=row.statistics_of,
            l2_normalize=recipe.l2_normalize,
        )

    plain, choice = fit("cross_entropy")
    logits = plain.logits(row.test)
    out["cross_entropy"] = (logits.argmax(axis=1), choice)
    tau = select_tau(plain.logits(row.val), y_val, prior)
    out["logit_adjustment"] = (
        adjust_logits(logits, prior, tau).argmax(axis=1),
        {**choice, "tau": tau},
    )
    balanced, choice = fit("balanced_softmax")
    out["balanced_softmax"] = (balanced.logits(row.test).argmax(axis=1), choice)
    return out


def _semi_supervised(
    run: RunDir, n_test: int, n_classes: int
) -> tuple[Int[np.ndarray, " m"], dict[str, object]]:
    """Return test predictions and choices of the head that also sees validation features without labels.

    It is fitted in a stage of its own, which ``heads`` reads as well. Validation chooses between LoRA features alone
    and those of the base model beside them.
    """
    fitted = read_fitted(run, SEMI_SUPERVISED, n_test, n_classes)
    name = max(fitted, key=lambda own: float(fitted[own]["choice"]["macro_f1"]))
    return np.array(fitted[name]["predicted"], dtype=np.int64), {**fitted[name]["choice"], "features": name}


def _work(run: RunDir, recipe: Recipe) -> None:
    chips, groups = open_chips(run, recipe), groups_of(run)
    splits = {name: chips.split(name) for name in ("train", "val", "test")}
    y, n_classes = splits["test"].labels, chips.n_classes
    draws = stratified_draws(y, rng=np.random.default_rng(recipe.seed), n_draws=recipe.probe.n_bootstrap)
    predictions: dict[tuple[str, str], Int[np.ndarray, " m"]] = {}
    scores: dict[tuple[str, str], dict[str, Float[np.ndarray, " b"]]] = {}
    choices: list[dict[str, object]] = []
    distances: list[dict[str, object]] = []
    for row in tqdm(rows_of(run, splits), desc=titled("probe"), unit="row"):
        with threadpool_limits(limits=1, user_api="blas"):  # small products: more threads wait for each other
            fitted = fit_probes(row, splits, recipe.probe)
        for probe, (predicted, choice) in fitted.items():
            predictions[row.method, probe] = predicted
            scores[row.method, probe] = bootstrap_scores(y, predicted, n_classes, groups, draws)
            choices += [
                {"method": row.method, "probe": probe, "choice": key, "value": value}
                for key, value in choice.items()
            ]
        for split, features in (("train", row.train), ("test", row.test)):
            found = separation(features, splits[split].labels, groups, n_classes)
            distances += [
                {"method": row.method, "split": split, "metric": key, "value": value}
                for key, value in found.items()
            ]
    own, record = _semi_supervised(run, len(y), n_classes)
    predictions[SEMI_SUPERVISED, GAUSSIANS] = own
    scores[SEMI_SUPERVISED, GAUSSIANS] = bootstrap_scores(y, own, n_classes, groups, draws)
    choices += [
        {"method": SEMI_SUPERVISED, "probe": GAUSSIANS, "choice": key, "value": value}
        for key, value in record.items()
    ]
    for named, predicted in text_predictions(run, recipe, splits).items():
        predictions[named] = predicted
        scores[named] = bootstrap_scores(y, predicted, n_classes, groups, draws)
    hidden = judged_by_one(np.bincount(y, minlength=n_classes), groups)
    if hidden:
        log.warning("probe: %s", say_judged_by_one(hidden))
    scores = {named: without_interval(own, hidden) for named, own in scores.items()}
    data = Path(recipe.data.source).name
    names = {"dataset": data, "backbone": recipe.backbone.name}
    results = _results(names, y, predictions, scores, groups, n_classes, recipe)
    write_atomic(run.evaluation("results.csv"), table(results))
    write_atomic(run.evaluation("differences.csv"), table(_differences(results, scores)))
    write_atomic(
        run.evaluation("predictions.csv"), table(_long(splits["test"], chips.class_names, predictions))
    )
    write_atomic(run.evaluation("choices.csv"), table(choices))
    write_atomic(run.evaluation("separation.csv"), table(distances))


def _results(
    names: dict[str, str],
    y: Int[np.ndarray, " m"],
    predictions: dict[tuple[str, str], Int[np.ndarray, " m"]],
    scores: dict[tuple[str, str], dict[str, Float[np.ndarray, " b"]]],
    groups: Groups,
    n_classes: int,
    recipe: Recipe,
) -> list[dict[str, object]]:
    sizes = {**{name: len(members) for name, members in groups.named().items()}, "all": n_classes}
    rows: list[dict[str, object]] = []
    for (method, probe), predicted in predictions.items():
        points = group_scores(per_class_f1(y, predicted, n_classes), groups)
        metrics = {"macro_f1": points}
        if recipe.probe.group_f1 == "filtered":
            metrics["macro_f1_filtered"] = filtered_group_f1(y, predicted, groups, n_classes)
        for metric, values in metrics.items():
            for group, value in values.items():
                drawn = scores[method, probe][group] if metric == "macro_f1" else np.array([np.nan])
                rows.append(
                    {
                        **names,
                        "method": method,
                        "probe": probe,
                        "metric": metric,
                        "group": group,
                        "value": value,
                        **interval_cells(drawn),
                        "n_classes": sizes[group],
                        "n_test": len(y),
                        "seed": recipe.seed,
                    }
                )
    return rows


def _differences(
    results: list[dict[str, object]], scores: dict[tuple[str, str], dict[str, Float[np.ndarray, " b"]]]
) -> list[dict[str, object]]:
    """Paired differences to the plain and to the prior-corrected LoRA row, on the same draws."""
    points = {(r["method"], r["probe"], r["group"]): r["value"] for r in results if r["metric"] == "macro_f1"}
    rows: list[dict[str, object]] = []
    for (method, probe), found in scores.items():
        for baseline in BASELINES:
            if (method, probe) == baseline:
                continue
            for group, values in found.items():
                value = float(points[method, probe, group]) - float(points[(*baseline, group)])  # type: ignore[arg-type]
                rows.append(
                    {
                        "method": method,
                        "probe": probe,
                        "baseline": baseline[0],
                        "baseline_probe": baseline[1],
                        "group": group,
                        "value": value,
                        **interval_cells(values - scores[baseline][group]),
                    }
                )
    return rows


def _long(
    test: ChipSet, names: tuple[str, ...], predictions: dict[tuple[str, str], Int[np.ndarray, " m"]]
) -> list[dict[str, object]]:
    return [
        {"id": chip_id, "true": names[label], "method": method, "probe": probe, "predicted": names[guess]}
        for (method, probe), predicted in predictions.items()
        for chip_id, label, guess in zip(test.ids, test.labels, predicted, strict=True)
    ]


STAGE = Stage(
    name="probe",
    settings=lambda recipe: [
        recipe.probe.__dict__,
        recipe.data.source,
        recipe.backbone.name,
        *([recipe.lora.templates, recipe.backbone.path] if text_folder(recipe) else []),
    ],
    inputs=lambda run: [
        run.samples,
        run.groups,
        run.features("base"),
        run.features("lora"),
        run.features("deblora"),
        run.targets("deblora"),
        run.targets("shift"),
        fitted_path(run, SEMI_SUPERVISED),
    ],
    outputs=lambda run: [
        run.evaluation(name)
        for name in ("results.csv", "differences.csv", "predictions.csv", "choices.csv", "separation.csv")
    ],
    work=_work,
)


TEXT_METHODS = {"base": "clip-text", "lora": "clip-text-lora", "deblora": "clip-text-deblora"}
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
    for adapter, method in TEXT_METHODS.items():
        features = FeatureTable.load(run.features(adapter)).rows(splits["test"].ids)
        best = head(torch.from_numpy(np.asarray(features, dtype=np.float32))).argmax(dim=1).numpy()
        found[method, PROBE] = np.asarray(trained)[best]
    return found
