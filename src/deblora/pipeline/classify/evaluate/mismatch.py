"""Stage ``mismatch``: what happens to the features of each class, on all rows that have features of their own."""

from collections.abc import Sequence
from pathlib import Path

from deblora.data.longtail import class_counts
from deblora.evaluate.features import separation, train_test_mismatch
from deblora.files import write_atomic
from deblora.pipeline.audited import groups_of
from deblora.pipeline.classify.chips import open_chips
from deblora.pipeline.tables import table
from deblora.recipe.classify import Recipe
from deblora.run.artifacts import FeatureTable
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage

MISMATCH, SEPARATION = "mismatch.csv", "heads_separation.csv"
MISMATCH_COLUMNS = (
    "method",
    "class",
    "group",
    "n_train",
    "gap",
    "chance",
    "train_scatter",
    "test_scatter",
)
SEPARATION_COLUMNS = ("method", "split", "metric", "value")


def stage_for(features: Sequence[tuple[str, Path]]) -> Stage:
    """Return the stage that describes the features of rows.

    Args:
        features: Method and path of its features, relative to the run folder.
    """

    def work(run: RunDir, recipe: Recipe) -> None:
        _work(run, recipe, features)

    return Stage(
        name="mismatch",
        settings=lambda _: [name for name, _ in features],
        inputs=lambda run: [run.samples, run.groups, *(run.root / path for _, path in features)],
        outputs=lambda run: [run.evaluation(name) for name in (MISMATCH, SEPARATION)],
        work=work,
    )


def _work(run: RunDir, recipe: Recipe, features: Sequence[tuple[str, Path]]) -> None:
    chips, groups = open_chips(run, recipe), groups_of(run)
    train, test = chips.split("train"), chips.split("test")
    counts = class_counts(train.labels, chips.n_classes)
    group_of = {c: name for name, members in groups.named().items() for c in members}
    lines: list[dict[str, object]] = []
    distances: list[dict[str, object]] = []
    for method, path in features:
        found = FeatureTable.load(run.root / path)
        parts = {"train": found.rows(train.ids), "test": found.rows(test.ids)}
        own = train_test_mismatch(parts["train"], train.labels, parts["test"], test.labels, chips.n_classes)
        lines += [
            {
                "method": method,
                "class": name,
                "group": group_of[c],
                "n_train": int(counts[c]),
                "gap": own.gap[c],
                "chance": own.chance[c],
                "train_scatter": own.train_scatter[c],
                "test_scatter": own.test_scatter[c],
            }
            for c, name in enumerate(chips.class_names)
        ]
        for split, chosen in (("train", train), ("test", test)):
            values = separation(parts[split], chosen.labels, groups, chips.n_classes)
            distances += [
                {"method": method, "split": split, "metric": key, "value": value}
                for key, value in values.items()
            ]
    write_atomic(run.evaluation(MISMATCH), table(lines))
    write_atomic(run.evaluation(SEPARATION), table(distances))
