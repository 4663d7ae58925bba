"""The sub-command ``models``: what can be adapted, and where the weights come from. Starts without torch."""

import json
from typing import Any

from deblora.models.cards import as_rows, as_text
from deblora.models.presets import PRESETS

COMMANDS = ("models",)


def add_commands(commands: Any, parser: Any) -> None:
    """Add the sub-command.

    Args:
        commands: What the main parser's ``add_subcommands`` returned.
        parser: Makes a parser.
    """
    models = parser(
        description="Backbones: size, input, pre-training data, license, how to get the weights, recipe line. "
        "Facts only; what is not known is said to be unknown."
    )
    models.add_argument("--json", action="store_true", help="the same as JSON")
    commands.add_subcommand(
        "models", models, help="which pre-trained models can be adapted, and how to get them"
    )


def run_command(options: Any) -> str:
    """Return what to print."""
    if options.json:
        return json.dumps({"names": list(PRESETS), "weights": as_rows()}, indent=1)
    return (
        f"{as_text()}\n\nbackbone.name is one of {', '.join(PRESETS)}; docs/models.md says more about each."
    )
