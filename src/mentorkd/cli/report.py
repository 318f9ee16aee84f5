"""Commands about reports: write one again, compare finished runs, look into stored soft labels."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from mentorkd.cli.console import ConsoleReporter, JsonReporter, show_results, show_table
from mentorkd.cli.options import AsJson, Quiet, RunPath
from mentorkd.errors import RunError
from mentorkd.pipeline.provenance import command_line

__all__ = ["compare", "inspect", "report"]


def compare(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN...", help="Run folders, two or more, the one to measure against first."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the report goes; runs/comparisons/RUN-RUN if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare finished runs that were tested on the same questions: one report of all; nothing is run again."""
    from mentorkd.pipeline.compare import compare_runs
    from mentorkd.reporting import write_report

    place = out or Path("runs/comparisons") / "-".join(folder.resolve().name for folder in folders)
    _check_place(place, folders)
    results = compare_runs(folders, shlex.join(command_line()))
    write_report(results, place)
    show_results(place, as_json)


def _check_place(place: Path, folders: list[Path]) -> None:
    """RunError unless the report may go there: a new or empty folder, or an earlier comparison."""
    within = any(place.resolve().is_relative_to(folder.resolve()) for folder in folders)
    if within or (place.is_dir() and any(place.iterdir()) and not (place / "results.json").is_file()):
        raise RunError(f"got --out {place}; expected a new folder, outside the runs, or that of an earlier comparison")


def report(folder: RunPath, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Make the report of a finished run anew."""
    from mentorkd.pipeline.run import open_run

    reporter = JsonReporter() if as_json else ConsoleReporter(quiet=quiet)
    pipeline = open_run(folder, reporter)
    unfinished = [p.stage.name for p in pipeline.plan() if p.state != "done" and p.stage.kind != "report"]
    if unfinished:
        raise RunError(
            f"{folder} is not finished ({len(unfinished)} stages left, first {unfinished[0]}); use `mentorkd run`"
        )
    try:
        pipeline.run(force=["report"])
    finally:
        reporter.close()
    show_results(folder / "report", as_json)


def inspect(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A folder of stored soft labels.")],
    sample: Annotated[int, typer.Option(help="Rationales to measure on.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Show what a soft-label store holds: size, bytes a token, the mentor's NLL, what top-k kept."""
    from mentorkd.distillation.inspect import inspect_store

    found = inspect_store(store, sample=sample)
    if as_json:
        print(json.dumps(found))
        return
    show_table(
        str(store),
        ["", ""],
        [
            [key.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value)]
            for key, value in found.items()
        ],
    )
