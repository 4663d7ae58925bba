"""What happens to the features of each class: the gap between training and test, and distances between classes."""

from deblora.evaluate.features import separation, train_test_mismatch
from deblora.pipeline.audited import Audited
from deblora.pipeline.classify.evaluate.fit import side_by_side, training_features
from deblora.recipe.classify import Recipe
from deblora.recipe.methods import METHODS
from deblora.run.run_dir import RunDir

MISMATCH, SEPARATION = "mismatch.csv", "separation.csv"
Rows = list[dict[str, object]]


def describes(method: str) -> bool:
    """Tell whether a method has features of its own to describe: one table, with classifiers fitted to labels alone."""
    own = METHODS[method]
    return len(own.reads) == 1 and not own.moved and "cross_entropy" in own.classifiers


def feature_tables(run: RunDir, recipe: Recipe, audited: Audited, methods: list[str]) -> tuple[Rows, Rows]:
    """Return the lines of ``mismatch.csv`` and of ``separation.csv``.

    Test features never move, so a method with moved training features has no gap of its own, only distances.

    Raises:
        ArtifactError: If a feature table is missing, damaged or lacks a chip.
    """
    gaps: Rows = []
    distances: Rows = []
    train, test = audited.split("train"), audited.split("test")
    for name in filter(describes, methods):
        method = METHODS[name]
        parts = {
            "train": (training_features(run, recipe, method, train), train.labels),
            "test": (side_by_side(run, method.reads, test.ids), test.labels),
        }
        for split, (features, labels) in parts.items():
            values = separation(features, labels, audited.groups, audited.n_classes)
            distances += [
                {"method": name, "split": split, "metric": key, "value": value}
                for key, value in values.items()
            ]
        if method.targets:
            continue
        found = train_test_mismatch(*parts["train"], *parts["test"], audited.n_classes)
        group_of = {c: group for group, members in audited.groups.named().items() for c in members}
        gaps += [
            {
                "method": name,
                "class": class_name,
                "group": group_of[c],
                "n_train": int(train.counts[c]),
                "gap": found.gap[c],
                "chance": found.chance[c],
                "train_scatter": found.train_scatter[c],
                "test_scatter": found.test_scatter[c],
            }
            for c, class_name in enumerate(audited.class_names)
        ]
    return gaps, distances
