"""A careful client of OpenAI-compatible endpoints: nothing is paid for twice, no limit is crossed, no reply crashes it.

A request is looked up in the cache; else it waits for room in flight, for the budget, for its ledger entry to be on
disk and for the rate limits, is sent once, and is settled together with its reply before anyone sees the reply. The
`openai` package does the transport; its own retries are off, since each attempt is counted here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from types import TracebackType
from typing import Any

from mentorkd.data.prompts import cut_at
from mentorkd.errors import MissingExtraError, TeacherError
from mentorkd.recipe.teacher import OpenAITeacherConfig
from mentorkd.teachers.annotation import Answer
from mentorkd.teachers.cache import Reply, RequestCache, request_key
from mentorkd.teachers.dry_run import characters_as_tokens
from mentorkd.teachers.limits import Budget, CircuitBreaker, RateLimiter, Spending, backoff, picodollars
from mentorkd.teachers.wire import Body, Fault, build_request, judge_status, most_tokens, read_body, scrubber

__all__ = ["OpenAIClient", "StoppedError", "Traffic", "read_key"]

log = logging.getLogger(__name__)


class StoppedError(TeacherError):
    """The client was stopped before this request was sent."""


HOPELESS_AFTER = 20
"""Requests that are given up in a row, without a reply between, after which the endpoint counts as down."""
_CHAT_OVERHEAD = 64
"""Tokens that a chat template may add around a message."""


@dataclass(slots=True)
class Traffic:
    """Counts of this client: requests sent, answers from the cache, faults met by kind."""

    sent: int = 0
    cached: int = 0
    faults: Counter[str] = field(default_factory=Counter)


def read_key(variable: str | None) -> str | None:
    """The key in an environment variable (None: the endpoint asks for none). TeacherError if it is absent or unfit."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise TeacherError(
            f"the environment variable {variable} is not set; put the endpoint's key there, "
            "or say `api_key_env: null` if it asks for none"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise TeacherError(f"the environment variable {variable} holds no key: it has spaces or unprintable characters")
    return key


class OpenAIClient:
    """Asks one endpoint, within the recipe's limits; made and used inside one event loop.

    `count_tokens` estimates the tokens of a prompt for the rate limit; the budget reserves an upper bound instead.
    """

    def __init__(
        self,
        teacher: OpenAITeacherConfig,
        cache: RequestCache,
        *,
        count_tokens: Callable[[str], int] = characters_as_tokens,
        first_backoff: float = 0.5,
    ) -> None:
        key = read_key(teacher.api_key_env)
        self.traffic = Traffic()
        self.breaker = CircuitBreaker(teacher.concurrency, sleep=self._pause)
        self._teacher = teacher
        self._stops = teacher.stops(base=teacher.endpoint == "completions")
        self._cache = cache
        self._count_tokens = count_tokens
        self._first_backoff = first_backoff
        self._rng = random.Random()
        self._scrub = scrubber(key)
        self._stopped = asyncio.Event()
        self._pacer = RateLimiter(teacher.requests_per_minute, teacher.tokens_per_minute, sleep=self._pause)
        price = teacher.price
        self._input_price = 0 if price is None else picodollars(price.input, per=10**6)
        self._output_price = 0 if price is None else picodollars(price.output, per=10**6)
        self.budget = Budget(
            cache.spending(),
            requests=teacher.budget.requests,
            tokens=teacher.budget.tokens,
            dollars=teacher.budget.dollars,
            how_to_go_on=f"every reply is kept in {cache.path}; raise `teacher.budget` and run again to go on",
        )
        self._excess = (0, 0)
        self._given_up_in_a_row = 0
        self._flights: dict[tuple[str, int], asyncio.Task[Answer | Fault]] = {}
        # The samples of a question follow one another.
        self._identify = lru_cache(maxsize=1024)(partial(_identify, teacher))
        self._transport = _open_transport(teacher, key)

    async def __aenter__(self) -> OpenAIClient:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self._transport.close()

    def stop(self) -> None:
        """Send nothing more: what is in flight ends as usual, what waits to be sent raises StoppedError."""
        self._stopped.set()

    async def ask(self, prompt: str, sample: int, *, max_tokens: int, temperature: float) -> Answer | Fault:
        """The answer to a prompt's sample: from the cache, from a request in flight for the same, or by a new request.

        A Fault says why the request was given up. Raises BudgetError before a request that could cross the budget,
        TeacherError when no request can succeed, and StoppedError after `stop`.
        """
        request, key = self._identify(prompt, max_tokens, temperature)
        known = self._cache.get(key, sample)
        if known is not None:
            self.traffic.cached += 1
            return Answer(key, self._ended(known), cached=True)
        flight = self._flights.get((key, sample))
        if flight is None:
            flight = asyncio.create_task(self._ask_endpoint(request, key, sample, prompt, max_tokens))
            self._flights[key, sample] = flight
            flight.add_done_callback(lambda _: self._flights.pop((key, sample)))
        return await flight

    async def _ask_endpoint(
        self, request: Mapping[str, Any], key: str, sample: int, prompt: str, longest: int
    ) -> Answer | Fault:
        attempt = 0
        while True:
            outcome = await self._attempt(request, sample, prompt, longest)
            if isinstance(outcome, Reply):
                self._given_up_in_a_row = 0
                return Answer(key, self._ended(outcome))
            self.traffic.faults[outcome.kind] += 1
            if outcome.kind == "fatal":
                raise TeacherError(
                    f"{request['endpoint']}: {outcome.message} (what was got is kept in {self._cache.path})"
                )
            too_long = outcome.retry_after > self._teacher.max_wait
            if outcome.kind == "rejected" or attempt == self._teacher.retries or too_long:
                return self._give_up(request, outcome)
            wait = backoff(attempt, self._rng, base=self._first_backoff)
            if outcome.retry_after:
                # The others were told the same time; without jitter all would be back at once.
                wait = outcome.retry_after + min(wait, 0.1 + 0.1 * outcome.retry_after)
            await self._pause(wait)
            attempt += 1

    def _give_up(self, request: Mapping[str, Any], fault: Fault) -> Fault:
        self._given_up_in_a_row += 1
        log.warning("gave up a request: %s", fault.message)
        if self._given_up_in_a_row >= HOPELESS_AFTER:
            raise TeacherError(
                f"{request['endpoint']}: {HOPELESS_AFTER} requests in a row got no reply, the last one: "
                f"{fault.message}; what was got is kept in {self._cache.path}: run again when the endpoint is well"
            )
        return fault

    async def _attempt(self, request: Mapping[str, Any], sample: int, prompt: str, longest: int) -> Reply | Fault:
        worst = self._worst(prompt, longest)
        reserved = self._count_tokens(prompt) + longest
        outcome: Reply | Fault | None = None
        epoch = await self.breaker.enter()
        try:
            await self.budget.reserve(worst)
            if self._stopped.is_set():
                self.budget.settle(worst, Spending())
                raise StoppedError
            cost = Spending()
            pending: int | None = None
            try:
                pending = await asyncio.wrap_future(self._cache.open(worst))
                await self._pacer.start(reserved)
                self.traffic.sent += 1
                cost = worst + Spending(unsure_picodollars=worst.picodollars)
                outcome = self._booked(await self._send(request), prompt, longest)
                if isinstance(outcome, Reply):
                    cost = self._price(1, outcome.input_tokens, outcome.output_tokens)
                    self._pacer.settle(reserved, cost.tokens)
                elif not outcome.billed:
                    cost = Spending(1)
            finally:
                # Also when this task is cancelled: what was sent stays counted, at its worst.
                self.budget.settle(worst, cost)
                kept = (request, sample, outcome) if isinstance(outcome, Reply) else None
                settled = None if pending is None else self._cache.settle(pending, cost, kept)
            if settled is not None:
                await asyncio.wrap_future(settled)
        finally:
            overloaded = isinstance(outcome, Fault) and outcome.kind == "overloaded"
            told = outcome.retry_after if isinstance(outcome, Fault) else 0.0
            self._leave(epoch, False if overloaded else (True if isinstance(outcome, Reply) else None), told)
        return outcome

    def _ended(self, reply: Reply) -> Reply:
        """A reply up to the first of the texts that end one: some endpoints know no `stop`."""
        before = cut_at(reply.text, self._stops)
        if before is None:
            return reply
        return replace(
            reply, text=before, finish_reason="stop" if reply.finish_reason == "length" else reply.finish_reason
        )

    async def _pause(self, seconds: float) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)
            raise StoppedError

    def _leave(self, epoch: int, outcome: bool | None, told: float) -> None:
        overloads = self.breaker.overloads
        self.breaker.leave(epoch, outcome, min(told, self._teacher.max_wait))
        if self.breaker.overloads > overloads:
            log.warning("the endpoint is overloaded; all requests pause, then go on slowly")

    def _booked(self, got: Body | Fault, prompt: str, longest: int) -> Reply | Fault:
        """A reply with its tokens known, or bounded where the endpoint told none."""
        if isinstance(got, Fault):
            return Fault(got.kind, self._scrub(got.message), got.billed, got.retry_after)
        told = got.input_tokens is not None and got.output_tokens is not None
        bound = self._worst(prompt, longest)
        read = got.input_tokens if got.input_tokens is not None else bound.input_tokens
        written = got.output_tokens if got.output_tokens is not None else min(most_tokens(got.text) + 1, longest)
        if told:
            # An endpoint that counts more than our bounds (a hidden system prompt, say) will do so again.
            more_read, more_written = read - bound.input_tokens, written - bound.output_tokens
            self._excess = (self._excess[0] + max(0, more_read), self._excess[1] + max(0, more_written))
        text, reason, model = map(self._scrub, (got.text, got.finish_reason, got.model))
        return Reply(text, reason, read, written, not told, model)

    def _clean(self, content: bytes) -> bytes:
        # Before anything is cut out of it to be shown: half a key would not be found.
        return self._scrub(content.decode(errors="replace")).encode()

    def _worst(self, prompt: str, longest: int) -> Spending:
        """The most a request can cost."""
        teacher, (more_read, more_written) = self._teacher, self._excess
        read = most_tokens(prompt) + most_tokens(teacher.system or "") + _CHAT_OVERHEAD + more_read
        return self._price(1, read, longest + more_written)

    def _price(self, requests: int, read: int, written: int) -> Spending:
        return Spending(requests, read, written, read * self._input_price + written * self._output_price)

    async def _send(self, request: Mapping[str, Any]) -> Body | Fault:
        """One HTTP request; every way it can fail becomes a Fault."""
        import openai

        create: Callable[..., Awaitable[Any]] = (
            self._transport.chat.completions.with_raw_response.create
            if self._teacher.endpoint == "chat"
            else self._transport.completions.with_raw_response.create
        )
        fields, extra = dict(request["body"]), self._teacher.extra_body
        fields = {name: value for name, value in fields.items() if name not in extra}
        try:
            # The transport's own limit is the gentle one; this one is for replies that trickle in without end.
            raw = await asyncio.wait_for(create(**fields, extra_body=extra or None), 2 * self._teacher.timeout)
            return read_body(self._clean(raw.http_response.content))
        except openai.APIStatusError as error:
            response = error.response
            return judge_status(response.status_code, response.headers, self._clean(response.content))
        except (asyncio.TimeoutError, openai.APITimeoutError) as error:
            never_sent = type(error.__cause__).__name__ in ("ConnectTimeout", "PoolTimeout")
            return Fault("timeout", f"no reply within {self._teacher.timeout:g} s", billed=not never_sent)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            never_sent = type(cause).__name__ == "ConnectError"
            return Fault(
                "connection", f"the connection failed ({type(cause).__name__}: {cause})", billed=not never_sent
            )
        except openai.OpenAIError as error:
            return Fault("malformed", f"{type(error).__name__}: {error}", billed=True)


def _identify(
    teacher: OpenAITeacherConfig, prompt: str, max_tokens: int, temperature: float
) -> tuple[Mapping[str, Any], str]:
    request = build_request(teacher, prompt, max_tokens=max_tokens, temperature=temperature)
    return request, request_key(request)


def _open_transport(teacher: OpenAITeacherConfig, key: str | None) -> Any:
    try:
        import openai
    except ImportError:
        raise MissingExtraError("teacher: {kind: openai}", "openai") from None
    return openai.AsyncOpenAI(
        api_key=key or "none",
        base_url=teacher.base_url,
        max_retries=0,
        timeout=teacher.timeout,
    )
