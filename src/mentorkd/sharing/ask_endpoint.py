"""An exported folder behind the endpoint of `mentorkd serve`, asked as an OpenAI client asks it, in one process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from starlette.types import ASGIApp, Message

from mentorkd.errors import ModelError
from mentorkd.generation import open_engine
from mentorkd.generation.engine import Completion
from mentorkd.recipe.learner import Learner
from mentorkd.records import Progress, Question
from mentorkd.web.endpoint import build_endpoint
from mentorkd.web.serving import BATCH_SIZE, ServedModel, ServedModels

_HOST, _PORT, _NAME = "127.0.0.1", 8000, "exported"


def ask_endpoint(
    learner: Learner, folder: Path, device: torch.device, questions: Sequence[Question], progress: Progress
) -> list[Completion]:
    """The texts of the model in a Hugging Face folder, greedy, for each question by a chat of one message."""
    opened = partial(open_engine, "transformers", model_dir=folder, device=device, batch_size=BATCH_SIZE)
    served = ServedModels({_NAME: ServedModel(learner, opened)})
    app = build_endpoint(served, token=None, host=_HOST, port=_PORT)
    try:
        return asyncio.run(_ask(app, questions, progress))
    finally:
        served.close()


async def _ask(app: ASGIApp, questions: Sequence[Question], progress: Progress) -> list[Completion]:
    completions: list[Completion] = []
    for start in range(0, len(questions), BATCH_SIZE):
        batch = questions[start : start + BATCH_SIZE]
        completions += await asyncio.gather(*(_complete(app, question.text) for question in batch))
        progress(len(completions), len(questions))
    return completions


async def _complete(app: ASGIApp, question: str) -> Completion:
    turn = {"role": "user", "content": question}
    reply = await _post(app, "/v1/chat/completions", {"model": _NAME, "messages": [turn]})
    [choice] = reply["choices"]
    return Completion(choice["message"]["content"], reply["usage"]["completion_tokens"], choice["finish_reason"])


async def _post(app: ASGIApp, path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The reply to a request. Raises ModelError for a reply that is an error."""
    body: list[Message] = [{"type": "http.request", "body": json.dumps(fields).encode(), "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        if not body:
            await asyncio.Event().wait()  # the client stays until it has its reply
        return body.pop()

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", f"{_HOST}:{_PORT}".encode()), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "client": (_HOST, 0),
        "server": (_HOST, _PORT),
    }
    await app(scope, receive, send)
    reply: dict[str, Any] = json.loads(b"".join(message.get("body", b"") for message in sent))
    if sent[0]["status"] != 200:
        raise ModelError(f"the endpoint cannot serve the exported model: {reply['error']['message']}")
    return reply
