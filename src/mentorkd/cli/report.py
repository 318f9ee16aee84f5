"""Commands for reports: write one again, compare finished runs, inspect stored soft labels."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mentorkd.cli.console import open_reporter, say, show_json, show_results, show_table
from mentorkd.cli.options import AsJson, NoVerify, Quiet, RunPath
from mentorkd.errors import RunError
from mentorkd.pipeline.provenance import command_line


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN RUN...",
            help="Two or more run folders, folders of reports, or results.json files, the reference first.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the report. Default: runs/comparisons/RUN-RUN.")
    ] = None,
    pool: Annotated[
        bool,
        typer.Option(
            "--pool-seeds",
            help="The runs are of one recipe, each with other seeds: report them as one run with all the seeds.",
        ),
    ] = False,
    no_verify: NoVerify = False,
    as_json: AsJson = False,
) -> None:
    """Write one report of several finished runs with the same test questions. No stage runs again."""
    from mentorkd.pipeline.compare import compare_runs
    from mentorkd.pipeline.finished_runs import folder_of
    from mentorkd.pipeline.pool import pool_seeds
    from mentorkd.reporting.write import write_report

    folders = [folder_of(run).resolve() for run in runs]
    folder = out or Path("runs/comparisons") / "-".join(one.name for one in folders)
    inside = any(folder.resolve().is_relative_to(one) for one in folders)
    if inside or (folder.is_dir() and any(folder.iterdir()) and not (folder / "results.json").is_file()):
        raise RunError(
            f"got --out {folder}; expected a new folder outside the runs, or the folder of an earlier comparison"
        )
    with open_reporter(quiet=False, as_json=as_json):  # for the warnings
        join = pool_seeds if pool else compare_runs
        results = join(runs, shlex.join(command_line()), verify=not no_verify)
    write_report(results, folder)
    show_results(folder, as_json)


def report(folder: RunPath, no_verify: NoVerify = False, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Write the report of a finished run again."""
    from mentorkd.pipeline.run import open_run

    with open_reporter(quiet=quiet, as_json=as_json) as reporter:
        pipeline = open_run(folder, reporter, verify=not no_verify)
        unfinished = [p.stage.name for p in pipeline.plan() if p.state != "done" and p.stage.kind != "report"]
        if unfinished:
            raise RunError(
                f"{folder} is not finished: {len(unfinished)} stages left, the first is {unfinished[0]}; "
                "finish it with `mentorkd run`"
            )
        pipeline.run(force=["report"])
    show_results(folder / "report", as_json)


def verify(folder: RunPath, as_json: AsJson = False) -> None:
    """Check every file of a run against what was published. Exit code 2 if any is damaged."""
    from mentorkd.pipeline.verify import verify_run

    result = verify_run(folder)
    if as_json:
        show_json(asdict(result))
    else:
        for file, damage in result.damaged.items():
            say(f"{file}: {damage}")
        for file, edit in result.edited.items():
            say(f"{file}: {edit}; it is yours to edit")
        if result.unchecked:
            say(f"{len(result.unchecked)} outputs of another version have no hashes: {', '.join(result.unchecked)}")
        say(f"{result.files} files checked, {len(result.damaged)} damaged")
    if result.damaged:
        raise RunError(
            f"{folder}: {len(result.damaged)} of {result.files} files are not what was written; "
            f"{'`damaged`' if as_json else 'the line of each'} says what to do"
        )


def inspect(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A folder of stored soft labels.")],
    sample: Annotated[int, typer.Option(help="Number of rationales to measure.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Describe a soft-label store: size, bytes per token, the mentor's NLL, the probability mass of top-k."""
    from mentorkd.distillation.inspect import inspect_store

    facts = inspect_store(store, sample=sample)
    if as_json:
        show_json(facts)
        return
    texts = {key: f"{value:,}" if isinstance(value, int) else str(value) for key, value in facts.items()}
    show_table(str(store), ["", ""], [[key.replace("_", " "), text] for key, text in texts.items()])
