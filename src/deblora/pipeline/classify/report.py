"""Stage ``report``: one self-contained page, and the same numbers as Markdown."""

import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deblora import __version__
from deblora.errors import ArtifactError
from deblora.evaluate.features import tsne_2d
from deblora.evaluate.intervals import single_unit_groups
from deblora.files import write_atomic
from deblora.pipeline import tables as csv_tables
from deblora.pipeline.audited import Audited, groups_of, read_audited, say_unjudged
from deblora.pipeline.classify.evaluate.choose import choice_files, read_choice
from deblora.pipeline.tables import NAME, class_f1, only, read_table, say_single_unit
from deblora.recipe.classify import Recipe
from deblora.recipe.methods import PLAIN, SAYS
from deblora.report.page import render_html, render_markdown
from deblora.report.sections import RUN, Report, report_page
from deblora.run.artifacts import Centers, Clusters, FeatureTable, Targets
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage

SHOWN = (
    ("lora", "cross_entropy"),
    ("lora", "balanced_softmax"),
    ("deblora", "cross_entropy"),
    ("deblora", "balanced_softmax"),
    ("shift", "balanced_softmax"),
)
"""Methods and classifiers whose F1 is drawn class by class; the first is the baseline."""
CONFUSED = (("lora", "cross_entropy"), ("shift", "balanced_softmax"))
FEW_TEST_CHIPS = 5
"""Fewest of a class with which intervals were seen to hold what they promise (``benchmarks/coverage.py``)."""
MAX_POINTS = 1500  # t-SNE beyond that takes minutes and shows no more


def _work(run: RunDir, recipe: Recipe) -> None:
    page = report_page(_report(run, recipe), RUN)
    write_atomic(run.report("index.html"), render_html(page))
    write_atomic(run.report("report.md"), render_markdown(page))


def _report(run: RunDir, recipe: Recipe) -> Report:
    chips, frozen = read_audited(run), json.loads(run.groups.read_text(encoding="utf-8"))
    classes = _classes(run, frozen)
    counts = classes["train"]
    present = counts[counts > 0]
    choice = read_choice(run) if choice_files(run) else None
    return Report(
        title=f"{Path(recipe.data.source).name} on {recipe.backbone.name}",
        facts={
            "Data set": Path(recipe.data.source).name,
            "Backbone": recipe.backbone.name,
            "Classes": str(len(classes)),
            "Head / middle / tail": " / ".join(str(len(m)) for m in groups_of(run).named().values()),
            "Training chips": f"{counts.sum():,}",
            "Most : least frequent": f"{present.max() / present.min():,.0f} : 1",
            "Seed": str(recipe.seed),
        },
        tables={
            "scores": _read(run, "scores.csv", csv_tables.SCORES),
            "differences": _read(run, "differences.csv", csv_tables.DIFFERENCES),
            "classes": classes,
            **_of_predictions(run, classes),
            "projection": _projections(run, chips, recipe.seed),
            "composition": _composition(run, chips),
            "history": _history(run),
            "separation": _read(run, "separation.csv", csv_tables.SEPARATION),
            "look": _look(run),
            "timings": pd.DataFrame(
                [{"stage": k, "seconds": float(v["seconds"])} for k, v in run.manifest()["stages"].items()]
            ),
        },
        recipe_yaml=run.recipe.read_text(encoding="utf-8") if run.recipe.is_file() else "",
        provenance=_provenance(run, frozen),
        choice=choice,
        says=SAYS,
        notes=(
            f"Groups by {frozen['rule']}, fixed in the audit.",
            "Group F1 is the mean of per-class F1, each computed on all predictions.",
            "Settings were chosen on validation; the test split was read once.",
            "The method semi-supervised is also fitted to the validation chips, without their labels.",
            "Intervals: 95 % bootstrap over test chips, stratified by class; they do not cover the choice "
            "of seed.",
        ),
        findings=_cautions(run, frozen),
    )


def _look(run: RunDir) -> pd.DataFrame:
    """Return what the first look saw, without lines if none was taken."""
    path = run.look("candidates.csv")
    again = f"deblora run --out {run.root} --resume"
    return (
        read_table(path, csv_tables.LOOK, command=again)
        if path.is_file()
        else pd.DataFrame(columns=csv_tables.LOOK)
    )


def _read(run: RunDir, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
    return read_table(run.evaluation(name), columns, command=f"deblora evaluate {run.root}")


def _classes(run: RunDir, frozen: dict[str, Any]) -> pd.DataFrame:
    """Return group, chips by split and alphas of the classes, from the most to the least frequent."""
    groups = {c: name for name, members in groups_of(run).named().items() for c in members}
    names = frozen["class_names"]
    found = pd.DataFrame({"class": names, "group": [groups.get(c, "") for c in range(len(names))]})
    for split, counts in frozen["counts"].items():
        found[split] = np.array(counts, dtype=np.int64)
    for method in ("deblora", "shift"):
        found[f"alpha, {method}"] = Targets.load(run.targets(method)).alpha_per_class
    return found.sort_values("train", ascending=False, kind="stable", ignore_index=True)


def _of_predictions(run: RunDir, classes: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return F1 by class and confusion counts of the methods that are shown."""
    path = run.evaluation("predictions.csv")
    found = _read(run, "predictions.csv", csv_tables.PREDICTIONS)
    names = list(classes["class"])
    odd = set(found["true"]) | set(found["predicted"])
    if odd - set(names):
        raise csv_tables.damaged(
            path, f"no class is called {min(odd - set(names))}", f"deblora evaluate {run.root}"
        )
    parts = []
    for method, classifier in SHOWN:
        own = only(found, method=method, classifier=classifier)
        if own.empty and (method, classifier) != PLAIN:
            continue  # it was not asked for
        if own.empty:
            why = f"it has no rows of {method} + {classifier}"
            raise csv_tables.damaged(path, why, f"deblora evaluate {run.root}")
        values = {"class": names, "value": class_f1(own, names)}
        parts.append(pd.DataFrame({"method": method, "classifier": classifier, **values}))
    matrices = pd.concat([only(found, method=method, classifier=name) for method, name in CONFUSED])
    counts = matrices.groupby([*NAME, "true", "predicted"], sort=False).size().rename("n").reset_index()
    return {"class_f1": pd.concat(parts, ignore_index=True), "confusion": counts}


def _cautions(run: RunDir, frozen: dict[str, Any]) -> list[str]:
    """Say what a reader could miss: that nothing was moved, or that a class has hardly any test chip."""
    found = [f"Data: {line}." for line in (frozen.get("skipped_summary"), *frozen.get("notes", ())) if line]
    if Targets.load(run.targets("deblora")).moved_nothing:
        trained = (_history(run)["name"] == "deblora").any()
        found.append(
            "Calibration of deblora moved no class (all alpha are 1): its second adapter "
            + (
                "was trained toward the features of lora"
                if trained
                else "was not trained, its rows are lora's"
            )
            + ". calibrate.numerator below the largest imbalance ratio would move some."
        )
    if Targets.load(run.targets("shift")).moved_nothing:
        found.append("The shift moved no class (all alpha are 1), so its rows repeat those of lora.")
    if unjudged := say_unjudged(run):
        found.append(unjudged)
    test = read_audited(run).split("test")
    pairs = set(zip(test.labels.tolist(), test.units or test.ids, strict=True))
    n_units = np.bincount([label for label, _ in pairs], minlength=test.n_classes)
    if hidden := single_unit_groups(n_units, test.groups):
        found.append(say_single_unit(hidden))
    fewest = min(n for n in frozen["counts"]["test"] if n)
    if fewest < FEW_TEST_CHIPS:
        found.append(
            f"The rarest class has {fewest} test chip{'s' * (fewest != 1)}: below {FEW_TEST_CHIPS} "
            "intervals may be too narrow."
        )
    return found


def _history(run: RunDir) -> pd.DataFrame:
    parts = []
    for name in ("lora", "deblora"):
        if not (path := run.history(name)).is_file() or len(path.read_text().splitlines()) > 1:
            found = read_table(path, csv_tables.HISTORY, command=f"deblora train-{name} {run.root}")
            parts.append(found.assign(name=name))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["name", "step", "loss"])


def _composition(run: RunDir, chips: Audited) -> pd.DataFrame:
    """Return the share of each class in each cluster."""
    clusters, train = Clusters.load(run.clusters), chips.split("train")
    counts = np.zeros((chips.n_classes, len(clusters.centers)))
    np.add.at(counts, (train.labels, clusters.of(train.ids)), 1.0)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    return pd.DataFrame(shares, index=list(chips.class_names))


def _projections(run: RunDir, chips: Audited, seed: int) -> pd.DataFrame:
    """Lay out train and test before and after together with class means and centers."""
    train, test = chips.split("train"), chips.split("test")
    rng = np.random.default_rng(seed)
    some_train = _sample(len(train), MAX_POINTS // 2, rng)
    some_test = _sample(len(test), MAX_POINTS // 2, rng)
    names = np.array(chips.class_names)
    parts = []
    for title, adapter in (("before: LoRA features", "lora"), ("after: debLoRA features", "deblora")):
        table = FeatureTable.load(run.features(adapter))
        all_train, all_test = table.rows(train.ids), table.rows(test.ids)
        pieces = [
            ("train", names[train.labels[some_train]], all_train[some_train]),
            ("test", names[test.labels[some_test]], all_test[some_test]),
            ("train mean", names, _means(all_train, train.labels, chips.n_classes)),
            ("test mean", names, _means(all_test, test.labels, chips.n_classes)),
        ]
        if adapter == "lora":
            centers = _centers(Centers.load(run.centers("deblora")), chips.n_classes)
            pieces.append(("de-biased center", names, centers))
        found = pd.concat(
            [pd.DataFrame({"kind": kind, "class": of}) for kind, of, _ in pieces], ignore_index=True
        )
        stacked = np.concatenate([vectors for _, _, vectors in pieces])
        known = np.isfinite(stacked).all(axis=1)
        places, _ = tsne_2d(stacked[known], seed=seed, max_samples=len(stacked))
        parts.append(found[known].assign(panel=title, x=places[:, 0], y=places[:, 1]))
    return pd.concat(parts, ignore_index=True)


def _sample(n: int, most: int, rng: np.random.Generator) -> np.ndarray:
    return np.sort(rng.permutation(n)[:most])


def _means(features: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    means = np.full((n_classes, features.shape[1]), np.nan)
    for label in np.unique(labels):
        means[label] = features[labels == label].mean(axis=0)
    return means


def _centers(centers: Centers, n_classes: int) -> np.ndarray:
    out = np.full((n_classes, centers.centers.shape[1]), np.nan)
    out[centers.classes] = centers.centers
    return out


def _provenance(run: RunDir, frozen: dict[str, str]) -> dict[str, str]:
    import torch

    sidecar = run.adapter("lora") / "base.json"
    try:
        base = dict(json.loads(sidecar.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(f"{sidecar} is missing or damaged ({error}); run train-lora again") from error
    found = {"deblora": __version__, "data sha256": frozen["data_sha256"]}
    found.update({f"adapter: {key}": str(base[key]) for key in _wanted(base)})
    found.update(
        {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        }
    )
    return found


def _wanted(base: dict[str, object]) -> Iterable[str]:
    return [key for key in ("base", "weights_sha256", "image_size", "pool") if key in base]


STAGE = Stage(
    name="report",
    settings=lambda recipe: recipe,  # the page prints it
    inputs=lambda run: [
        run.samples,
        run.groups,
        run.clusters,
        run.centers("deblora"),
        run.features("lora"),
        run.features("deblora"),
        run.evaluation("scores.csv"),
        run.evaluation("differences.csv"),
        run.evaluation("predictions.csv"),
        run.evaluation("separation.csv"),
        run.history("lora"),
        run.history("deblora"),
        run.adapter("lora"),
        *choice_files(run),
        *(path for path in (run.look("candidates.csv"),) if path.is_file()),
    ],
    outputs=lambda run: [run.report("index.html"), run.report("report.md")],
    work=_work,
)
