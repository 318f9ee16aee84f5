"""The command line. Only commands that train or generate import torch.

Exit codes: 0 success, 1 unexpected error (with traceback), 2 user error (one line), 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from typing import Annotated

import typer

from mentorkd import __version__
from mentorkd.cli.console import say
from mentorkd.cli.data import data_app, import_data, init
from mentorkd.cli.evaluate import ask, evaluate
from mentorkd.cli.report import compare, inspect, report
from mentorkd.cli.reproduce import reproduce
from mentorkd.cli.run import plan, quickstart, recipes, run, schema
from mentorkd.cli.teacher import annotate, cache_app
from mentorkd.errors import MentorkdError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
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


def _shown_warnings() -> logging.Handler:
    """Shows warnings that no stage hands to its reporter, like every other line of the command line."""

    class Saying(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(f"! {record.getMessage()}", error=True)

    return Saying(logging.WARNING)


def main() -> None:
    """Entry point. A MentorkdError or an unusable path gives one line on stderr and exit code 2."""
    # Hides progress bars and warnings of libraries; must be set before these are imported.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.lastResort = _shown_warnings()
    try:
        app()
    except MentorkdError as error:
        say(f"mentorkd: {error}", error=True)
        sys.exit(2)
    except (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        if error.filename is None:  # not an error of a path
            say(traceback.format_exc().rstrip(), error=True)
            sys.exit(1)
        say(f"mentorkd: {error.filename}: {error.strerror}", error=True)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:  # typer's code for a KeyboardInterrupt
            say("mentorkd: interrupted; the same command resumes", error=True)
        raise
    except Exception:  # Python's own traceback would show the message as it is, terminal escapes included
        say(traceback.format_exc().rstrip(), error=True)
        sys.exit(1)
