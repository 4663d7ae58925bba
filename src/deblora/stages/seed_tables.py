"""What every table over seeds says of a row, and which settings its runs share."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deblora.config import Recipe, tables
from deblora.evaluate.seeds import Spread, SpreadRow


def summary_lines(
    names: Mapping[str, object], rows: Sequence[SpreadRow], baselines: Sequence[tuple[str, str]]
) -> list[dict[str, object]]:
    """Return one line per row with its spread and its paired difference to every baseline."""
    lines = []
    for row in rows:
        line: dict[str, object] = {**names, **row.entry._asdict(), "n_seeds": row.spread.n}
        line.update(_columns("", row.spread))
        for baseline in baselines:
            prefix = f"minus_{'_'.join(baseline)}_"
            found = row.against.get(baseline)
            line.update(_columns(prefix, found.spread if found else Spread(0, *(math.nan,) * 4)))
            line[f"{prefix}n_wins"] = found.n_wins if found else 0
            line[f"{prefix}n_ties"] = found.n_ties if found else 0
            line[f"{prefix}n"] = found.spread.n if found else 0
        lines.append(line)
    return lines


def _columns(prefix: str, spread: Spread) -> dict[str, float]:
    return {
        f"{prefix}mean": spread.mean,
        f"{prefix}sd": spread.sd,
        f"{prefix}ci_lower": spread.ci_lower,
        f"{prefix}ci_upper": spread.ci_upper,
    }


def shared_settings(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a recipe without its seed, paths cut to their last part."""
    values = {key: value for key, value in tables(recipe).items() if key != "seed"}
    values["data"]["source"] = Path(values["data"]["source"]).name
    if values["backbone"]["path"]:
        values["backbone"]["path"] = Path(values["backbone"]["path"]).name
    return values
