"""The rationales of the teacher and of learners: a table of all, and those of one question side by side, with curation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp
from typing import Any, get_args

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from mentorkd.pipeline.opened import OpenedRun
from mentorkd.pipeline.written import Written, find_written
from mentorkd.recipe.graph import headline_student
from mentorkd.reporting.format import format_count
from mentorkd.web.copies import Making, Tables
from mentorkd.web.curation import MOST_WHY, Curation, Decided
from mentorkd.web.divergences import read_divergences
from mentorkd.web.marks import excerpt, pieces
from mentorkd.web.respond import read_page, respond, run_url, to_csv
from mentorkd.web.runs import run_of
from mentorkd.web.security import read_form
from mentorkd.web.table import DROPPED, RationaleTable, Sort, TableRow, View
from mentorkd.web.table_files import KEPT, OVERLAY

MEASURED_AT_ONCE = 64
"""Rationales whose divergence one request measures."""
_PAGE = 50
_PIECE = 1000
"""Rows of CSV that are written at once."""
_SORTS = {"question": "question", "length": "length", "nll": "perplexity", "kl": "KL"}
_VERDICTS = ("correct", "wrong", "no_answer", "ungraded")
_CURATED = {"decided": "decided", "waiting": "for the next run"}


@dataclass(frozen=True)
class Opened:
    """What the pages of rationales share."""

    address: str
    run: OpenedRun
    written: Written
    table: RationaleTable
    curation: Curation
    reader: int
    """The number of the reader that is looked at."""

    @property
    def has_mentors(self) -> bool:
        """Whether the reader imitates distributions of mentors."""
        if not self.written.readers:
            return False
        learner = self.run.recipe.learners[self.written.readers[self.reader].learner]
        return bool(learner.mentor_weights) and learner.divergence != "hidden_states"

    @property
    def context(self) -> dict[str, Any]:
        """What every template sees."""
        return {
            "page": "rationales",
            "colour": {name: f"c{number % 8}" for number, name in enumerate(self.run.recipe.learners)},
            "written": self.written,
            "reader": self.reader,
            "has_mentors": self.has_mentors,
            "curation": self.curation,
            "excerpt": excerpt,
            "pieces": pieces,
            "exp": exp,
        }


def open_rationales(request: Request) -> Opened | Response:
    """The table of the run that an address names; while its copy is made, the page that tells how far it is, or a line for CSV."""
    address, root = run_of(request)
    run = OpenedRun(root)
    written = find_written(run)
    table = tables_of(request).get(written)
    if isinstance(table, Making):
        if request.query_params.get("format") == "csv":
            line = f"a table of {written.rows:,} rationales is made, once; ask again when it is there\n"
            return PlainTextResponse(line, 503, {"Retry-After": "2"})
        value = {"run": address, "progress": round(table.progress, 2), "rows": []}
        return respond(request, "making.html.jinja", value, status=202, page="rationales", written=written)
    wanted, names = request.query_params.get("reader") or None, [reader.name for reader in written.readers]
    _expect("reader", wanted, names)
    number = names.index(wanted) if wanted else _first_reader(run, written)
    if names and not table.measured(number):
        table.keep_divergences(number, read_divergences(run, written.readers[number].training))
    return Opened(address, run, written, table, Curation(run), number)


def _first_reader(run: OpenedRun, written: Written) -> int:
    """The number of the student of the report's headline, or of any reader; 0 without one."""
    student = headline_student(run.recipe)
    return next((number for number, reader in enumerate(written.readers) if reader.learner == student), 0)


def tables_of(request: Request) -> Tables:
    """The tables that this application has opened."""
    tables: Tables = request.app.state.tables
    return tables


def show_rationales(request: Request) -> Response:
    """The page of all rationales, or of one question (`question`).

    `q`: a part of the text or the question; `by`: who wrote it; `verdict`; `outcome` for the `reader`: `kept`, `dropped`, or a filter;
    `curated`: `decided` or `waiting`; `sort`: question, length, nll or kl, behind a minus for the largest first; `page` from 1. CSV
    without `page` has all rows.
    """
    opened = open_rationales(request)
    if isinstance(opened, Response):
        return opened
    table, view = opened.table, view_of(request, opened)
    if (question := request.query_params.get("question")) is not None:
        return _show_question(request, opened, view, question)
    order = table.order(view)
    if request.query_params.get("format") == "csv" and "page" not in request.query_params:
        return _whole_csv(opened, order.tolist())
    pages = max(1, -(-len(order) // _PAGE))
    number = read_page(request, pages)
    rows = table.rows(order[(number - 1) * _PAGE : number * _PAGE])
    sort = ("-" if view.descending else "") + view.sort
    return respond(
        request,
        "rationales.html.jinja",
        {"run": opened.address, "total": len(order), "rows": [_plain(opened, row) for row in rows]},
        **opened.context,
        table_rows=rows,
        view=view,
        by=request.query_params.get("by", ""),
        curated=request.query_params.get("curated", ""),
        sort=sort,
        sorts=_sorts(opened),
        authors=_authors(opened, table.count("file", view)),
        verdicts=table.count("verdict", view),
        outcomes=_outcomes(table.count("outcome", view)) if opened.written.readers else {},
        curated_choices=_CURATED,
        waiting=len(_waiting(opened)),
        measured_at_once=MEASURED_AT_ONCE,
        number=number,
        pages=pages,
    )


def _whole_csv(opened: Opened, order: Sequence[int]) -> Response:
    """All rows of a view, a piece at a time; an error in a later one ends the answer before its end."""

    def piece(start: int) -> str:
        text = to_csv(_plain(opened, row) for row in opened.table.rows(order[start : start + _PIECE]))
        return text.split("\r\n", 1)[1] if start else text  # all rows have the same header

    def pieces(first: str) -> Iterator[str]:
        yield first
        yield from map(piece, range(_PIECE, len(order), _PIECE))

    return StreamingResponse(pieces(piece(0)), media_type="text/csv")


def _show_question(request: Request, opened: Opened, view: View, id: str) -> Response:
    """All rationales of a question, between its neighbours in the view."""
    numbers = opened.table.of_question(id)
    if not numbers:
        raise HTTPException(404, f"got the question {id!r}, of which the run has no rationale")
    rows = opened.table.rows(numbers)
    before, after, place, total = opened.table.neighbours(view, numbers[0])
    question = rows[0].question
    value = {"run": opened.address, "question": question.text, "answer": question.answer, "split": question.split}
    return respond(
        request,
        "question.html.jinja",
        value | {"rows": [_plain(opened, row) for row in rows]},
        **opened.context,
        table_rows=rows,
        outcomes=[_by_outcome(opened.written, row) for row in rows],
        read=[any(outcome not in (None, OVERLAY) for outcome in row.outcomes) for row in rows],
        most_why=MOST_WHY,
        view=view,
        before=before,
        after=after,
        place=place,
        total=total,
    )


async def decide(request: Request) -> Response:
    """Append a decision about a rationale to the overlay, and go back to the page."""
    form = await read_form(request)
    return await run_in_threadpool(_decide, request, form)


def _decide(request: Request, form: Mapping[str, str]) -> Response:
    opened = open_rationales(request)
    if isinstance(opened, Response):
        return opened
    numbers = opened.table.find([form.get("rationale", "")])
    if not numbers:
        raise HTTPException(404, f"got the rationale {form.get('rationale')!r}, which the run does not have")
    (row,) = opened.table.rows(numbers[:1])
    text = form.get("text", "").replace("\r\n", "\n")
    opened.curation.decide(row.rationale, form.get("action", ""), why=form.get("why", ""), text=text)
    query = form.get("query", "").lstrip("?")
    return RedirectResponse(f"{run_url(opened.address, 'rationales')}?{query}#{row.rationale.id}", 303)


def view_of(request: Request, opened: Opened) -> View:
    """The view that an address asks for. Raises HTTPException for a value that there is not."""
    query, readers = request.query_params, opened.written.readers
    by, verdict, outcome, curated = (query.get(name) or None for name in ("by", "verdict", "outcome", "curated"))
    sort = query.get("sort", "question")
    view = View(search=query.get("q", "").strip(), verdict=verdict, outcome=outcome, reader=opened.reader)
    _expect("verdict", verdict, _VERDICTS)
    _expect("curated", curated, list(_CURATED))
    _expect("sort", sort.removeprefix("-"), get_args(Sort) if readers else ("question", "length"))
    if outcome is not None and not readers:
        raise HTTPException(400, f"got outcome={outcome}, and no learner has read the rationales yet")
    if by is not None:
        texts = enumerate(opened.written.texts)
        files = frozenset(number for number, text in texts if by in (text.author.source, text.author.name))
        _expect("by", by, [] if files else [text.author.name for text in opened.written.texts], known=bool(files))
        view = replace(view, files=files)
    if curated is not None:
        ids = opened.curation.decisions if curated == "decided" else _waiting(opened)
        view = replace(view, ids=frozenset(ids))
    return replace(view, sort=sort.removeprefix("-"), descending=sort.startswith("-"))  # type: ignore[arg-type]


def _expect(name: str, value: str | None, choices: Sequence[str], *, known: bool = False) -> None:
    if value is not None and not known and value not in choices:
        raise HTTPException(400, f"got {name}={value}; expected one of {', '.join(choices)}")


def _waiting(opened: Opened) -> list[str]:
    """The ids of rationales with a decision that the run has not made yet."""
    if not opened.curation.decisions:
        return []
    rows = opened.table.rows(opened.table.find(opened.curation.decisions))
    decided = [(row.rationale.id, opened.curation.decided(row)) for row in rows]
    return [id for id, each in decided if each is not None and each.waits]


def _sorts(opened: Opened) -> dict[str, str]:
    """The orders that make sense."""
    sorts = dict(_SORTS)
    if not opened.table.has_nll(opened.reader):
        del sorts["nll"]
    if not opened.table.measured(opened.reader):
        del sorts["kl"]
    return sorts


def _authors(opened: Opened, counts: Mapping[int, int]) -> dict[str, str]:
    """The choices of who wrote: each source, and each of its files if there are several, with the number of rationales."""
    texts = opened.written.texts
    choices: dict[str, str] = {}
    for source in dict.fromkeys(text.author.source for text in texts):
        own = [(number, text.author.name) for number, text in enumerate(texts) if text.author.source == source]
        choices[source] = f"{source} ({format_count(sum(counts.get(number, 0) for number, _ in own))})"
        if len(own) > 1:
            choices |= {name: f"– {name} ({format_count(counts.get(number, 0))})" for number, name in own}
    return choices


def _outcomes(counts: Mapping[str, int]) -> dict[str, str]:
    """The choices of an outcome, with the number of rationales."""
    dropped = {name: count for name, count in counts.items() if name != KEPT}
    choices = {KEPT: f"kept ({format_count(counts.get(KEPT, 0))})"}
    choices[DROPPED] = f"dropped ({format_count(sum(dropped.values()))})"
    return choices | {name: f"– by {name} ({format_count(count)})" for name, count in dropped.items()}


def _by_outcome(written: Written, row: TableRow) -> dict[str, list[str]]:
    """The readers of a rationale by what became of it for them: learners, with their seeds where these differ in it."""
    groups: dict[str, dict[str, list[int]]] = {}
    seeds: dict[str, int] = {}
    for reader, outcome in zip(written.readers, row.outcomes, strict=True):
        seeds[reader.learner] = seeds.get(reader.learner, 0) + 1
        if outcome is not None:
            groups.setdefault(outcome, {}).setdefault(reader.learner, []).append(reader.seed)

    def name(learner: str, own: Sequence[int]) -> str:
        return learner if len(own) == seeds[learner] else f"{learner} (seed {', '.join(map(str, own))})"

    return {outcome: [name(*each) for each in learners.items()] for outcome, learners in groups.items()}


def _plain(opened: Opened, row: TableRow) -> dict[str, Any]:
    """A row as plain values, for JSON and CSV."""
    rationale, author = row.rationale, opened.written.texts[row.file].author
    decided, readers = opened.curation.decided(row), [reader.name for reader in opened.written.readers]
    return {
        "rationale_id": rationale.id,
        "question_id": row.question.id,
        "question": row.question.text,
        "answer": row.question.answer,
        "by": author.source,
        "seed": author.seed,
        "round": author.round,
        "sample": rationale.sample,
        "text": rationale.text,
        "predicted": rationale.predicted,
        "verdict": rationale.verdict,
        "characters": row.length,
        "overlay": row.overlay,
        **_decision(decided),
        "outcomes": dict(zip(readers, row.outcomes, strict=True)),
        "nll": dict(zip(readers, row.nll, strict=True)),
        "kl": dict(zip(readers, row.kl, strict=True)),
    }


def _decision(decided: Decided | None) -> dict[str, Any]:
    """What was decided about a row, with the edited text as it is graded, and whether the next run changes something."""
    decision, new = (None, None) if decided is None else (decided.decision, decided.new)
    return {
        "decision": decision and decision.action,
        "decided_by": decision and decision.by,
        "decided_at": decision and decision.at,
        "why": decision and decision.why,
        "waits": decided is not None and decided.waits,
        "edited_text": new and new.text,
        "edited_predicted": new and new.predicted,
        "edited_verdict": new and new.verdict,
    }


ROUTES = [
    Route("/run/{run:path}/rationales", show_rationales),
    Route("/run/{run:path}/overlay", decide, methods=["POST"]),
]
