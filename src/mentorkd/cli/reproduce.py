"""`mentorkd reproduce`: a table or figure of the paper beside its results here; with --check, pages beside their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mentorkd.cli.console import open_reporter, say, show_json, show_table
from mentorkd.cli.options import (
    AsJson,
    NoVerify,
    Overrides,
    Overwrite,
    Quiet,
    RunOption,
)
from mentorkd.cli.shipped import shipped_recipes, shipped_titles
from mentorkd.errors import RunError
from mentorkd.paper.tasks import PAPER_TASKS, find_task

if TYPE_CHECKING:
    from mentorkd.cli.paper_tables import Score, TableRow

_PAPER = "paper/"
_SAME = {"figure5": "table5"}
"""Figure -> table with the same numbers."""

_ON_TEST = (
    "* selected on test (protocol: paper): the reported accuracy also selected the epoch, so it is too high by an unknown amount; "
    "`protocol=fair` selects ours on held-out questions"
)
_PAPERS = "each of the paper's numbers is from one run; its interval is Wilson's, over the task's test questions"
_SMOKE = "a smoke test: models with random weights and eight questions; its numbers have no meaning"


def reproduce(
    table: Annotated[
        str | None, typer.Argument(metavar="TABLE", help="A table or figure, e.g. table2. Without it, list all.")
    ] = None,
    overrides: Overrides = None,
    task: Annotated[str | None, typer.Option(help="One of the paper's tasks. Default: the task of the recipe.")] = None,
    student: Annotated[str | None, typer.Option(help="Run only the arms of this model, e.g. flan-t5-small.")] = None,
    data: Annotated[Path, typer.Option(help="The folder that `mentorkd data paper` wrote.")] = Path("data"),
    folder: RunOption = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Only check that it runs: tiny models with random weights, 8 questions.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Run nothing: compare the tables of --pages with their results.json files.")
    ] = False,
    rewrite: Annotated[
        bool,
        typer.Option("--rewrite", help="Run nothing: write the numbers of the results.json files into these tables."),
    ] = False,
    pages: Annotated[
        Path, typer.Option(help="With --check or --rewrite: the folder of NAME.md and NAME/results.json.")
    ] = Path("docs/results"),
    overwrite: Overwrite = False,
    no_verify: NoVerify = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run a table or figure of the paper and print the results beside the paper's. A finished run is not repeated.

    With --check, the numbers of committed pages are compared with the results that they are of.
    """
    if check or rewrite:
        given = table or ("--json" if as_json else None)
        if given is not None:
            raise RunError(
                f"got {given} with --{'check' if check else 'rewrite'}, which takes --pages alone; leave it out"
            )
        _check(pages, rewrite=rewrite)
        return
    from mentorkd.cli import paper_tables as tables
    from mentorkd.pipeline.run import Pipeline
    from mentorkd.reporting.write import read_results

    recipes = {name.removeprefix(_PAPER): path for name, path in shipped_recipes().items() if name.startswith(_PAPER)}
    if table is None:
        titles = {name: title for name, title in shipped_titles().items() if name.startswith(_PAPER)}
        titles = {name.removeprefix(_PAPER): title for name, title in titles.items()}
        if as_json:
            show_json(titles)
            return
        for name, title in titles.items():
            say(f"{name:<10}{title}")
        return
    table = _SAME.get(table, table)
    if table not in recipes:
        raise RunError(f"got {table}; expected one of {', '.join([*recipes, *_SAME])}")
    known = find_task(task or tables.default_task(recipes[table]))
    if known is None:
        raise RunError(f"got --task {task}; expected one of {', '.join(PAPER_TASKS)}")
    root = folder or Path("runs") / "paper" / f"{table}-{known.key}{'-smoke' if smoke else ''}"

    fill_in = partial(tables.fill_in, recipes[table], known, data=data, root=root, overrides=overrides or ())
    whole = fill_in(smoke=smoke)
    if student is not None:
        names = tables.arms_of_student(fill_in(smoke=False), student)  # the smoke test's models have no names
        whole = tables.without(whole, [name for name in whole.learners if name not in names])
    left_out = tables.unavailable_learners(whole, root, fetch=f"mentorkd data paper {data}")
    recipe = tables.without(whole, left_out)
    learners = []
    if recipe.learners:
        with open_reporter(quiet=quiet, as_json=as_json) as reporter:
            pipeline = Pipeline(recipe, root, reporter, verify=not no_verify)
            pipeline.run(overwrite=overwrite)
        learners = read_results(pipeline.folder.report())["learners"]
    rows = tables.table_rows(whole, table, known, learners, left_out)
    reasons, notes = _reasons(rows), _notes(rows, smoke)
    if as_json:
        shown = {"table": table, "task": known.key, "run": str(root)}
        show_json({**shown, "rows": [*map(asdict, rows)], "notes": reasons + notes})
    else:
        _show(f"{table} on {known.title}", rows, reasons * bool(learners) + notes, root)
    if not learners:
        why = "\n  ".join(["", *reasons]) if len(set(left_out.values())) > 1 else f" {next(iter(left_out.values()))}"
        raise RunError(f"no learner of {table} on {known.key} could be run:{why}")


def _check(pages: Path, *, rewrite: bool) -> None:
    """Raises RunError with a line for each number that disagrees; with `rewrite`, for each that still does."""
    from mentorkd.cli.result_pages import check_pages, rewrite_pages

    if rewrite:
        rewrite_pages(pages)
    if faults := check_pages(pages):
        count = f"{len(faults)} disagreement{'s' if len(faults) > 1 else ''} between pages and results"
        raise RunError("\n  ".join([f"{count}; `mentorkd reproduce --rewrite` corrects tables", *map(str, faults)]))
    say(f"{pages}: every marked table agrees with its results")


def _reasons(rows: Sequence[TableRow]) -> list[str]:
    """Why learners were not run, each reason once with its learners."""
    learners: dict[str, list[str]] = {}
    for row in rows:
        if row.why:
            learners.setdefault(row.why, []).append(row.learner)
    return [f"{', '.join(names)}: {why}" for why, names in learners.items()]


def _notes(rows: Sequence[TableRow], smoke: bool) -> list[str]:
    notes = []
    if any(row.paper for row in rows):
        notes.append(_PAPERS)
    if any(score and score.selected_on_test for row in rows for score in (row.paper, row.ours)):
        notes.append(_ON_TEST)
    return notes + [_SMOKE] * smoke


def _show(title: str, rows: Sequence[TableRow], notes: Sequence[str], root: Path) -> None:
    show_table(
        title,
        ["", "paper %", "95 %", "ours %", "95 %", "seeds"],
        [
            [
                row.learner,
                *(_cells(row.paper) if row.paper else ("not given", "")),
                *(_cells(row.ours) if row.ours else ("not run", "")),
                str(row.ours.seeds) if row.ours else "",
            ]
            for row in rows
        ],
    )
    for note in notes:
        say(note if note.startswith("*") else f"! {note}")
    if (root / "report").is_dir():
        say(f"report: {root / 'report' / 'index.html'}")


def _cells(score: Score) -> tuple[str, str]:
    interval = f"{100 * score.interval.low:.1f} - {100 * score.interval.high:.1f}"
    return f"{100 * score.accuracy:.1f}{'*' * score.selected_on_test}", interval
