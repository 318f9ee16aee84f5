"""Ask: a question to a learner of the run, whose text streams in, and is graded if the answer is known."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from mentorkd.errors import MentorkdError
from mentorkd.generation.engine import SamplingParams
from mentorkd.pipeline.opened import OpenedRun
from mentorkd.printable import printable
from mentorkd.recipe.grader import grader_of
from mentorkd.recipe.graph import headline_student
from mentorkd.records import Question
from mentorkd.web.respond import respond
from mentorkd.web.runs import run_of
from mentorkd.web.security import read_form
from mentorkd.web.served import Served

_MOST_TEMPERATURE = 2.0


@dataclass(frozen=True)
class _Asked:
    """A question that was sent."""

    learner: str
    seed: int
    question: str
    answer: str
    temperature: float

    @property
    def model(self) -> str:
        return f"{self.learner}@seed-{self.seed}"


def show_form(request: Request) -> Response:
    """The page with its form, filled in from the query: `question`, `answer`, `model`, `temperature`."""
    address, root = run_of(request)
    return _page(request, address, OpenedRun(root), request.query_params)


def _page(
    request: Request,
    address: str,
    run: OpenedRun,
    fields: Mapping[str, str],
    reply: Mapping[str, Any] | None = None,
) -> Response:
    rows = [{"model": f"{learner}@seed-{seed}", "learner": learner, "seed": seed} for learner, seed in _models(run)]
    first = headline_student(run.recipe)
    default = next((row["model"] for row in rows if row["learner"] == first), rows[0]["model"] if rows else "")
    return respond(
        request,
        "ask.html.jinja",
        {"run": address, "rows": rows} | ({} if reply is None else {"reply": reply}),
        page="ask",
        shown=reply,
        question=fields.get("question", ""),
        answer=fields.get("answer", ""),
        temperature=fields.get("temperature", "0"),
        model=fields.get("model", default),
    )


def _models(run: OpenedRun) -> list[tuple[str, int]]:
    """The learners and seeds that can be asked: those whose training is finished, and those that need none."""
    pairs = [(name, seed) for name in run.recipe.learners for seed in run.recipe.seeds]
    return [pair for pair in pairs if not run.recipe.learners[pair[0]].rationales or run.stage("train", *pair)]


async def answer(request: Request) -> Response:
    """The learner's text: as server-sent events with `?format=json`, else as a whole page.

    An event is a JSON object: `text`, a piece of the text; or the end, with `verdict`, `predicted`, `tokens` and
    `finished`; or `error`.
    """
    address, root = run_of(request)
    fields = await read_form(request)
    run = await run_in_threadpool(OpenedRun, root)
    asked = _read(run, fields)
    events = _stream(request.app.state.served, run, asked)
    if request.query_params.get("format") == "json":
        return StreamingResponse(_as_events(events), media_type="text/event-stream")
    reply: dict[str, Any] = {
        "text": "",
        "error": None,
        "verdict": "ungraded",
        "predicted": None,
        "tokens": 0,
        "finished": True,
    }
    async for event in events:
        reply |= event | ({"text": reply["text"] + event["text"]} if "text" in event else {})
    return await run_in_threadpool(_page, request, address, run, fields, reply)


def _read(run: OpenedRun, fields: Mapping[str, str]) -> _Asked:
    """What a form asks. Raises HTTPException for a field that is missing or wrong."""
    models = {f"{learner}@seed-{seed}": (learner, seed) for learner, seed in _models(run)}
    if (model := fields.get("model", "")) not in models:
        raise HTTPException(
            400, f"got the model {model!r}; expected one of {', '.join(models) or 'none, no training is finished'}"
        )
    if not fields.get("question", "").strip():
        raise HTTPException(400, "got no question; write one")
    try:
        temperature = float(fields.get("temperature") or 0)
    except ValueError:
        temperature = math.nan
    if not 0 <= temperature <= _MOST_TEMPERATURE:
        got = fields["temperature"]
        raise HTTPException(
            400, f"got the temperature {got!r}; expected a number from 0 (greedy) to {_MOST_TEMPERATURE:g}"
        )
    return _Asked(*models[model], fields["question"].strip(), fields.get("answer", "").strip(), temperature)


async def _stream(served: Served, run: OpenedRun, asked: _Asked) -> AsyncIterator[dict[str, Any]]:
    """The events of an answer. Closing it ends the work on the text."""
    tokens = run.recipe.learners[asked.learner].sampling.max_new_tokens
    params = SamplingParams(max_new_tokens=tokens, temperature=asked.temperature)
    text, count, reason = "", 0, None
    try:
        with ExitStack() as stack:
            learners = await run_in_threadpool(stack.enter_context, served.of(run.root))
            deltas = learners.stream(asked.model, asked.question, params)
            async with aclosing(deltas):
                async for delta in deltas:
                    text, count, reason = text + delta.text, count + delta.tokens, delta.finish_reason or reason
                    if delta.text:
                        yield {"text": printable(delta.text)}
        graded = await run_in_threadpool(_grade, run, asked, text)
        yield {"end": True, **graded, "tokens": count, "finished": reason == "stop"}
    except MentorkdError as error:
        yield {"error": str(error)}


async def _as_events(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    async for event in events:
        yield f"data: {json.dumps(event, ensure_ascii=False)}\n\n"


def _grade(run: OpenedRun, asked: _Asked, text: str) -> dict[str, Any]:
    """The answer that is found in a text, and the verdict on it; `ungraded` without a known answer."""
    question = Question.create(asked.question, asked.answer, "test" if asked.answer else "unlabelled")
    graded = grader_of(run.recipe.task)(text, question)
    return {"predicted": graded.predicted, "verdict": graded.verdict}


ROUTES = [
    Route("/run/{run:path}/ask", show_form, methods=["GET"]),
    Route("/run/{run:path}/ask", answer, methods=["POST"]),
]
