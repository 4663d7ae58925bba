"""The last sections of a page over several runs: their settings, and what made it."""

from collections.abc import Mapping

from deblora.report import merged_tables
from deblora.report.frame import Section


def origin_sections(of: str, recipe_yaml: str, provenance: Mapping[str, str]) -> list[Section]:
    """Return the sections ``recipe`` and ``provenance``.

    Args:
        of: Whose settings are shown, as the start of a sentence.
        recipe_yaml: The settings, without paths.
        provenance: Versions and machine.
    """
    return [
        Section(
            "recipe",
            "Recipe",
            f"{of}; paths are cut to their last part.",
            "No recipe was given.",
            text=recipe_yaml,
        ),
        Section(
            "provenance",
            "Provenance",
            "Versions and machine.",
            "No provenance was recorded.",
            table=merged_tables.provenance(provenance),
        ),
    ]
