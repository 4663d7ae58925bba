"""Stage ``scores``: group F1 with intervals, accuracy under other test priors, paired differences; all tidy tables.

Every number that is shown anywhere, on the terminal, on pages and in Markdown, is read from these tables.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from deblora.data.longtail import Groups
from deblora.errors import DataError
from deblora.evaluate.intervals import (
    Estimate,
    bootstrap_f1,
    group_estimates,
    single_unit_groups,
    stratified_draws,
)
from deblora.evaluate.metrics import Prior, filtered_group_f1, per_class_f1, resampled_indices
from deblora.files import write_atomic
from deblora.pipeline.audited import Audited, read_audited
from deblora.pipeline.classify.evaluate.fit import features_path, read_fitted
from deblora.pipeline.classify.evaluate.mismatch import MISMATCH, SEPARATION, describes, feature_tables
from deblora.pipeline.tables import estimate_cells, say_single_unit, table
from deblora.recipe.classify import Recipe
from deblora.recipe.methods import CHOSEN, GUARDED, METHODS, PLAIN, SHIPPED, STRONG
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage

log = logging.getLogger("deblora")
PRIORS: tuple[Prior, ...] = ("forward", "uniform", "backward")
N_SETS = 20
"""Test sets per prior (ours)."""
BASELINES = (PLAIN, ("lora", "balanced_softmax"), (STRONG, CHOSEN))
"""Methods and classifiers that all others are compared with; absent ones are left out."""
TABLES = ("scores.csv", "differences.csv", "predictions.csv", "choices.csv", SEPARATION, MISMATCH)

Name = tuple[str, str]


@dataclass(frozen=True)
class Judged:
    """Predicted test classes of a method and classifier, and how it did on validation.

    Attributes:
        predicted: Class of every test chip.
        validation: Macro F1 on validation, in [0, 1].
        held_out: The same on validation chips whose features the classifier was not fitted to, where it sees any.
        n_trials: Settings that were tried on validation.
    """

    predicted: Int[np.ndarray, " m"]
    validation: float
    held_out: float | None = None
    n_trials: int = 1

    @property
    def unseen(self) -> float:
        """Macro F1 on validation chips that the classifier did not see."""
        return self.validation if self.held_out is None else self.held_out


def stage_for(methods: Sequence[str]) -> Stage:
    """Return the stage that writes the tables over these methods."""

    def work(run: RunDir, recipe: Recipe) -> None:
        _work(run, recipe, methods)

    def inputs(run: RunDir) -> list[Path]:
        described = [METHODS[name] for name in methods if describes(name)]
        features = [features_path(run, table) for method in described for table in method.reads]
        targets = [run.targets(method.targets) for method in described if method.targets]
        return [
            run.samples,
            run.groups,
            *map(run.fitted, (*methods, SHIPPED)),
            *dict.fromkeys(features),
            *targets,
        ]

    return Stage(
        name="scores",
        settings=lambda recipe: [
            list(methods),
            recipe.evaluate.n_bootstrap,
            recipe.evaluate.group_f1,
            recipe.data.source,
            recipe.backbone.name,
        ],
        inputs=inputs,
        outputs=lambda run: [run.evaluation(name) for name in TABLES],
        work=work,
        command="evaluate",
    )


def _work(run: RunDir, recipe: Recipe, methods: Sequence[str]) -> None:
    audited = read_audited(run)
    train, test = audited.split("train"), audited.split("test")
    fitted = {
        (method, name): own
        for method in (*methods, SHIPPED)
        for name, own in read_fitted(run, method, audited).items()
    }
    judged = {
        name: Judged(
            own.test,
            own.choice["macro_f1"],
            own.choice.get("held_out_macro_f1")
            if name[0] in METHODS and METHODS[name[0]].unlabeled == "val"
            else None,
            own.choice["n_trials"],
        )
        for name, own in fitted.items()
    }
    every, behind = with_chosen(judged)
    scores, differences = score_tables(
        every,
        test.labels,
        audited.groups,
        train.counts,
        names={"dataset": Path(recipe.data.source).name, "backbone": recipe.backbone.name},
        test_set=hashlib.sha256("\n".join(sorted(test.ids)).encode()).hexdigest()[:12],
        n_draws=recipe.evaluate.n_bootstrap,
        seed=recipe.seed,
        filtered=recipe.evaluate.group_f1 == "filtered",
        units=test.units,
    )
    choices: list[dict[str, object]] = [
        {"method": method, "classifier": name, "choice": key, "value": value}
        for (method, name), own in fitted.items()
        for key, value in own.choice.items()
    ]
    choices += [
        {"method": method, "classifier": name, "choice": "chosen", "value": " ".join(chosen)}
        for (method, name), chosen in behind.items()
    ]
    gaps, distances = feature_tables(run, recipe, audited, list(methods))
    tables = (scores, differences, _predictions(judged, test), choices, distances, gaps)
    for file, rows in zip(TABLES, tables, strict=True):
        write_atomic(run.evaluation(file), table(rows))


def _predictions(judged: Mapping[Name, Judged], test: Audited) -> list[dict[str, object]]:
    names = test.class_names
    return [
        {
            "id": chip_id,
            "true": names[label],
            "method": method,
            "classifier": classifier,
            "predicted": names[guess],
        }
        for (method, classifier), own in judged.items()
        for chip_id, label, guess in zip(test.ids, test.labels, own.predicted, strict=True)
    ]


def with_chosen(judged: Mapping[Name, Judged]) -> tuple[dict[Name, Judged], dict[Name, Name]]:
    """Add what validation chooses: ``strong``, ``guarded``, and the best classifier of methods with unlabeled features.

    The plain probe is no strong classifier. The first one wins ties. The trials of a choice are those of all it chose
    among.

    Returns:
        All methods and classifiers, and which one stands behind each added one.
    """
    pools = {
        (STRONG, CHOSEN): [name for name in judged if name[0] == PLAIN[0] and name != PLAIN],
        **{
            (name, CHOSEN): [own for own in judged if own[0] == name]
            for name, method in METHODS.items()
            if method.unlabeled
        },
    }
    behind = {
        chosen: max(pool, key=lambda name: judged[name].validation) for chosen, pool in pools.items() if pool
    }
    semi = [name for name in judged if judged[name].held_out is not None]
    if semi and (STRONG, CHOSEN) in behind:
        pools[GUARDED, CHOSEN] = [*pools[STRONG, CHOSEN], *semi]
        behind[GUARDED, CHOSEN] = max([behind[STRONG, CHOSEN], *semi], key=lambda name: judged[name].unseen)
    added = {
        chosen: replace(judged[name], n_trials=sum(judged[own].n_trials for own in pools[chosen]))
        for chosen, name in behind.items()
    }
    return {**judged, **added}, behind


def prior_accuracies(
    y: Int[np.ndarray, " m"],
    predicted: Int[np.ndarray, " m"],
    train_counts: Int[np.ndarray, " c"],
    *,
    seed: int,
) -> dict[str, float]:
    """Return the accuracy on test sets as imbalanced as the training set, by the direction of their tail.

    The mean over 20 such sets (ours: one alone holds few samples of its rare classes). All methods see the same
    samples for one seed.

    Args:
        y: True test classes.
        predicted: Predicted ones.
        train_counts: Training samples per class.
        seed: Of the sets.

    Returns:
        Keys ``accuracy_forward``, ``accuracy_uniform``, ``accuracy_backward``, in [0, 1]; NaN where a class has no
        test sample.
    """
    factor = float(train_counts.max() / max(1, train_counts.min()))
    hit = y == predicted
    found = {}
    for prior in PRIORS:
        try:
            drawn = [
                resampled_indices(
                    y, train_counts, prior=prior, imbalance_factor=factor, seed=seed * N_SETS + i
                )
                for i in range(N_SETS)
            ]
        except DataError:
            found[f"accuracy_{prior}"] = float("nan")
        else:
            found[f"accuracy_{prior}"] = float(np.mean([hit[kept].mean() for kept in drawn]))
    return found


def score_tables(
    judged: Mapping[Name, Judged],
    y: Int[np.ndarray, " m"],
    groups: Groups,
    train_counts: Int[np.ndarray, " c"],
    *,
    names: Mapping[str, object],
    test_set: str,
    n_draws: int,
    seed: int,
    filtered: bool = False,
    units: Sequence[str] = (),
    baselines: Sequence[Name] = BASELINES,
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Return the lines of ``scores.csv`` and the paired differences of ``differences.csv``.

    Args:
        judged: Predictions by method and classifier.
        y: True test classes.
        groups: Head, middle and tail classes.
        train_counts: Training chips per class.
        names: Data set and backbone, the first columns.
        test_set: What tells this test set from others.
        n_draws: Draws of the bootstrap over test chips, one set for all methods.
        seed: Of the draws; the last column.
        filtered: Whether the authors' definition of group F1 is added, without intervals.
        units: Scene, image or flight of each test chip, drawn as a whole.
        baselines: What others are compared with; absent ones are left out.
    """
    n_classes = len(train_counts)
    draws = stratified_draws(y, n_classes, rng=np.random.default_rng(seed), units=units, n_draws=n_draws)
    hidden = single_unit_groups(draws.n_units, groups)
    if hidden:
        log.warning("scores: %s", say_single_unit(hidden))
    drawn = {name: bootstrap_f1(y, own.predicted, draws) for name, own in judged.items()}
    has_test = np.bincount(y, minlength=n_classes) > 0
    sizes = {name: int(has_test[list(members)].sum()) for name, members in groups.named().items()}
    sizes["all"] = int(has_test.sum())
    points = {name: per_class_f1(y, own.predicted, n_classes) for name, own in judged.items()}
    scores: list[dict[str, object]] = []
    for name, own in judged.items():
        found = [
            ("macro_f1", group, estimate)
            for group, estimate in group_estimates(points[name], drawn[name], groups, draws.n_units).items()
        ]
        if filtered:
            other = filtered_group_f1(y, own.predicted, groups, n_classes)
            found += [("macro_f1_filtered", group, _alone(value)) for group, value in other.items()]
        accuracies = prior_accuracies(y, own.predicted, train_counts, seed=seed)
        found += [(metric, "all", _alone(value)) for metric, value in accuracies.items()]
        scores += [
            {
                **names,
                "method": name[0],
                "classifier": name[1],
                "metric": metric,
                "group": group,
                **estimate_cells(estimate),
                "n_classes": sizes[group],
                "n_test": len(y),
                "test_set": test_set,
                "split": "test",
                "n_trials": own.n_trials,
                "seed": seed,
            }
            for metric, group, estimate in found
        ]
    differences: list[dict[str, object]] = [
        {
            "method": name[0],
            "classifier": name[1],
            "baseline": baseline[0],
            "baseline_classifier": baseline[1],
            "group": group,
            **estimate_cells(estimate),
        }
        for name in judged
        for baseline in baselines
        if baseline in judged and baseline != name
        for group, estimate in group_estimates(
            points[name] - points[baseline],
            drawn[name] - drawn[baseline],
            groups,
            draws.n_units,
            is_difference=True,
        ).items()
    ]
    return scores, differences


def _alone(value: float) -> Estimate:
    return Estimate(value, np.nan, np.nan, np.nan)
