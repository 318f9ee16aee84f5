"""An OpenAI-compatible endpoint over the learners of a run: models, completions and chat completions.

The shapes are those of https://platform.openai.com/docs/api-reference. A field that would change the text and is not served is
refused, never ignored. Without a `temperature`, decoding is greedy, as the learners were evaluated.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mentorkd.errors import MentorkdError
from mentorkd.generation.batcher import MOST_WAITING, OverloadedError
from mentorkd.generation.engine import LEAST_TEMPERATURE, FinishReason, SamplingParams
from mentorkd.web.security import Guard
from mentorkd.web.serving import Delta, Prompt, RequestError, ScoredToken, ServedModels, UnknownModelError

MOST_BYTES = 16 << 20
"""Longest body of a request."""

_NEUTRAL: Mapping[str, Sequence[Any]] = {
    "frequency_penalty": [0],
    "presence_penalty": [0],
    "repetition_penalty": [1],
    "min_p": [0],
    "logit_bias": [{}],
    "best_of": [1],
    "echo": [False],
    "suffix": [""],
    "response_format": [{"type": "text"}],
    "tools": [[]],
    "tool_choice": ["none", "auto"],
}
"""Fields that are not served, with the values that change nothing."""
_WITHOUT_EFFECT = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "parallel_tool_calls",
}
"""Fields that have nothing to do with the text."""

_Stops = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    BeforeValidator(lambda stop: [stop] if isinstance(stop, str) else stop),
    Field(max_length=16),
]


def _not_too_low(temperature: float) -> float:
    if 0 < temperature < LEAST_TEMPERATURE:
        raise PydanticCustomError("temperature", f"Input should be 0 (greedy), or at least {LEAST_TEMPERATURE}")
    return temperature


def _is_text(prompt: Any) -> Any:
    for each in prompt if isinstance(prompt, list) else [prompt]:
        if not isinstance(each, str):
            raise PydanticCustomError("prompt", "expected a text or a list of texts; token ids are not served")
    return prompt


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    include_usage: bool = False


class _Fields(BaseModel):
    """What both kinds of requests have. A field that is null has its default."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    n: int = Field(default=1, ge=1, le=128)
    temperature: Annotated[float, AfterValidator(_not_too_low)] = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=-1)
    max_tokens: int | None = Field(default=None, ge=1)
    stop: _Stops = Field(default_factory=list)
    seed: int | None = None
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()
    raw: bool = False
    """Leave out the learner's prompt template."""

    @property
    def limit(self) -> int | None:
        """The longest text."""
        return self.max_tokens

    def prompts(self) -> list[Prompt]:
        raise NotImplementedError

    def likeliest(self) -> int | None:
        """How many of the likeliest tokens to tell at each place; None for no log-probabilities."""
        raise NotImplementedError


class _CompletionFields(_Fields):
    prompt: Annotated[str | Annotated[list[str], Field(min_length=1)], BeforeValidator(_is_text)]
    logprobs: int | None = Field(default=None, ge=0, le=20)

    def prompts(self) -> list[Prompt]:
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)

    def likeliest(self) -> int | None:
        return self.logprobs


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, content: Any) -> Any:
        """Text may come in parts."""
        if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            return "".join(str(part.get("text", "")) for part in content)
        return content


class _ChatFields(_Fields):
    messages: Annotated[list[_Message], Field(min_length=1)]
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    @property
    def limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def prompts(self) -> list[Prompt]:
        return [[message.model_dump() for message in self.messages]]

    def likeliest(self) -> int | None:
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("`top_logprobs` needs `logprobs: true`", "top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


@dataclass
class _Choice:
    """One text of a reply, or one piece of it."""

    index: int
    text: str = ""
    scored: list[ScoredToken] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    begins: bool = True
    """Whether the text begins with this piece."""

    def common(self, logprobs: Any) -> dict[str, Any]:
        return {"index": self.index, "logprobs": logprobs, "finish_reason": self.finish_reason}


class _Completions:
    """The shapes of `/v1/completions`."""

    fields = _CompletionFields
    prefix, whole_object, piece_object = "cmpl", "text_completion", "text_completion"

    @staticmethod
    def whole(choice: _Choice) -> dict[str, Any]:
        return {"text": choice.text, **choice.common(_token_lists(choice) if choice.scored else None)}

    piece = whole


class _Chats:
    """The shapes of `/v1/chat/completions`."""

    fields = _ChatFields
    prefix, whole_object, piece_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    @staticmethod
    def whole(choice: _Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return {"message": message, **choice.common(_token_objects(choice))}

    @staticmethod
    def piece(choice: _Choice) -> dict[str, Any]:
        role = {"role": "assistant"} if choice.begins else {}
        return {"delta": {**role, "content": choice.text}, **choice.common(_token_objects(choice))}


def _token_objects(choice: _Choice) -> dict[str, Any] | None:
    """Log-probabilities as a chat has them."""

    def scored(spelling: bytes, logprob: float) -> dict[str, Any]:
        return {"token": spelling.decode(errors="replace"), "bytes": list(spelling), "logprob": logprob}

    content = [
        {**scored(token.spelling, token.logprob), "top_logprobs": [scored(*other) for other in token.likeliest]}
        for token in choice.scored
    ]
    return {"content": content, "refusal": None} if content else None


def _token_lists(choice: _Choice) -> dict[str, Any]:
    """Log-probabilities as completions have them: the likeliest tokens at a place include the own one."""
    return {
        "tokens": [_escaped(token.spelling) for token in choice.scored],
        "token_logprobs": [token.logprob for token in choice.scored],
        "top_logprobs": [
            {_escaped(spelling): logprob for spelling, logprob in [(token.spelling, token.logprob), *token.likeliest]}
            for token in choice.scored
        ],
        "text_offset": [token.offset for token in choice.scored],
    }


def _escaped(spelling: bytes) -> str:
    """A token as text; OpenAI's way for one that holds a part of a character."""
    try:
        return spelling.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelling)


_Api = type[_Completions] | type[_Chats]


class Endpoint:
    """The three addresses below `/v1`."""

    def __init__(self, served: ServedModels) -> None:
        self._served = served
        self._started = int(time.time())

    @property
    def routes(self) -> list[Route]:
        return [
            Route("/v1/models", self.models),
            Route("/v1/models/{model}", self.model),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chats, methods=["POST"]),
        ]

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._described(model) for model in self._served.models()]})

    async def model(self, request: Request) -> Response:
        model = request.path_params["model"]
        self._served.max_new_tokens(model)
        return JSONResponse(self._described(model))

    def _described(self, model: str) -> dict[str, Any]:
        return {"id": model, "object": "model", "created": self._started, "owned_by": "mentorkd"}

    async def completions(self, request: Request) -> Response:
        return await self._answer(request, _Completions)

    async def chats(self, request: Request) -> Response:
        return await self._answer(request, _Chats)

    async def _answer(self, request: Request, api: _Api) -> Response:
        fields = api.fields(**await _read(request))
        head = {"id": f"{api.prefix}-{uuid4().hex}", "created": int(time.time()), "model": fields.model}
        deltas = self._deltas(fields)
        if not fields.stream:
            return await _unless_gone(request, _whole(deltas, fields, api, head))
        return await _unless_gone(request, _stream(deltas, fields, api, head))

    async def _deltas(self, fields: _Fields) -> AsyncGenerator[tuple[int, Delta], None]:
        """The pieces of all texts as they come, each with the number of its prompt."""
        prompts, limit = fields.prompts(), self._served.max_new_tokens(fields.model)
        if len(prompts) * fields.n > MOST_WAITING:
            raise RequestError(
                f"got {len(prompts):,} prompts with n={fields.n}; expected at most {MOST_WAITING:,} texts of a request",
                "prompt",
            )
        try:
            params = SamplingParams(
                n=fields.n,
                temperature=fields.temperature,
                top_p=fields.top_p,
                top_k=max(fields.top_k, 0),
                max_new_tokens=fields.limit or limit,
            )
        except MentorkdError as error:  # several greedy samples: all else is known to be in range
            raise RequestError(str(error), "n") from None
        streams = [
            self._served.stream(
                fields.model,
                prompt,
                params,
                raw=fields.raw,
                stop=fields.stop,
                seed=fields.seed,
                likeliest=fields.likeliest(),
                at_once=not fields.stream,
            )
            for prompt in prompts
        ]
        async with aclosing(_merged(streams)) as merged:
            async for numbered in merged:
                yield numbered


async def _merged(streams: Sequence[AsyncGenerator[Delta, None]]) -> AsyncGenerator[tuple[int, Delta], None]:
    """What several streams give, as it comes, each piece with the number of its stream. An error of one ends all."""
    queue: asyncio.Queue[tuple[int, Delta | BaseException | None]] = asyncio.Queue()

    async def drain(number: int, stream: AsyncGenerator[Delta, None]) -> None:
        end: BaseException | None = None
        try:
            async with aclosing(stream):
                async for delta in stream:
                    queue.put_nowait((number, delta))
        except Exception as error:
            end = error
        queue.put_nowait((number, end))

    tasks = [asyncio.create_task(drain(number, stream)) for number, stream in enumerate(streams)]
    try:
        unfinished = len(tasks)
        while unfinished:
            number, item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                unfinished -= 1
            else:
                yield number, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class _Usage:
    """Tokens of the prompts and of the texts."""

    prompts: dict[int, int] = field(default_factory=dict)
    completion: int = 0

    def add(self, prompt: int, delta: Delta) -> None:
        self.prompts[prompt] = delta.prompt_tokens
        self.completion += delta.tokens

    def as_json(self) -> dict[str, int]:
        prompt = sum(self.prompts.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.completion,
            "total_tokens": prompt + self.completion,
        }


_Deltas = AsyncGenerator[tuple[int, Delta], None]


async def _whole(deltas: _Deltas, fields: _Fields, api: _Api, head: Mapping[str, Any]) -> Response:
    """The reply with all texts."""
    usage, choices = _Usage(), [_Choice(index) for index in range(fields.n * len(fields.prompts()))]
    async with aclosing(deltas):
        async for prompt, delta in deltas:
            usage.add(prompt, delta)
            choice = choices[prompt * fields.n + delta.sample]
            choice.text += delta.text
            choice.scored += delta.scored
            choice.finish_reason = delta.finish_reason
    body = {**head, "object": api.whole_object, "choices": list(map(api.whole, choices)), "usage": usage.as_json()}
    return JSONResponse(body)


async def _stream(deltas: _Deltas, fields: _Fields, api: _Api, head: Mapping[str, Any]) -> Response:
    """The reply as a stream. Whatever is wrong with the request shows before it begins."""
    first = await anext(deltas)
    return StreamingResponse(_events(first, deltas, fields, api, head), media_type="text/event-stream")


async def _events(
    first: tuple[int, Delta], deltas: _Deltas, fields: _Fields, api: _Api, head: Mapping[str, Any]
) -> AsyncGenerator[str, None]:
    """The reply as server-sent events, one for each piece of a text. An error in the middle is the last event."""
    usage, begun = _Usage(), set[int]()
    with_usage = fields.stream_options.include_usage

    def event(choices: list[dict[str, Any]], used: Mapping[str, int] | None = None) -> str:
        chunk = {**head, "object": api.piece_object, "choices": choices}
        return _event(chunk | {"usage": used} if with_usage else chunk)

    try:
        async with aclosing(_behind(first, deltas)) as all_deltas:
            async for prompt, delta in all_deltas:
                usage.add(prompt, delta)
                if not (delta.text or delta.scored or delta.finish_reason):
                    continue
                index = prompt * fields.n + delta.sample
                piece = _Choice(index, delta.text, list(delta.scored), delta.finish_reason, begins=index not in begun)
                begun.add(index)
                yield event([api.piece(piece)])
        if with_usage:
            yield event([], usage.as_json())
        yield "data: [DONE]\n\n"
    except Exception as error:
        yield _event(_error_of(error)[1])


async def _behind(first: tuple[int, Delta], deltas: _Deltas) -> _Deltas:
    async with aclosing(deltas):
        yield first
        async for delta in deltas:
            yield delta


def _event(value: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def _unless_gone(request: Request, reply: Coroutine[Any, Any, Response]) -> Response:
    """A reply, unless the client hangs up before: its work ends then."""
    work = asyncio.create_task(reply)
    gone = asyncio.create_task(_hangs_up(request))
    try:
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        return await work if work.done() else Response(status_code=499)
    finally:
        work.cancel()
        gone.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _hangs_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _read(request: Request) -> dict[str, Any]:
    """The fields of a request that change something. Raises RequestError for a body that is no JSON object, or too long."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise HTTPException(413, f"the request has more than {MOST_BYTES:,} bytes")
    try:
        fields = json.loads(body)
        json.dumps(fields, ensure_ascii=False).encode()  # "\ud800" is half a character
    except UnicodeError:
        raise RequestError(
            "the body has text that is not Unicode; expected UTF-8, and surrogates in pairs", "body"
        ) from None
    except (ValueError, RecursionError):
        raise RequestError("the body is not JSON", "body") from None
    if not isinstance(fields, dict):
        raise RequestError(f"the body is {type(fields).__name__}; expected an object", "body")
    given = {name: value for name, value in fields.items() if value is not None and name not in _WITHOUT_EFFECT}
    for name, values in _NEUTRAL.items():
        if name in given and (value := given.pop(name)) not in values:
            neutral = " or ".join(map(json.dumps, values))
            raise RequestError(
                f"got `{name}`: {json.dumps(value)[:80]}, which is not served; leave it out ({neutral})", name
            )
    return given


def _error_of(error: Exception) -> tuple[int, dict[str, Any]]:
    """The status of an error and its object, as OpenAI's clients read it."""
    status, kind, param, code = 500, "server_error", None, None
    match error:
        case ValidationError():
            fault = error.errors(include_url=False, include_input=False)[0]
            param = ".".join(map(str, fault["loc"]))
            status, kind, message = 400, "invalid_request_error", f"`{param}`: {fault['msg']}"
        case UnknownModelError():
            status, kind, param, code, message = (
                404,
                "invalid_request_error",
                error.field,
                "model_not_found",
                str(error),
            )
        case RequestError():
            status, kind, param, message = 400, "invalid_request_error", error.field, str(error)
        case OverloadedError():
            status, kind, code, message = 429, "overloaded_error", "overloaded", str(error)
        case HTTPException():
            status, kind, message = error.status_code, "invalid_request_error", error.detail
        case MentorkdError():
            message = str(error)
        case _:
            message = f"{type(error).__name__}; the server's output has the details"
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def _reply_error(request: Request, error: Exception) -> Response:
    status, body = _error_of(error)
    return JSONResponse(body, status, headers={"Retry-After": "1"} if status == 429 else None)


async def _reply_to_nobody(request: Request, error: Exception) -> Response:
    """To a client that hung up in the middle of its request."""
    return Response(status_code=499)


def build_endpoint(served: ServedModels, *, token: str | None, host: str, port: int) -> Starlette:
    """The application of `mentorkd serve`, for a server at `host` and `port`; `token` is the key that clients need, if any."""
    return Starlette(
        routes=Endpoint(served).routes,
        middleware=[Middleware(Guard, host=host, port=port, token=token)],
        exception_handlers={
            **dict.fromkeys([Exception, HTTPException, MentorkdError, ValidationError], _reply_error),
            ClientDisconnect: _reply_to_nobody,
        },
    )
