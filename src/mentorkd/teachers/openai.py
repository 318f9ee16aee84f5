"""A teacher behind an OpenAI-compatible endpoint (Mentor-KD, section 3.1), and the driver that keeps its client busy."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mentorkd.data.selection import characters_as_tokens
from mentorkd.data.token_logprobs import LOGPROBS
from mentorkd.errors import BudgetError, MissingExtraError
from mentorkd.recipe.teacher import OpenAITeacherConfig
from mentorkd.records import Progress, Question, Rationale
from mentorkd.teachers.annotation import AnnotationLedger, Grade, SamplingResult, outcome, rationale_of
from mentorkd.teachers.asked import AskedTeacher, short_name
from mentorkd.teachers.cache import LookUp, RequestCache, open_replies
from mentorkd.teachers.dry_run import BY_CHARACTERS, DryRun, dry_run, token_counter
from mentorkd.teachers.interrupts import Interrupts
from mentorkd.teachers.openai_client import OpenAIClient, StoppedError, identify_request, price_of, read_key
from mentorkd.teachers.prompting import Prompter
from mentorkd.teachers.teacher import AnnotationContext
from mentorkd.teachers.wire import Fault, same_model

log = logging.getLogger(__name__)

_CHAT_MARKS = 16
"""Tokens that a chat's marks add to a prompt, generously: ChatML takes 9, and 5 more for a system message."""
_SHOWN_ALIKE = 3
_FIRST_ALONE = (
    "whether the endpoint gives log-probabilities shows with its first reply: that request goes alone, and nothing more is sent if "
    "they are missing"
)


class OpenAITeacher(AskedTeacher[OpenAITeacherConfig]):
    """A model that an endpoint serves."""

    how_to_ask = AskedTeacher.how_to_ask | {"api_key_env", "budget", "concurrency", "max_wait", "price", "retries"}
    how_to_ask |= {"requests_per_minute", "timeout", "tokenizer", "tokens_per_minute"}

    @property
    def name(self) -> str:
        return f"{short_name(self.config.model)} at {self.config.base_url}"

    def check(self) -> None:
        super().check()
        if find_spec("httpx") is None:
            raise MissingExtraError("teacher: {kind: openai}", "openai")
        read_key(self.config.api_key_env)

    def preview(self, questions: Sequence[Question], root: Path, *, roughly: bool) -> DryRun:
        count_tokens, counted_by = token_counter(None if roughly else self.config.tokenizer)
        file = self.cache_file(root)
        with open_replies(file) if file.is_file() else nullcontext() as look_up:
            estimate = dry_run_openai(
                questions, self.config, self.prompter, look_up=look_up, count_tokens=count_tokens, counted_by=counted_by
            )
        logprobs = _FIRST_ALONE if self.config.logprobs else None
        return replace(estimate, warnings=tuple(filter(None, (exposed_key(self.config), logprobs))))

    def sample(self, questions: Sequence[Question], cache: RequestCache, context: AnnotationContext) -> SamplingResult:
        if (warning := exposed_key(self.config)) is not None:
            context.note(warning)
        with _warnings_as_notes(context.note):
            return annotate_openai(
                questions,
                self.config,
                self.prompter,
                cache,
                grade=self.grader,
                grade_in_threads=self.grader.is_slow,
                count_tokens=token_counter(self.config.tokenizer)[0],
                on_progress=context.on_progress,
            )

    def cost(self, result: SamplingResult) -> Mapping[str, Any]:
        spending, priced = result.spending, self.config.price is not None
        return {
            "requests": spending.requests,
            "input_tokens": spending.input_tokens,
            "output_tokens": spending.output_tokens,
            "dollars": spending.dollars if priced else None,
            "unsure_dollars": spending.unsure_dollars if priced else None,
        }

    def remarks(self, result: SamplingResult) -> list[str]:
        of_all = f"of {len(result.rationales):,} replies"
        models = Counter(rationale.meta["model"] for rationale in result.rationales)
        lines = [
            f"{count:,} {of_all} are of the model {model}, not of {self.config.model}"
            for model, count in models.items()
            if not same_model(self.config.model, model)
        ]
        solutions = [rationale for rationale in result.rationales if rationale.meta["outcome"] == "ok"]
        lacking = sum(LOGPROBS not in rationale.meta for rationale in solutions)
        if self.config.logprobs and lacking:
            lines.append(
                f"{lacking:,} {of_all} came without log-probabilities, so they get no soft labels of the teacher"
            )
        return lines


def exposed_key(teacher: OpenAITeacherConfig) -> str | None:
    """A warning if the key would travel unencrypted to another machine, where anyone on the way can read it."""
    address = urlsplit(teacher.base_url)
    if teacher.api_key_env is None or address.scheme != "http" or _is_this_machine(address.hostname or ""):
        return None
    where = f"the key in {teacher.api_key_env} is sent unencrypted to {address.hostname}, since `base_url` is http"
    return f"{where}; use https, or set `api_key_env: null` if the endpoint needs no key"


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost" or host.endswith(".localhost")


def dry_run_openai(
    questions: Sequence[Question],
    teacher: OpenAITeacherConfig,
    prompter: Prompter,
    *,
    look_up: LookUp | None = None,
    count_tokens: Callable[[str], int] = characters_as_tokens,
    counted_by: str = BY_CHARACTERS,
) -> DryRun:
    """Estimate the annotation of `questions` by an endpoint, beyond the replies that `look_up` finds (see `dry_run`)."""
    wrapping = 0
    if teacher.endpoint == "chat":
        wrapping = _CHAT_MARKS + (count_tokens(teacher.system) if teacher.system else 0)

    def is_cached(prompt: str, sample: int) -> bool:
        if look_up is None:
            return False
        _, keys = identify_request(teacher, prompt, teacher.max_tokens, teacher.temperature, teacher.logprobs)
        return any(look_up(key, sample) is not None for key in keys)

    return dry_run(
        questions,
        teacher,
        prompter,
        is_cached=is_cached,
        cost=partial(price_of, teacher),
        wrapping=wrapping,
        count_tokens=count_tokens,
        counted_by=counted_by,
    )


def annotate_openai(
    questions: Sequence[Question],
    teacher: OpenAITeacherConfig,
    prompter: Prompter,
    cache: RequestCache,
    *,
    grade: Grade,
    grade_in_threads: bool = False,
    count_tokens: Callable[[str], int] = characters_as_tokens,
    on_progress: Progress | None = None,
    first_backoff: float = 0.5,
) -> SamplingResult:
    """Ask an endpoint for rationales of `questions`, until each has its samples or the budget ends it (`stopped`).

    Processes that share a cache ask one after the other, so that the second finds the replies to the first and both
    draw on one budget. Ctrl-C and SIGTERM act when the replies in flight have come and are kept. Raises TeacherError if the
    endpoint cannot be used, RunError if the cache cannot be written, and DataError, before anything is sent, if a gold
    answer cannot be read.

    Args:
        grade_in_threads: keep a slow grader off the event loop.
        count_tokens: estimates the tokens of a prompt, for the rate limit.
        first_backoff: wait before the first retry, in seconds.
    """

    async def run() -> SamplingResult:
        ledger = AnnotationLedger(questions, teacher, grade)
        async with OpenAIClient(teacher, cache, count_tokens=count_tokens, first_backoff=first_backoff) as client:
            workers = _Workers(client, teacher, prompter, ledger, grade_in_threads, on_progress)
            loop = asyncio.get_running_loop()
            interrupts.call(lambda: loop.call_soon_threadsafe(workers.interrupt))
            stopped = await workers.all()
            interrupts.call(lambda: None)  # the loop is about to close
            traffic = {**client.traffic, "overloads": client.breaker.overloads}
            return ledger.close(cache.spending(), traffic, stopped, cache.faults())

    with (
        cache.asking(lambda: log.warning("another process asks through %s; waiting until it is done", cache.path)),
        Interrupts() as interrupts,
    ):
        return _run(run)


@dataclass
class _Workers:
    """`concurrency` workers that empty the queue of a ledger."""

    client: OpenAIClient
    teacher: OpenAITeacherConfig
    prompter: Prompter
    ledger: AnnotationLedger
    grade_in_threads: bool
    on_progress: Progress | None
    error: Exception | None = None
    interrupted: bool = False

    def __post_init__(self) -> None:
        self._first = lru_cache(maxsize=1024)(self.prompter.first)
        self._more = asyncio.Event()

    async def all(self) -> str | None:
        """Ask until the queue is over. Returns the reason if the budget stopped it, and raises any other error.

        After an error or `interrupt` nothing new is sent. What is in flight is waited for and kept, since it is paid for.
        """
        workers = [asyncio.create_task(self._work()) for _ in range(self.teacher.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        if isinstance(self.error, BudgetError):
            return str(self.error)
        if self.error is not None:
            raise self.error
        return None

    def interrupt(self) -> None:
        """Send nothing more, so that `all` returns when what is in flight has ended."""
        self.interrupted = True
        self.client.stop()
        self._more.set()
        if count := self.client.in_flight:
            what = (
                "interrupted; waiting for %d replies in flight, which are paid for (a second interrupt abandons them)"
            )
            log.warning(what, count)

    async def _work(self) -> None:
        queue = self.ledger.queue
        while self.error is None and not self.interrupted and not queue.over:
            job = queue.next()
            if job is None:
                self._more.clear()
                await self._more.wait()
                continue
            try:
                self.ledger.enter(*job, await self._solve(*job))
            except StoppedError:
                return
            except Exception as error:
                self.error = self.error or error
                self.client.stop()
            self._more.set()
            if self.on_progress is not None:
                self.on_progress(queue.finished, queue.asked)

    async def _solve(self, index: int, sample: int) -> Rationale | Fault:
        question, teacher, prompter = self.ledger.questions[index], self.teacher, self.prompter
        first = self._first(question.text)
        answer = await self.client.ask(
            first,
            sample,
            max_tokens=teacher.max_tokens,
            temperature=teacher.temperature,
            logprobs=teacher.logprobs,
        )
        if isinstance(answer, Fault):
            return answer
        answers = [answer]
        if prompter.two_stage and outcome(answer.reply) == "ok":
            second = prompter.second(question.text, answer.reply.text)
            # Greedy: the samples differ in their reasoning, and each has one conclusion.
            answer = await self.client.ask(second, sample, max_tokens=teacher.answer_tokens, temperature=0.0)
            if isinstance(answer, Fault):
                return answer
            answers.append(answer)
        if self.grade_in_threads:
            return await asyncio.to_thread(rationale_of, question, sample, answers, prompter, self.ledger.grade)
        return rationale_of(question, sample, answers, prompter, self.ledger.grade)


def _run(main: Callable[[], Coroutine[Any, Any, SamplingResult]]) -> SamplingResult:
    """asyncio.run, also from inside a running loop (a notebook's), where it needs a thread with a loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(main())).result()


@contextmanager
def _warnings_as_notes(note: Callable[[str], None]) -> Iterator[None]:
    """Hand what the client logs to `note`, but only the first three of messages that differ in their details alone."""
    seen: Counter[str] = Counter()

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen[record.msg] += 1
            if seen[record.msg] <= _SHOWN_ALIKE:
                more = "; further messages of this kind are not shown" if seen[record.msg] == _SHOWN_ALIKE else ""
                note(record.getMessage() + more)

    logger, handler = logging.getLogger("mentorkd.teachers"), Noting(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
