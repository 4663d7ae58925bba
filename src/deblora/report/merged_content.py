"""What the report over several runs shows, as plain values: it knows nothing of run folders or files."""

from collections.abc import Mapping
from dataclasses import dataclass

from deblora.evaluate.seeds import Entry, SpreadRow, Unit

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
