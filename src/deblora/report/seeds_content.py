"""What the report over several runs shows, as plain values: it knows nothing of run folders or files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deblora.evaluate.seeds import Entry, PairedSpread, Spread, SpreadRow, Unit

# Entry and baseline -> verdict of each run on its own, from its bootstrap over test chips.
Verdicts = Mapping[tuple[Entry, tuple[str, str]], tuple[str, ...]]


@dataclass(frozen=True)
class MergedRun:
    """One run of the report.

    Attributes:
        name: Name of its folder, without the path.
        unit: Data set, backbone and seed.
        data_sha256: Hash of the chips with their ids and splits.
        group_sizes: Head, middle and tail classes.
        n_train: Training chips.
        n_test: Test chips.
    """

    name: str
    unit: Unit
    data_sha256: str
    group_sizes: tuple[int, int, int]
    n_train: int
    n_test: int


@dataclass(frozen=True)
class Study:
    """The runs of one data set and backbone, which differ in the seed only.

    Attributes:
        dataset: Name of the data; treated as untrusted text.
        backbone: Name of the frozen model.
        runs: One per seed.
        rows: Scores over these runs (macro F1, fractions in 0..1) with their paired differences.
        verdicts: What each run says on its own.
        recipe_yaml: The settings that the runs share, without paths.
    """

    dataset: str
    backbone: str
    runs: tuple[MergedRun, ...]
    rows: tuple[SpreadRow, ...]
    verdicts: Verdicts
    recipe_yaml: str

    @property
    def name(self) -> str:
        """Data set and backbone in words."""
        return f"{self.dataset} on {self.backbone}"

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(run.unit.seed for run in self.runs)


@dataclass(frozen=True)
class MergedContent:
    """Everything the merged report shows.

    Attributes:
        title: Headline of the page.
        studies: One per data set and backbone.
        pooled: The rows over all runs of all studies; shown for more than one study.
        provenance: Versions of what merged the runs.
        notes: Caveats, one sentence each.
    """

    title: str
    studies: tuple[Study, ...]
    pooled: tuple[SpreadRow, ...]
    provenance: dict[str, str]
    notes: tuple[str, ...]

    @property
    def runs(self) -> tuple[MergedRun, ...]:
        """All runs, study by study."""
        return tuple(run for study in self.studies for run in study.runs)


PRIOR_METRICS = ("accuracy_forward", "accuracy_uniform", "accuracy_backward")


@dataclass(frozen=True)
class CostRow:
    """What a row cost, means over seeds: keys are the columns of ``costs.csv``, NaN where nothing was measured."""

    method: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class ClassGap:
    """Train-test gap and scatter of a class under a method; see :mod:`deblora.evaluate.features`."""

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


GROUPS = ("head", "middle", "tail", "all")


@dataclass(frozen=True)
class StudyPoint:
    """Macro F1 of a row in one variant and one group, over seeds.

    Attributes:
        variant: Name of the variant.
        row: Method and probe.
        group: ``head``, ``middle``, ``tail`` or ``all``.
        spread: Over seeds.
        to_first: Paired difference to the same row in the first variant; None for the first.
        to_lora: Paired difference to LoRA with balanced softmax in the same variant; None for that row.
    """

    variant: str
    row: tuple[str, str]
    group: str
    spread: Spread
    to_first: PairedSpread | None
    to_lora: PairedSpread | None


@dataclass(frozen=True)
class StudyContent:
    """Everything the page of a study shows.

    Attributes:
        title: Headline.
        variants: Name -> settings that differ from the base.
        seeds: Of every variant.
        rows: Method and probe of every curve; the baseline last.
        points: All of them.
        recipe_yaml: Settings of the first variant, without paths.
        provenance: Versions and machine.
        notes: Caveats.
        costs: Variant -> what the rows with features of their own cost, means over seeds.
    """

    title: str
    variants: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    rows: tuple[tuple[str, str], ...]
    points: tuple[StudyPoint, ...]
    recipe_yaml: str
    provenance: Mapping[str, str]
    notes: tuple[str, ...]
    costs: Mapping[str, tuple[CostRow, ...]] = field(default_factory=dict)

    def axis(self) -> tuple[str, tuple[float, ...] | None]:
        """Return the name of the varied setting and its values; None for the values where they are no line.

        They are a line when one setting varies and all its values are numbers.
        """
        keys = {tuple(settings) for settings in self.variants.values()}
        if len(keys) != 1 or len(next(iter(keys))) != 1:
            return "variant", None
        (key,) = next(iter(keys))
        values = tuple(settings[key] for settings in self.variants.values())
        numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        return key, tuple(float(value) for value in values) if numeric else None

    def of(self, row: tuple[str, str], group: str) -> tuple[StudyPoint, ...]:
        """Return the points of a curve in the order of the variants."""
        return tuple(point for point in self.points if point.row == row and point.group == group)
