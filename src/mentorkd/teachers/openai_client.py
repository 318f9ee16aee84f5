"""A careful client of OpenAI-compatible endpoints: nothing is paid for twice, no limit is crossed, no reply crashes it.

A request is looked up in the cache first. If it is not there, it waits for room in flight, for the budget, for its ledger
entry to be on disk and for the rate limits. Then it is sent once, and settled together with its reply before the reply is
used. Requests go one at a time until the endpoint is known: with a budget of tokens or dollars, until a reply has told how it
counts; with `logprobs`, until a reply had them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
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
from mentorkd.teachers.transport import MOST_BYTES, MOST_BYTES_WITH_LOGPROBS, Transport
from mentorkd.teachers.wire import (
    Body,
    Fault,
    build_request,
    causes,
    classify_status,
    most_tokens,
    read_body,
    same_model,
    scrubber,
    without_logprobs,
)

log = logging.getLogger(__name__)


class StoppedError(TeacherError):
    """The client was stopped before this request was sent."""


_HOPELESS_AFTER = 20
"""Requests that are given up in a row, without a reply in between, before the endpoint counts as down."""
_CHAT_OVERHEAD = 64
"""Tokens that a chat template may add around a message."""
_SILENT_ABOUT_USAGE = 3
"""Replies without a count of tokens after which the endpoint is taken to give none."""
_HOW_TO_GET_LOGPROBS = (
    "set `teacher.logprobs: false`, which takes the replies that are kept, or name an endpoint that gives them, such as vLLM or "
    "llama-server"
)
_LONG_WAIT = 10.0
"""Seconds from which on a wait that the endpoint asks for is worth a line."""


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
        key = read_key(teacher.api_key_env)
        self.traffic = Counter({"sent": 0, "cached": 0})
        self.breaker = CircuitBreaker(teacher.concurrency, sleep=self._pause)
        self._teacher = teacher
        self._stops = teacher.stops(base=teacher.endpoint == "completions")
        self._cache = cache
        self._count_tokens = count_tokens
        self._first_backoff = first_backoff
        self._rng = random.Random()
        self._scrub, self._scrub_reply = scrubber(key), scrubber(key, keep_words=True)
        self._stopped = asyncio.Event()
        self._rate_limiter = RateLimiter(teacher.requests_per_minute, teacher.tokens_per_minute, sleep=self._pause)
        hint = f"every reply is kept in {cache.path}; raise `teacher.budget` and run again to go on"
        self.budget = Budget(cache.spending(), **teacher.budget.model_dump(), hint=hint)
        # Tokens that the endpoint may count beyond our bounds: for a hidden system prompt, or hidden reasoning.
        self._more_read = self._more_written = 0
        self._usage_is_known = teacher.budget.dollars is None and teacher.budget.tokens is None
        self._replies_without_usage = 0
        self._gives_logprobs = not teacher.logprobs
        self._first = asyncio.Lock()
        self._in_flight = 0
        self._given_up: list[Fault] = []
        self._failing_since: float | None = None
        self._other_models: set[str] = set()
        self._flights: dict[tuple[str, int], asyncio.Task[Answer | Fault]] = {}
        # The samples of a question follow one another.
        self._identify = lru_cache(maxsize=1024)(partial(identify_request, teacher))
        most_bytes = MOST_BYTES_WITH_LOGPROBS if teacher.logprobs else MOST_BYTES
        self._transport = Transport(
            key, timeout=teacher.timeout, connections=teacher.concurrency, most_bytes=most_bytes
        )
        if not self._usage_is_known:
            endpoint = build_request(teacher, "", max_tokens=1, temperature=0.0)["endpoint"]
            self._learn_usage(*cache.most_tokens(endpoint, teacher.model))

    async def __aenter__(self) -> OpenAIClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.close()

    def stop(self) -> None:
        """Send nothing more: requests in flight end as usual, requests that wait raise StoppedError."""
        self._stopped.set()

    @property
    def in_flight(self) -> int:
        """Requests that were sent and have no reply yet."""
        return self._in_flight

    async def ask(
        self, prompt: str, sample: int, *, max_tokens: int, temperature: float, logprobs: bool = False
    ) -> Answer | Fault:
        """The answer to a prompt's sample: from the cache, from an equal request in flight, or by a new request.

        Returns a Fault if the request was given up. Raises BudgetError before a request that could cross the budget,
        TeacherError if no request can succeed, and StoppedError after `stop`.
        """
        request, keys = self._identify(prompt, max_tokens, temperature, logprobs)
        for key in keys:
            if (known := self._cache.get(key, sample)) is not None:
                self.traffic["cached"] += 1
                self._check_model(known)
                return Answer(key, self._cut_at_stop(known), cached=True)
        key = keys[0]
        flight = self._flights.get((key, sample))
        if flight is None:
            flight = asyncio.create_task(self._ask_endpoint(request, key, sample, prompt, max_tokens))
            self._flights[key, sample] = flight
            flight.add_done_callback(lambda _: self._flights.pop((key, sample)))
        return await flight

    async def _ask_endpoint(
        self, request: Mapping[str, Any], key: str, sample: int, prompt: str, longest: int
    ) -> Answer | Fault:
        most = self._teacher.max_wait
        attempt = 0
        while True:
            outcome, pause = await self._attempt(request, sample, prompt, longest)
            if isinstance(outcome, Reply):
                self._given_up.clear()
                self._failing_since = None
                self._check_model(outcome)
                return Answer(key, self._cut_at_stop(outcome))
            self.traffic[f"fault_{outcome.kind}"] += 1
            if outcome.kind == "fatal":
                raise self._failed(request, outcome.message)
            if outcome.retry_after > most:
                asked = f"the endpoint asks to wait {_seconds(outcome.retry_after)}, and `max_wait` is {_seconds(most)}"
                outcome = replace(outcome, message=f"{outcome.message}; {asked}")
            if outcome.kind != "rejected":
                self._note_failure(request, outcome, pause)
            if outcome.kind == "rejected" or attempt == self._teacher.retries or outcome.retry_after > most:
                break
            wait = backoff(attempt, self._rng, base=self._first_backoff)
            if outcome.retry_after:
                # Other requests got the same time; without jitter all would come back at once.
                wait = outcome.retry_after + min(wait, 0.1 + 0.1 * outcome.retry_after)
                if wait >= _LONG_WAIT and not pause:
                    log.warning("the endpoint asks to wait %s before a retry: %s", _seconds(wait), outcome.message)
            await self._pause(wait)
            attempt += 1
        self._given_up.append(outcome)
        log.warning("gave up a request (%s)", outcome.kind.replace("_", " "))
        log.info("gave up a request: %s", outcome.message)
        if len(self._given_up) >= _HOPELESS_AFTER:
            what = f"{_HOPELESS_AFTER} requests in a row got no reply: {causes(self._given_up)}"
            raise self._failed(request, what, "run again when the endpoint works")
        return outcome

    def _failed(self, request: Mapping[str, Any], what: str, next_step: str = "") -> TeacherError:
        kept = f"replies so far are kept in {self._cache.path}"
        return TeacherError("; ".join([f"{request['endpoint']}: {what}", kept, *filter(None, [next_step])]))

    def _note_failure(self, request: Mapping[str, Any], fault: Fault, pause: float) -> None:
        """Report a pause of all requests. Raises TeacherError if waiting until its end makes no sense."""
        now, most = time.monotonic(), self._teacher.max_wait
        if self._failing_since is None:
            self._failing_since = now
        failing = now - self._failing_since
        if failing + pause > most:
            what = f"no request got a reply for {_seconds(failing)}"
            next_wait = f", and the next pause would take {_seconds(pause)}" if pause else ""
            hint = f"run again when the endpoint works, or raise `teacher.max_wait` ({_seconds(most)})"
            raise self._failed(request, f"{what}{next_wait}: {fault.message}", hint)
        if pause:
            log.warning(
                "the endpoint is overloaded (%s); no request is sent for %s, then they continue slowly; "
                "the annotation stops after %s without a reply (`max_wait`)",
                *(fault.message, _seconds(pause), _seconds(most)),
            )

    def _check_model(self, reply: Reply) -> None:
        if reply.model in self._other_models or same_model(self._teacher.model, reply.model):
            return
        self._other_models.add(reply.model)
        log.warning("the endpoint answers with the model %s; the recipe asks for %s", reply.model, self._teacher.model)

    @property
    def _endpoint_is_known(self) -> bool:
        return self._usage_is_known and self._gives_logprobs

    @asynccontextmanager
    async def _alone_at_first(self) -> AsyncIterator[None]:
        """Wait for the request before, as long as it is not known how the endpoint counts tokens and what it returns."""
        if not self._endpoint_is_known:
            async with self._first:
                if not self._endpoint_is_known:
                    yield
                    return
        yield

    async def _attempt(
        self, request: Mapping[str, Any], sample: int, prompt: str, longest: int
    ) -> tuple[Reply | Fault, float]:
        """One request: its reply or fault, and the seconds of the pause of all requests that begins with it."""
        async with self._alone_at_first():
            outcome: Reply | Fault | None = None
            pause = 0.0
            epoch = await self.breaker.enter()
            try:
                outcome = await self._send_within_budget(request, sample, prompt, longest)
            finally:
                overloaded = isinstance(outcome, Fault) and outcome.kind == "overloaded"
                wait = outcome.retry_after if isinstance(outcome, Fault) else 0.0
                success = False if overloaded else (True if isinstance(outcome, Reply) else None)
                pause = self.breaker.leave(epoch, success, wait)
            return outcome, pause

    async def _send_within_budget(
        self, request: Mapping[str, Any], sample: int, prompt: str, longest: int
    ) -> Reply | Fault:
        worst = self._worst_cost(prompt, longest)
        reserved = self._count_tokens(prompt) + longest
        outcome: Reply | Fault | None = None
        await self.budget.reserve(worst)
        if self._stopped.is_set():
            self.budget.settle(worst, Spending())
            raise StoppedError
        cost = Spending()
        pending: int | None = None
        lacking = ""
        try:
            pending = await asyncio.wrap_future(self._cache.open(worst))
            await self._rate_limiter.start(reserved)
            self.traffic["sent"] += 1
            cost = worst + Spending(unsure_picodollars=worst.picodollars)
            self._in_flight += 1
            try:
                body = await self._send(request)
                lacking = self._lacking_logprobs(body)
                outcome = self._with_tokens(body, prompt, longest)
            finally:
                self._in_flight -= 1
            read, written = outcome.input_tokens, outcome.output_tokens
            if read is not None and written is not None:
                cost = self._cost(read, written)
            elif isinstance(outcome, Fault) and not outcome.billed:
                cost = Spending(1)
            if isinstance(outcome, Reply):
                self._rate_limiter.settle(reserved, cost.tokens)
        finally:
            # Also if this task is cancelled: what was sent stays counted, at its worst cost.
            self.budget.settle(worst, cost)
            # A reply without the log-probabilities is that to the request without them, if the annotation stops here.
            kept = without_logprobs(request) if lacking else request
            reply = (kept, sample, outcome) if isinstance(outcome, Reply) else None
            fault = outcome.kind if isinstance(outcome, Fault) else None
            settled = None if pending is None else self._cache.settle(pending, cost, reply, fault)
        if settled is not None:
            await asyncio.wrap_future(settled)
        if lacking:
            self.stop()  # at once: the next request waits for this one
            what = f"`teacher.logprobs` asks for log-probabilities, and the endpoint does not give them: {lacking}"
            raise self._failed(request, what, _HOW_TO_GET_LOGPROBS)
        return outcome

    def _lacking_logprobs(self, body: Body | Fault) -> str:
        """Why the endpoint does not give log-probabilities, if its first reply shows that; later replies are taken without."""
        if isinstance(body, Fault):
            refused = body.kind == "rejected" and "logprob" in body.message.lower()
            return self._scrub(body.message) if refused and not self._gives_logprobs else ""
        if body.no_logprobs and self._gives_logprobs:
            log.warning("a reply came without log-probabilities: %s", body.no_logprobs)
            return ""
        self._gives_logprobs |= body.logprobs is not None
        return body.no_logprobs

    def _cut_at_stop(self, reply: Reply) -> Reply:
        """A reply up to the first of the texts that end one: some endpoints ignore `stop`."""
        before = cut_at(reply.text, self._stops)
        if before is None:
            return reply
        reason = "stop" if reply.finish_reason == "length" else reply.finish_reason
        logprobs = reply.logprobs and reply.logprobs.part(reply.text.encode(), 0, len(before.encode()))
        return replace(reply, text=before, finish_reason=reason, logprobs=logprobs)

    async def _pause(self, seconds: float) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)
            raise StoppedError

    def _with_tokens(self, body: Body | Fault, prompt: str, longest: int) -> Reply | Fault:
        """A reply with its tokens, or with upper bounds if the endpoint reported none; a fault without the key."""
        bound = self._worst_cost(prompt, longest)
        read, written = body.input_tokens, body.output_tokens
        if read is not None or written is not None:
            self._learn_usage(read or 0, written or 0)
        if isinstance(body, Fault):
            return replace(body, message=self._scrub(body.message))
        if read is None or written is None:
            self._replies_without_usage += 1
            self._usage_is_known |= self._replies_without_usage >= _SILENT_ABOUT_USAGE
        text, reason, model = map(self._scrub_reply, (body.text, body.finish_reason, body.model))
        return Reply(
            text,
            reason,
            bound.input_tokens if read is None else read,
            min(most_tokens(body.text) + 1, longest) if written is None else written,
            estimated=read is None or written is None,
            model=model,
            logprobs=body.logprobs if len(text.encode()) == len(body.text.encode(errors="replace")) else None,
        )

    def _learn_usage(self, read: int, written: int) -> None:
        """Note what the endpoint has counted for a prompt and for a reply.

        What it hides in every prompt is no longer than the longest that it ever counted. A reply that was longer than its
        limit shows that the limit does not hold.
        """
        self._more_read = max(self._more_read, read)
        if written > self._teacher.max_tokens:
            self._more_written = max(self._more_written, written)
        self._usage_is_known |= read > 0

    def _worst_cost(self, prompt: str, longest: int) -> Spending:
        """The most that a request can cost."""
        read = most_tokens(prompt) + most_tokens(self._teacher.system or "") + _CHAT_OVERHEAD + self._more_read
        return self._cost(read, longest + self._more_written)

    def _cost(self, read: int, written: int) -> Spending:
        return Spending(1, read, written, price_of(self._teacher, read, written) or 0)

    async def _send(self, request: Mapping[str, Any]) -> Body | Fault:
        """One HTTP request; every way it can fail becomes a Fault."""
        response = await self._transport.post(request["endpoint"], request["body"])
        if isinstance(response, Fault):
            return response
        # Before an excerpt is taken for a message: half a key would not be found.
        text, good = response.content.decode(errors="replace"), 200 <= response.status < 300
        content = (self._scrub_reply if good else self._scrub)(text).encode()
        if not good:
            return classify_status(response.status, response.headers, content)
        return read_body(content, logprobs=self._teacher.logprobs and "logprobs" in request["body"])


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def identify_request(
    teacher: OpenAITeacherConfig, prompt: str, max_tokens: int, temperature: float, logprobs: bool
) -> tuple[Mapping[str, Any], Sequence[str]]:
    """A request, and the keys of the replies that serve: its own first, then that of the same request with log-probabilities."""
    build = partial(build_request, teacher, prompt, max_tokens=max_tokens, temperature=temperature)
    requests = [build(logprobs=each) for each in ((True,) if logprobs else (False, True))]
    return requests[0], [request_key(request) for request in requests]
