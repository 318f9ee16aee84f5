"""A rationale token by token: where a student does not follow its mentors, and what each would write instead."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping
from dataclasses import asdict, replace
from threading import Lock
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mentorkd.data.rows import Rows
from mentorkd.errors import RunError
from mentorkd.records import Rationale
from mentorkd.web.divergences import keep_divergences
from mentorkd.web.pages.rationales import MEASURED_AT_ONCE, Opened, open_rationales, view_of
from mentorkd.web.respond import here, respond, run_url
from mentorkd.web.security import read_form
from mentorkd.web.table import TableRow
from mentorkd.web.table_files import KEPT, OVERLAY

if TYPE_CHECKING:
    from mentorkd.web.tokens import Student, Students, TextView

_SHADES = (0.05, 0.15, 0.4, 1.0, 2.0, 4.0)
"""Lower ends of the shades of a token, in nats."""


def show_tokens(request: Request) -> Response:
    """The page of a `rationale`, as a `reader` learns it."""
    opened = open_rationales(request)
    if isinstance(opened, Response):
        return opened
    id = request.query_params.get("rationale", "")
    numbers = opened.table.find([id])
    if not numbers:
        raise HTTPException(404, f"got the rationale {id!r}, which the run does not have")
    (row,) = opened.table.rows(numbers[:1])
    outcomes = zip(opened.written.readers, row.outcomes, strict=True)
    readers = [reader for reader, outcome in outcomes if outcome not in (None, OVERLAY)]
    if not readers:
        raise RunError(
            "no trained learner was given this text" + (": it was rejected" if OVERLAY in row.outcomes else "")
        )
    if opened.written.readers[opened.reader] not in readers:
        opened = replace(opened, reader=opened.written.readers.index(readers[-1]))
    reader = opened.written.readers[opened.reader]
    student = students_of(request).get(opened.run, reader.training)
    read = _as_read(opened, row)
    text = _look(opened, student, row, read)
    rows = [asdict(token) | {"kl": token.kl} for token in text.tokens]
    value = {"run": opened.address, "rationale": id, "learner": reader.name, "kl": text.kl, "prompt": text.prompt}
    value |= {"edited": read.id != row.rationale.id, "verdict": read.verdict, "predicted": read.predicted}
    return respond(
        request,
        "tokens.html.jinja",
        value | {"notes": list(text.notes), "rows": rows},
        **opened.context,
        row=row,
        author=opened.written.texts[row.file].author,
        readers=readers,
        text=text,
        shades=_SHADES,
        shade=_shade,
    )


async def measure(request: Request) -> Response:
    """Measure the divergence of the first rationales of a view that its reader kept, and go back to the view, sorted by it."""
    form = await read_form(request)
    return await run_in_threadpool(_measure, request, form)


def _measure(request: Request, form: Mapping[str, str]) -> Response:
    opened = open_rationales(request)
    if isinstance(opened, Response):
        return opened
    reader = opened.written.readers[opened.reader]
    student = students_of(request).get(opened.run, reader.training)
    kl: dict[str, float] = {}
    order = opened.table.order(view_of(request, opened))
    for start in range(0, len(order), MEASURED_AT_ONCE):
        for row in opened.table.rows(order[start : start + MEASURED_AT_ONCE]):
            if row.outcomes[opened.reader] == KEPT and row.kl[opened.reader] is None and len(kl) < MEASURED_AT_ONCE:
                read_id = opened.table.read_id(opened.reader, row)
                if read_id is not None and (mean := _look(opened, student, row, _as_read(opened, row)).kl) is not None:
                    kl[read_id] = mean
        if len(kl) >= MEASURED_AT_ONCE or start >= 20 * MEASURED_AT_ONCE:
            break
    if not kl:
        raise RunError(f"no further rationale of this view has soft labels that {reader.name} imitated")
    keep_divergences(opened.run, reader.training, kl)
    opened.table.keep_divergences(opened.reader, kl)
    return RedirectResponse(run_url(opened.address, "rationales") + here(request, sort="-kl", page=None), 303)


_MAKING = Lock()


def students_of(request: Request) -> Students:
    """The students that this application has loaded. Imported here: it brings torch in."""
    from mentorkd.web.tokens import Students

    state = request.app.state
    with _MAKING:
        if not hasattr(state, "students"):
            state.students = Students()
    students: Students = state.students
    return students


def _look(opened: Opened, student: Student, row: TableRow, read: Rationale) -> TextView:
    source = student.source_of(opened.written.texts[row.file].file.stage)
    return student.look(read, row.question, source)


def _as_read(opened: Opened, row: TableRow) -> Rationale:
    """A rationale as learners read it: with the text that the last run had."""
    read_id, curated = opened.table.read_id(opened.reader, row), opened.written.curated
    if read_id == row.rationale.id:
        return row.rationale
    if read_id is None or curated is None:
        raise RunError("the rationale was rejected, so the learner did not read it")
    return next(each for each in Rows.of_jsonl(curated.path, Rationale) if each.id == read_id)


def _shade(kl: float | None) -> int:
    """The shade of a token: from 0, the lightest."""
    return 0 if kl is None else bisect(_SHADES, kl)


ROUTES = [
    Route("/run/{run:path}/tokens", show_tokens),
    Route("/run/{run:path}/divergences", measure, methods=["POST"]),
]
