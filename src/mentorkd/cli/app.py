"""The commands. Only those that train or generate import torch."""

from __future__ import annotations

from typing import Annotated

import typer

from mentorkd import __version__
from mentorkd.cli.console import say
from mentorkd.cli.data import data_app, import_data, init
from mentorkd.cli.evaluate import ask, evaluate
from mentorkd.cli.report import compare, inspect, report, verify
from mentorkd.cli.reproduce import reproduce
from mentorkd.cli.run import plan, quickstart, recipes_app, run, schema
from mentorkd.cli.serve import serve
from mentorkd.cli.share import export, push
from mentorkd.cli.teacher import annotate, cache_app
from mentorkd.cli.view import view

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")
app.add_typer(recipes_app, name="recipes")
app.command("import")(import_data)
for command in (
    annotate,
    init,
    reproduce,
    compare,
    run,
    quickstart,
    plan,
    evaluate,
    ask,
    report,
    verify,
    inspect,
    view,
    serve,
    export,
    push,
    schema,
):
    app.command()(command)


def _version(value: bool) -> None:
    if value:
        say(f"mentorkd {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Reasoning distillation: train a small language model on rationales of a teacher and a mentor."""
