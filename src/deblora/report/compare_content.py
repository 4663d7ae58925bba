"""What the page of a comparison shows, as plain values: it knows nothing of run folders or files."""

from collections.abc import Mapping
from dataclasses import dataclass

from deblora.evaluate.seeds import SpreadRow
from deblora.report.merged_content import MergedRun

PRIOR_METRICS = ("accuracy_forward", "accuracy_uniform", "accuracy_backward")


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

    @property
    def scores(self) -> tuple[SpreadRow, ...]:
        """Rows of macro F1."""
        return tuple(row for row in self.rows if row.entry.metric == "macro_f1")

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(run.unit.seed for run in self.runs)
