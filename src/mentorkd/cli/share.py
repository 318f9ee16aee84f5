"""Commands that take results out of a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mentorkd.cli.console import say
from mentorkd.cli.options import NoVerify, RunPath


def export(
    folder: RunPath,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The new folder to write.")],
    form: Annotated[str, typer.Option("--as", metavar="FORM", help="The form to write.")] = "hf",
    learner: Annotated[
        str | None, typer.Option(help="The learner. Default: the student of the report's headline.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Its seed. Default: the first of the recipe.")] = None,
    dtype: Annotated[str | None, typer.Option(help="The type of the weights, for forms with a choice.")] = None,
    no_verify: NoVerify = False,
) -> None:
    """Write a trained learner, or what its run holds, in a form that other tools read."""
    from mentorkd.sharing.export import export as write
    from mentorkd.sharing.source import open_source

    source = open_source(folder, learner, seed, verify=not no_verify)
    say(str(write(source, form, to, dtype=dtype)))
