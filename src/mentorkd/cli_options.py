"""Arguments and options that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AsJson", "Overrides", "Quiet", "RecipePath", "RunOption", "RunPath"]

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Changes to the recipe.", show_default=False)
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, e.g. runs/shuffled.")]
RunOption = Annotated[Path | None, typer.Option("--run", help="The run folder; runs/<recipe's name> if not given.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results alone.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
