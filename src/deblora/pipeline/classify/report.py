"""Stage ``report``: one self-contained page, and the same numbers as Markdown."""

import csv
import json
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from deblora import __version__
from deblora.data.chips import ChipSet
from deblora.errors import ArtifactError
from deblora.evaluate.bootstrap import judged_by_one
from deblora.evaluate.features import tsne_2d
from deblora.evaluate.metrics import confusion, per_class_f1
from deblora.files import write_atomic
from deblora.pipeline.audited import groups_of
from deblora.pipeline.classify.chips import open_chips
from deblora.pipeline.classify.evaluate.choose import choice_files, read_choice, say_choice
from deblora.pipeline.tables import as_number, say_judged_by_one
from deblora.recipe.classify import Recipe
from deblora.report.content import DifferenceRow, Projection, ReportContent, ScoreRow
from deblora.report.run_page import render_markdown, render_page
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
Row = TypeVar("Row")
FEW_TEST_CHIPS = 10  # ours
MAX_POINTS = 1500  # t-SNE beyond that takes minutes and shows no more


def _work(run: RunDir, recipe: Recipe) -> None:
    content = _content(run, recipe)
    write_atomic(run.report("index.html"), render_page(content))
    write_atomic(run.report("report.md"), render_markdown(content))


def _content(run: RunDir, recipe: Recipe) -> ReportContent:
    chips, frozen = open_chips(run, recipe), json.loads(run.groups.read_text(encoding="utf-8"))
    y, predicted = _predictions(run, chips)
    n_classes = chips.n_classes
    f1 = {f"{m} + {p}": per_class_f1(y[m, p], predicted[m, p], n_classes) for m, p in SHOWN}
    matrices = {
        f"{m} + {p}": confusion(y[m, p], predicted[m, p], n_classes)
        for m, p in (("lora", "cross_entropy"), ("shift", "balanced_softmax"))
    }
    return ReportContent(
        title=f"{Path(recipe.data.source).name} on {recipe.backbone.name}",
        dataset=Path(recipe.data.source).name,
        backbone=recipe.backbone.name,
        seeds=(recipe.seed,),
        class_names=chips.class_names,
        counts={name: np.array(values, dtype=np.int64) for name, values in frozen["counts"].items()},
        groups=groups_of(run),
        rows=tuple(
            row for metric, row in _read(run.evaluation("results.csv"), _score) if metric == "macro_f1"
        ),
        differences=tuple(_read(run.evaluation("differences.csv"), _difference)),
        per_class_f1=f1,
        confusion=matrices,
        projections=_projections(run, chips, recipe.seed),
        composition=_composition(run, chips),
        alpha_per_class={
            name: Targets.load(run.targets(name)).alpha_per_class for name in ("deblora", "shift")
        },
        curves={name: _curve(run.history(name)) for name in ("lora", "deblora")},
        separation=_separation(run),
        recipe_yaml=run.recipe.read_text() if run.recipe.is_file() else "",
        provenance=_provenance(run, frozen),
        timings={name: record["seconds"] for name, record in run.manifest()["stages"].items()},
        notes=(
            f"Groups by {frozen['rule']}, fixed in the audit.",
            "Group F1 is the mean of per-class F1, each computed on all predictions.",
            "Penalty and tau were chosen on validation; the test split was read once.",
            "The row semi-supervised is also fitted to the validation chips, without their labels.",
            "Intervals: 95 % bootstrap over test chips, stratified by class; they do not cover the choice of seed.",
        ),
        findings=(*_cautions(run, frozen), *(say_choice(read_choice(run)) if choice_files(run) else ())),
    )


def _read(path: Path, convert: Callable[[dict[str, str]], Row]) -> list[Row]:
    """Convert each row of a table that an earlier stage wrote.

    Raises:
        ArtifactError: If the table is damaged.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [convert(row) for row in csv.DictReader(file, strict=True)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ArtifactError(f"{path} is damaged ({error!r}); delete it and run its stage again") from error


def _score(row: dict[str, str]) -> tuple[str, ScoreRow]:
    return row["metric"], ScoreRow(row["method"], row["probe"], row["group"], *_numbers(row))


def _difference(row: dict[str, str]) -> DifferenceRow:
    return DifferenceRow(
        row["method"], row["probe"], row["baseline"], row["baseline_probe"], row["group"], *_numbers(row)
    )


def _cautions(run: RunDir, frozen: dict[str, Any]) -> list[str]:
    """Say what a reader could miss: that nothing was moved, or that a class has hardly any test chip."""
    found = [f"Data: {line}." for line in (frozen.get("skipped_summary"), *frozen.get("notes", ())) if line]
    if Targets.load(run.targets("deblora")).moved_nothing:
        trained = _curve(run.history("deblora"))
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
    hidden = judged_by_one(np.array(frozen["counts"]["test"]), groups_of(run))
    if hidden:
        found.append(say_judged_by_one(hidden))
    fewest = min(frozen["counts"]["test"])
    if fewest < FEW_TEST_CHIPS:
        found.append(
            f"The rarest class has {fewest} test chip{'s' * (fewest != 1)}: below {FEW_TEST_CHIPS} the bootstrap "
            "draws the same chips again and again, and intervals are too narrow."
        )
    return found


def _numbers(row: dict[str, str]) -> tuple[float, float, float]:
    return float(row["value"]), as_number(row["ci_lower"]), as_number(row["ci_upper"])


def _curve(path: Path) -> tuple[tuple[int, float], ...]:
    return tuple(_read(path, lambda row: (int(row["step"]), float(row["loss"]))))


def _predictions(
    run: RunDir, chips: ChipSet
) -> tuple[dict[tuple[str, str], np.ndarray], dict[tuple[str, str], np.ndarray]]:
    index = {name: i for i, name in enumerate(chips.class_names)}
    true: dict[tuple[str, str], list[int]] = {}
    guess: dict[tuple[str, str], list[int]] = {}
    path = run.evaluation("predictions.csv")
    for key, right, found in _read(
        path, lambda row: ((row["method"], row["probe"]), index[row["true"]], index[row["predicted"]])
    ):
        true.setdefault(key, []).append(right)
        guess.setdefault(key, []).append(found)
    absent = [" + ".join(key) for key in SHOWN if key not in true]
    if absent:
        raise ArtifactError(f"{path} has no rows of {absent[0]}; delete it and run its stage again")
    return {k: np.array(v) for k, v in true.items()}, {k: np.array(v) for k, v in guess.items()}


def _separation(run: RunDir) -> dict[str, dict[str, float]]:
    out: dict[str, dict[str, float]] = {}
    for name, metric, value in _read(
        run.evaluation("separation.csv"),
        lambda row: (f"{row['method']} ({row['split']})", row["metric"], float(row["value"])),
    ):
        out.setdefault(name, {})[metric] = value
    return out


def _composition(run: RunDir, chips: ChipSet) -> Float[np.ndarray, "c k"]:
    clusters, train = Clusters.load(run.clusters), chips.split("train")
    shares = np.zeros((chips.n_classes, len(clusters.centers)))
    np.add.at(shares, (train.labels, clusters.of(train.ids)), 1.0)
    return np.asarray(shares / np.maximum(shares.sum(axis=1, keepdims=True), 1.0))


def _projections(run: RunDir, chips: ChipSet, seed: int) -> tuple[Projection, ...]:
    """Lay out train and test before and after together with class means and centers."""
    train, test = chips.split("train"), chips.split("test")
    rng = np.random.default_rng(seed)
    some_train = _sample(len(train), MAX_POINTS // 2, rng)
    some_test = _sample(len(test), MAX_POINTS // 2, rng)
    labels = np.concatenate([train.labels[some_train], test.labels[some_test]])
    is_test = np.arange(len(labels)) >= len(some_train)
    out = []
    for title, adapter in (("before: LoRA features", "lora"), ("after: debLoRA features", "deblora")):
        table = FeatureTable.load(run.features(adapter))
        all_train, all_test = table.rows(train.ids), table.rows(test.ids)
        marks = {
            "train mean": _means(all_train, train.labels, chips.n_classes),
            "test mean": _means(all_test, test.labels, chips.n_classes),
        }
        if adapter == "lora":
            marks["de-biased center"] = _centers(Centers.load(run.centers("deblora")), chips.n_classes)
        stacked = np.concatenate([all_train[some_train], all_test[some_test], *marks.values()])
        known = np.isfinite(stacked).all(axis=1)
        plane = np.full((len(stacked), 2), np.nan)
        points, _ = tsne_2d(stacked[known], seed=seed, max_samples=len(stacked))
        plane[known] = points
        n = len(labels)
        places = {
            name: plane[n + i * chips.n_classes : n + (i + 1) * chips.n_classes]
            for i, name in enumerate(marks)
        }
        out.append(Projection(title, plane[:n], labels, is_test, places))
    return tuple(out)


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
        run.evaluation("results.csv"),
        run.evaluation("differences.csv"),
        run.evaluation("predictions.csv"),
        run.evaluation("separation.csv"),
        run.history("lora"),
        run.history("deblora"),
        run.adapter("lora"),
        *choice_files(run),
    ],
    outputs=lambda run: [run.report("index.html"), run.report("report.md")],
    work=_work,
)
