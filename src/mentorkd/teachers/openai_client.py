"""A careful client of OpenAI-compatible endpoints: nothing is paid for twice, no limit is crossed, no reply crashes it.

A request is looked up in the cache first. If it is not there, it waits for room in flight, for the budget, for its ledger
entry to be on disk and for the rate limits. Then it is sent once, and settled together with its reply before the reply is
used. The `openai` package does the transport; its own retries are off, since each attempt is counted here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from mentorkd.data.prompts import cut_at
from mentorkd.data.selection import characters_as_tokens
from mentorkd.errors import TeacherError
from mentorkd.recipe.teacher import OpenAITeacherConfig
from mentorkd.teachers.annotation import Answer
from mentorkd.teachers.cache import Reply, RequestCache, request_key
from mentorkd.teachers.limits import Budget, CircuitBreaker, RateLimiter, Spending, backoff, picodollars
from mentorkd.teachers.wire import Body, Fault, build_request, classify_status, most_tokens, read_body, scrubber

log = logging.getLogger(__name__)


class StoppedError(TeacherError):
    """The client was stopped before this request was sent."""


_HOPELESS_AFTER = 20
"""Requests that are given up in a row, without a reply in between, before the endpoint counts as down."""
_CHAT_OVERHEAD = 64
"""Tokens that a chat template may add around a message."""


def read_key(variable: str | None) -> str | None:
    """The key in an environment variable; None without a variable. Raises TeacherError if the key is absent or unfit."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        hint = "put the endpoint's key there, or set `api_key_env: null` if the endpoint needs none"
        raise TeacherError(f"the environment variable {variable} is not set; {hint}")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise TeacherError(f"the environment variable {variable} holds no key: it has spaces or unprintable characters")
    return key


def price_of(teacher: OpenAITeacherConfig, read: int, written: int) -> int | None:
    """Picodollars for tokens read and tokens written; None without a price."""
    if (price := teacher.price) is None:
        return None
    return read * picodollars(price.input, per=10**6) + written * picodollars(price.output, per=10**6)


class OpenAIClient:
    """Asks one endpoint, within the recipe's limits; created and used inside one event loop.

    `count_tokens` estimates the tokens of a prompt for the rate limit; the budget reserves an upper bound instead.
    `traffic` counts requests sent, answers from the cache, and faults by kind.
    """

    def __init__(
        self,
        teacher: OpenAITeacherConfig,
        cache: RequestCache,
        *,
        count_tokens: Callable[[str], int] = characters_as_tokens,
        first_backoff: float = 0.5,
    ) -> None:
        import openai

        key = read_key(teacher.api_key_env)
        self.traffic = Counter({"sent": 0, "cached": 0})
        self.breaker = CircuitBreaker(teacher.concurrency, sleep=self._pause)
        self._teacher = teacher
        self._stops = teacher.stops(base=teacher.endpoint == "completions")
        self._cache = cache
        self._count_tokens = count_tokens
        self._first_backoff = first_backoff
        self._rng = random.Random()
        self._scrub = scrubber(key)
        self._stopped = asyncio.Event()
        self._rate_limiter = RateLimiter(teacher.requests_per_minute, teacher.tokens_per_minute, sleep=self._pause)
        hint = f"every reply is kept in {cache.path}; raise `teacher.budget` and run again to go on"
        self.budget = Budget(cache.spending(), **teacher.budget.model_dump(), hint=hint)
        self._excess = (0, 0)
        self._given_up = 0
        self._flights: dict[tuple[str, int], asyncio.Task[Answer | Fault]] = {}
        # The samples of a question follow one another.
        self._identify = lru_cache(maxsize=1024)(partial(_identify, teacher))
        self._transport: Any = openai.AsyncOpenAI(
            api_key=key or "none", base_url=teacher.base_url, max_retries=0, timeout=teacher.timeout
        )

    async def __aenter__(self) -> OpenAIClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.close()

    def stop(self) -> None:
        """Send nothing more: requests in flight end as usual, requests that wait raise StoppedError."""
        self._stopped.set()

    async def ask(self, prompt: str, sample: int, *, max_tokens: int, temperature: float) -> Answer | Fault:
        """The answer to a prompt's sample: from the cache, from an equal request in flight, or by a new request.

        Returns a Fault if the request was given up. Raises BudgetError before a request that could cross the budget,
        TeacherError if no request can succeed, and StoppedError after `stop`.
        """
        request, key = self._identify(prompt, max_tokens, temperature)
        known = self._cache.get(key, sample)
        if known is not None:
            self.traffic["cached"] += 1
            return Answer(key, self._cut_at_stop(known), cached=True)
        flight = self._flights.get((key, sample))
        if flight is None:
            flight = asyncio.create_task(self._ask_endpoint(request, key, sample, prompt, max_tokens))
            self._flights[key, sample] = flight
            flight.add_done_callback(lambda _: self._flights.pop((key, sample)))
        return await flight

    async def _ask_endpoint(
        self, request: Mapping[str, Any], key: str, sample: int, prompt: str, longest: int
    ) -> Answer | Fault:
        kept = f"replies so far are kept in {self._cache.path}"
        attempt = 0
        while True:
            outcome = await self._attempt(request, sample, prompt, longest)
            if isinstance(outcome, Reply):
                self._given_up = 0
                return Answer(key, self._cut_at_stop(outcome))
            self.traffic[f"fault_{outcome.kind}"] += 1
            if outcome.kind == "fatal":
                raise TeacherError(f"{request['endpoint']}: {outcome.message} ({kept})")
            too_long = outcome.retry_after > self._teacher.max_wait
            if outcome.kind == "rejected" or attempt == self._teacher.retries or too_long:
                break
            wait = backoff(attempt, self._rng, base=self._first_backoff)
            if outcome.retry_after:
                # Other requests got the same time; without jitter all would come back at once.
                wait = outcome.retry_after + min(wait, 0.1 + 0.1 * outcome.retry_after)
            await self._pause(wait)
            attempt += 1
        self._given_up += 1
        log.warning("gave up a request: %s", outcome.message)
        if self._given_up >= _HOPELESS_AFTER:
            what = f"{_HOPELESS_AFTER} requests in a row got no reply, the last one: {outcome.message}"
            raise TeacherError(f"{request['endpoint']}: {what}; {kept}; run again when the endpoint works")
        return outcome

    async def _attempt(self, request: Mapping[str, Any], sample: int, prompt: str, longest: int) -> Reply | Fault:
        worst = self._worst_cost(prompt, longest)
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
                await self._rate_limiter.start(reserved)
                self.traffic["sent"] += 1
                cost = worst + Spending(unsure_picodollars=worst.picodollars)
                outcome = self._with_tokens(await self._send(request), prompt, longest)
                if isinstance(outcome, Reply):
                    cost = self._cost(outcome.input_tokens, outcome.output_tokens)
                    self._rate_limiter.settle(reserved, cost.tokens)
                elif not outcome.billed:
                    cost = Spending(1)
            finally:
                # Also if this task is cancelled: what was sent stays counted, at its worst cost.
                self.budget.settle(worst, cost)
                reply = (request, sample, outcome) if isinstance(outcome, Reply) else None
                settled = None if pending is None else self._cache.settle(pending, cost, reply)
            if settled is not None:
                await asyncio.wrap_future(settled)
        finally:
            overloaded = isinstance(outcome, Fault) and outcome.kind == "overloaded"
            wait = outcome.retry_after if isinstance(outcome, Fault) else 0.0
            self._leave(epoch, False if overloaded else (True if isinstance(outcome, Reply) else None), wait)
        return outcome

    def _cut_at_stop(self, reply: Reply) -> Reply:
        """A reply up to the first of the texts that end one: some endpoints ignore `stop`."""
        before = cut_at(reply.text, self._stops)
        reason = "stop" if reply.finish_reason == "length" else reply.finish_reason
        return reply if before is None else replace(reply, text=before, finish_reason=reason)

    async def _pause(self, seconds: float) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)
            raise StoppedError

    def _leave(self, epoch: int, outcome: bool | None, wait: float) -> None:
        overloads = self.breaker.overloads
        self.breaker.leave(epoch, outcome, min(wait, self._teacher.max_wait))
        if self.breaker.overloads > overloads:
            log.warning("the endpoint is overloaded; all requests pause, then continue slowly")

    def _with_tokens(self, body: Body | Fault, prompt: str, longest: int) -> Reply | Fault:
        """A reply with its tokens, or with upper bounds if the endpoint reported none."""
        if isinstance(body, Fault):
            return replace(body, message=self._scrub(body.message))
        reported = body.input_tokens is not None and body.output_tokens is not None
        bound = self._worst_cost(prompt, longest)
        read = body.input_tokens if body.input_tokens is not None else bound.input_tokens
        written = body.output_tokens if body.output_tokens is not None else min(most_tokens(body.text) + 1, longest)
        if reported:
            # An endpoint that counts more than the bounds (for a hidden system prompt, say) will do so again.
            more_read, more_written = read - bound.input_tokens, written - bound.output_tokens
            self._excess = (self._excess[0] + max(0, more_read), self._excess[1] + max(0, more_written))
        text, reason, model = map(self._scrub, (body.text, body.finish_reason, body.model))
        return Reply(text, reason, read, written, not reported, model)

    def _scrubbed(self, content: bytes) -> bytes:
        # Before an excerpt is taken for a message: half a key would not be found.
        return self._scrub(content.decode(errors="replace")).encode()

    def _worst_cost(self, prompt: str, longest: int) -> Spending:
        """The most that a request can cost."""
        teacher, (more_read, more_written) = self._teacher, self._excess
        read = most_tokens(prompt) + most_tokens(teacher.system or "") + _CHAT_OVERHEAD + more_read
        return self._cost(read, longest + more_written)

    def _cost(self, read: int, written: int) -> Spending:
        return Spending(1, read, written, price_of(self._teacher, read, written) or 0)

    async def _send(self, request: Mapping[str, Any]) -> Body | Fault:
        """One HTTP request; every way it can fail becomes a Fault."""
        import openai

        api = self._transport.chat if self._teacher.endpoint == "chat" else self._transport
        extra = self._teacher.extra_body
        fields = {name: value for name, value in request["body"].items() if name not in extra}
        call = api.completions.with_raw_response.create(**fields, extra_body=extra or None)
        try:
            # The transport has a limit of its own; this one is for replies that trickle in without end.
            raw = await asyncio.wait_for(call, 2 * self._teacher.timeout)
            return read_body(self._scrubbed(raw.http_response.content))
        except openai.APIStatusError as error:
            response = error.response
            return classify_status(response.status_code, response.headers, self._scrubbed(response.content))
        except (asyncio.TimeoutError, openai.APITimeoutError) as error:
            never_sent = type(error.__cause__).__name__ in ("ConnectTimeout", "PoolTimeout")
            return Fault("timeout", f"no reply within {self._teacher.timeout:g} s", billed=not never_sent)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            kind = type(cause).__name__
            return Fault("connection", f"the connection failed ({kind}: {cause})", billed=kind != "ConnectError")
        except openai.OpenAIError as error:
            return Fault("malformed", f"{type(error).__name__}: {error}", billed=True)


def _identify(
    teacher: OpenAITeacherConfig, prompt: str, max_tokens: int, temperature: float
) -> tuple[Mapping[str, Any], str]:
    request = build_request(teacher, prompt, max_tokens=max_tokens, temperature=temperature)
    return request, request_key(request)
