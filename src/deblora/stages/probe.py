"""Stage ``probe``: the same linear probe judges every row; choices on validation, one look at the test."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from deblora.artifacts import FeatureTable, Groups, Targets, write_atomic
from deblora.config import ProbeRecipe, Recipe
from deblora.data.chips import ChipSet
from deblora.evaluate.bootstrap import bootstrap_scores, judged_by_one, stratified_draws, without_interval
from deblora.evaluate.metrics import filtered_group_f1, group_scores, per_class_f1
from deblora.evaluate.probe import Loss, Probe, adjust_logits, log_prior, select_probe, select_tau, unit_rows
from deblora.evaluate.separation import separation
from deblora.evaluate.sgd_probe import fit_sgd_probe
from deblora.progress import titled
from deblora.run_dir import RunDir
from deblora.stages import text_row
from deblora.stages.audit import table
from deblora.stages.chips import groups_of, open_chips
from deblora.stages.heads import fitted_path, read_fitted
from deblora.stages.stage import Stage
from deblora.stages.tables import interval_cells, say_judged_by_one
from deblora.stages.unlabeled_rows import SEMI_SUPERVISED

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
    for named, predicted in text_row.text_predictions(run, recipe, splits).items():
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
        *([recipe.lora.templates, recipe.backbone.path] if text_row.text_folder(recipe) else []),
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
