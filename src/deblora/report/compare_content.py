"""What the page of a comparison shows, as plain values: it knows nothing of run folders or files."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deblora.evaluate.seeds import SpreadRow
from deblora.report.merged_content import MergedRun

PRIOR_METRICS = ("accuracy_forward", "accuracy_uniform", "accuracy_backward")


@dataclass(frozen=True)
class CostRow:
    """What a row cost, means over seeds: keys are the columns of ``costs.csv``, NaN where nothing was measured."""

    method: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class ClassGap:
    """Train-test gap and scatter of a class under a method; see :mod:`deblora.evaluate.mismatch`."""

    method: str
    label: str
    group: str
    gap: float
    chance: float
    train_scatter: float
    test_scatter: float


@dataclass(frozen=True)
class ClassGain:
    """Gain of F1 of a class, one value per seed, of a row (method and head) over a baseline."""

    row: tuple[str, str]
    baseline: tuple[str, str]
    label: str
    group: str
    gains: tuple[float, ...]


@dataclass(frozen=True)
class CompareContent:
    """Everything the page of a comparison shows.

    Attributes:
        title: Headline; treated as untrusted text.
        dataset: Name of the data.
        backbone: Name of the frozen model.
        runs: One per seed.
        rows: Spread over seeds of macro F1 and of the accuracies under other test priors.
        strong: Method and head of the row that stands for the best strong head, chosen on validation.
        ours: The same for our rows.
        baselines: What rows are compared with; ``strong`` is one of them.
        chosen: ``strong`` or ``ours`` -> the row that validation chose, by seed.
        n_trials: Validation trials by method and head, the same in every seed.
        seconds: Stage -> mean seconds over seeds.
        recipe_yaml: The settings that all seeds share, without paths.
        provenance: Versions and machine.
        notes: Caveats, one sentence each.
        costs: What every row with features of its own cost.
        separation: Method and split -> mean cosine distances between and within classes.
        gaps: Train-test gap and scatter by method and class, classes by falling count.
        gains: Gain of F1 by class of chosen rows, classes by falling count.
    """

    title: str
    dataset: str
    backbone: str
    runs: tuple[MergedRun, ...]
    rows: tuple[SpreadRow, ...]
    strong: tuple[str, str]
    ours: tuple[str, str]
    baselines: tuple[tuple[str, str], ...]
    chosen: Mapping[tuple[str, str], tuple[str, ...]]
    n_trials: Mapping[tuple[str, str], int]
    seconds: Mapping[str, float]
    recipe_yaml: str
    provenance: Mapping[str, str]
    notes: tuple[str, ...]
    costs: tuple[CostRow, ...] = ()
    separation: Mapping[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)
    gaps: tuple[ClassGap, ...] = ()
    gains: tuple[ClassGain, ...] = ()

    @property
    def scores(self) -> tuple[SpreadRow, ...]:
        """Rows of macro F1."""
        return tuple(row for row in self.rows if row.entry.metric == "macro_f1")

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(run.unit.seed for run in self.runs)
