"""What the report shows, as plain values: it knows nothing of run folders, models or files."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from deblora.data.longtail import Groups

GROUP_NAMES = ("head", "middle", "tail", "all")


@dataclass(frozen=True)
class ScoreRow:
    """Macro F1 of one method and probe on one group of classes.

    Attributes:
        method: How the features were made.
        probe: Classifier on top of the features.
        group: ``"head"``, ``"middle"``, ``"tail"`` or ``"all"``.
        value: Fraction in 0..1; NaN when the group is empty.
        ci_lower: Lower end of the 95 % interval, fraction; NaN when unknown.
        ci_upper: Upper end of the 95 % interval, fraction; NaN when unknown.
    """

    method: str
    probe: str
    group: str
    value: float
    ci_lower: float
    ci_upper: float


@dataclass(frozen=True)
class DifferenceRow:
    """Paired difference ``method - baseline`` on one group of classes, as a fraction in -1..1.

    The interval comes from the same bootstrap draws for both sides.
    """

    method: str
    probe: str
    baseline: str
    baseline_probe: str
    group: str
    value: float
    ci_lower: float
    ci_upper: float

    @property
    def verdict(self) -> str:
        """``"gain"`` or ``"loss"`` if the interval excludes zero, ``"open"`` otherwise or when unknown."""
        if self.ci_lower > 0:
            return "gain"
        return "loss" if self.ci_upper < 0 else "open"


@dataclass(frozen=True)
class Projection:
    """Feature vectors laid out in the plane.

    Attributes:
        title: Shown above the panel.
        points: Coordinates; only neighborhoods mean something.
        labels: Class index per point.
        is_test: True for test chips.
        means: Name -> one point per class, NaN rows where a class has none. Arrows start at the first
            entry and end at each later one.
    """

    title: str
    points: Float[np.ndarray, "n 2"]
    labels: Int[np.ndarray, " n"]
    is_test: Bool[np.ndarray, " n"]
    means: dict[str, Float[np.ndarray, "c 2"]]


@dataclass(frozen=True)
class ReportContent:
    """Everything one report shows; scores are fractions in 0..1. Empty parts are left out with a sentence.

    Attributes:
        title: Headline of the page.
        dataset: Name of the data.
        backbone: Name of the frozen model.
        seeds: Seeds of the runs that are summarized.
        class_names: One per class, in label order; treated as untrusted text.
        counts: Split -> chips per class.
        groups: Head, middle and tail classes.
        rows: Scores with intervals.
        differences: Paired differences with intervals.
        per_class_f1: Label (method and probe) -> F1 per class; the first label is the baseline.
        confusion: Label -> counts, rows are true classes, columns predictions.
        projections: Planar layouts, for example before and after.
        composition: Share of each class in each cluster (rows sum to 1), or None.
        alpha_per_class: Name -> weight of the original feature per class, in 0..1.
        curves: Name -> (step, training loss) pairs.
        separation: Label -> metric -> value.
        recipe_yaml: The settings, as YAML.
        provenance: Hashes, versions, machine.
        timings: Stage -> seconds.
        notes: Caveats, one sentence each.
        findings: What other stages found, one sentence each; shown with the summary.

    Raises:
        ValueError: If an array has another number of classes than ``class_names``.
    """

    title: str
    dataset: str
    backbone: str
    seeds: tuple[int, ...]
    class_names: tuple[str, ...]
    counts: dict[str, Int[np.ndarray, " c"]]
    groups: Groups
    rows: tuple[ScoreRow, ...]
    differences: tuple[DifferenceRow, ...]
    per_class_f1: dict[str, Float[np.ndarray, " c"]]
    confusion: dict[str, Int[np.ndarray, "c c"]]
    projections: tuple[Projection, ...]
    composition: Float[np.ndarray, "c k"] | None
    alpha_per_class: dict[str, Float[np.ndarray, " c"]]
    curves: dict[str, tuple[tuple[int, float], ...]]
    separation: dict[str, dict[str, float]]
    recipe_yaml: str
    provenance: dict[str, str]
    timings: dict[str, float]
    notes: tuple[str, ...]
    findings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n_classes = len(self.class_names)
        named: list[tuple[str, np.ndarray]] = []
        for field in ("counts", "per_class_f1", "confusion", "alpha_per_class"):
            named += [(f"{field}[{key!r}]", value) for key, value in getattr(self, field).items()]
        if self.composition is not None:
            named.append(("composition", self.composition))
        for name, values in named:
            if len(values) != n_classes:
                raise ValueError(f"{name} has {len(values)} classes, class_names has {n_classes}")

    @property
    def train_counts(self) -> Int[np.ndarray, " c"]:
        """Training chips per class; the first split when none is called train, zeros when there is none."""
        first = next(iter(self.counts.values()), np.zeros(len(self.class_names), dtype=np.int64))
        return self.counts.get("train", first)

    def by_count(self) -> Int[np.ndarray, " c"]:
        """Return the class indices from the most to the least frequent (ties keep label order)."""
        return np.argsort(-self.train_counts, kind="stable")

    def group_of(self) -> tuple[str, ...]:
        """Return the group of every class, ``""`` for a class in none."""
        found = {index: name for name, members in self.groups.named().items() for index in members}
        return tuple(found.get(index, "") for index in range(len(self.class_names)))
