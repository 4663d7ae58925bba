"""What the page of a study shows, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deblora.evaluate.seeds import PairedSpread, Spread
from deblora.report.compare_content import CostRow

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
