"""The first page: every run, filtered and sorted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mentorkd.web.respond import respond
from mentorkd.web.runs import Runs
from mentorkd.web.summary import RunRow, summarise

_STATES = ("running", "finished", "stopped", "new")
_COLUMNS = [field.name for field in fields(RunRow)]


def show_runs(request: Request) -> Response:
    """The runs in the given folders. `q` has words of the address, task or headline; `state` a state; `sort` a column, `-` before it
    for the largest first."""
    query = request.query_params
    state, words, sort = query.get("state", ""), query.get("q", ""), query.get("sort", "-changed")
    left_out: list[str] = []
    every = list(_rows(request.app.state.runs, left_out))
    rows = [row for row in every if state in ("", row.state) and _has(row, words)]
    value = {"rows": [asdict(row) for row in _sorted(rows, sort)], "left_out": left_out}
    counts = {each: sum(row.state == each for row in every) for each in _STATES}
    folders = list(request.app.state.runs.folders.values())
    return respond(
        request,
        "runs.html.jinja",
        value,
        counts=counts,
        total=len(every),
        state=state,
        q=words,
        sort=sort,
        folders=folders,
    )


def _rows(runs: Runs, left_out: list[str]) -> Iterator[RunRow]:
    """The line of every run; of one that cannot be read, a line of `left_out`."""
    for run, folder in runs.find(left_out):
        try:
            yield summarise(run, folder)
        except OSError as error:
            left_out.append(f"got {str(folder)!r}, which cannot be read: {error.strerror}")


def _has(row: RunRow, words: str) -> bool:
    text = f"{row.run} {row.task} {row.headline} {row.learner}".lower()
    return all(word in text for word in words.lower().split())


def _sorted(rows: Sequence[RunRow], sort: str) -> list[RunRow]:
    """The rows by a column; those without a value come last. Raises HTTPException for an unknown column."""
    column = sort.removeprefix("-")
    if column not in _COLUMNS:
        raise HTTPException(
            400, f"got sort={sort}; expected one of {', '.join(_COLUMNS)}, with - for the largest first"
        )
    known = [row for row in rows if getattr(row, column) is not None]
    known.sort(key=lambda row: getattr(row, column), reverse=sort.startswith("-"))
    return [*known, *(row for row in rows if getattr(row, column) is None)]


ROUTES = [Route("/", show_runs)]
