"""The command line. Imports torch only inside commands that train or generate.

Exit codes: 0 done, 1 an unforeseen fault (with traceback), 2 a user's mistake (one clear line), 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from mentorkd import __version__
from mentorkd.cli.data import data_app, import_data, init
from mentorkd.cli.evaluate import ask, evaluate
from mentorkd.cli.report import compare, inspect, report
from mentorkd.cli.reproduce import reproduce
from mentorkd.cli.run import plan, quickstart, recipes, run, schema
from mentorkd.cli.teacher import annotate, cache_app
from mentorkd.errors import MentorkdError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")
app.command("import")(import_data)
for command in (
    annotate,
    init,
    reproduce,
    compare,
    run,
    recipes,
    quickstart,
    plan,
    evaluate,
    ask,
    report,
    inspect,
    schema,
):
    app.command()(command)


def _version(asked: bool) -> None:
    if asked:
        print(f"mentorkd {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From questions with known answers to a small language model that reasons, by way of a mentor."""


def main() -> None:
    """Entry point: a MentorkdError, or a path that cannot be used, becomes one line on stderr and exit code 2."""
    # Progress bars and warnings of libraries are not ours to show; set before they are imported.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except MentorkdError as error:
        print(f"mentorkd: {error}", file=sys.stderr)
        sys.exit(2)
    except (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        if error.filename is None:  # not about a path
            raise
        print(f"mentorkd: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:  # typer makes this of a KeyboardInterrupt
            print("mentorkd: interrupted; run the same command to go on", file=sys.stderr)
        raise
