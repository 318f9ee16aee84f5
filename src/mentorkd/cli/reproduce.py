"""`mentorkd reproduce`: a table or figure of the paper, run here and printed beside the paper's numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mentorkd.cli.console import ConsoleReporter, JsonReporter, show_table
from mentorkd.cli.options import AsJson, Overrides, Quiet, RunOption, shipped_recipes
from mentorkd.errors import RunError
from mentorkd.paper.tasks import PAPER_TASKS, find_task

if TYPE_CHECKING:
    from mentorkd.cli.paper_tables import Number, Row
    from mentorkd.recipe.schema import Recipe
    from mentorkd.reporting import Results

__all__ = ["reproduce"]

PAPER = "paper/"
SAME = {"figure5": "table5"}
"""Figures that draw the numbers of a table."""

ON_TEST = (
    "* selected on test (protocol: paper): the epoch was chosen by the very accuracy that is told, which is too high by an unknown "
    "amount; `protocol=fair` chooses ours on held-out questions"
)
PAPERS = "the paper's numbers are of one run each; their intervals are Wilson's, over the task's test questions"
SMOKE = "a smoke test: models of random weights and eight questions; its numbers mean nothing"


def reproduce(
    table: Annotated[
        str | None, typer.Argument(metavar="TABLE", help="E.g. table2; without it, all are listed.")
    ] = None,
    overrides: Overrides = None,
    task: Annotated[str | None, typer.Option(help="One of the paper's tasks; the recipe's own if not given.")] = None,
    student: Annotated[str | None, typer.Option(help="Only the arms of this model, e.g. flan-t5-small.")] = None,
    data: Annotated[Path, typer.Option(help="Where `mentorkd data paper` put the data.")] = Path("data"),
    folder: RunOption = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Tiny models of random weights, 8 questions: only whether it runs.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run a table or figure of the paper, or read the finished run, and print its numbers beside the paper's."""
    from mentorkd.cli.paper_tables import beside_the_paper, fill_in, lacking, of_student, own_task, without

    recipes = {name.removeprefix(PAPER): path for name, path in shipped_recipes().items() if name.startswith(PAPER)}
    if table is None:
        for name, path in recipes.items():
            print(f"{name:<10}{path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")
        return
    table = SAME.get(table, table)
    if table not in recipes:
        raise RunError(f"got {table}; expected one of {', '.join([*recipes, *SAME])}")
    known = find_task(task or own_task(recipes[table]))
    if known is None:
        raise RunError(f"got --task {task}; expected one of {', '.join(PAPER_TASKS)}")
    root = folder or Path("runs") / "paper" / f"{table}-{known.key}{'-smoke' if smoke else ''}"

    def filled(*, smoke: bool) -> Recipe:
        return fill_in(recipes[table], known, data=data, root=root, smoke=smoke, overrides=overrides or ())

    whole = filled(smoke=smoke)
    if student is not None:
        kept = of_student(filled(smoke=False), student)  # shrunk models have lost their names
        whole = without(whole, [name for name in whole.learners if name not in kept])
    left_out = lacking(whole, root, fetch=f"mentorkd data paper {data}")
    recipe = without(whole, left_out)
    ran = _run(recipe, root, quiet, as_json)["learners"] if recipe.learners else []
    rows = beside_the_paper(whole, table, known, ran, left_out)
    notes = _notes(rows, smoke)
    if as_json:
        print(
            json.dumps(
                {"table": table, "task": known.key, "run": str(root), "rows": [*map(asdict, rows)], "notes": notes}
            )
        )
    else:
        _show(f"{table} on {known.title}", rows, notes, root)
    if not ran:
        raise RunError(f"nothing of {table} on {known.key} could be run: {next(iter(left_out.values()))}")


def _run(recipe: Recipe, root: Path, quiet: bool, as_json: bool) -> Results:
    from mentorkd.pipeline.run import Pipeline
    from mentorkd.reporting import read_results

    reporter = JsonReporter() if as_json else ConsoleReporter(quiet=quiet)
    try:
        Pipeline(recipe, root, reporter).run()
    finally:
        reporter.close()
    return read_results(root / "report")


def _notes(rows: Sequence[Row], smoke: bool) -> list[str]:
    notes = [f"{row.learner}: {row.why}" for row in rows if row.why]
    if any(row.paper for row in rows):
        notes.append(PAPERS)
    if any(number and number.selected_on_test for row in rows for number in (row.paper, row.ours)):
        notes.append(ON_TEST)
    return notes + [SMOKE] * smoke


def _show(title: str, rows: Sequence[Row], notes: Sequence[str], root: Path) -> None:
    show_table(
        title,
        ["", "paper %", "95 %", "here %", "95 %", "seeds"],
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
        print(note if note.startswith("*") else f"! {note}")
    if (root / "report").is_dir():
        print(f"report: {root / 'report' / 'index.html'}")


def _cells(number: Number) -> tuple[str, str]:
    low, high = (100 * edge for edge in (number.interval.low, number.interval.high))
    return f"{100 * number.accuracy:.1f}{'*' * number.selected_on_test}", f"{low:.1f} - {high:.1f}"
