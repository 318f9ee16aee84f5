"""`mentorkd compare`: one report of several finished runs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mentorkd.cli_options import AsJson
from mentorkd.console import show_results
from mentorkd.errors import RunError
from mentorkd.pipeline.provenance import command_line

__all__ = ["compare"]


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
