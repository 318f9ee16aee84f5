"""Annotation by an OpenAI-compatible endpoint (Mentor-KD, section 3.1): the driver that keeps the client busy."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from mentorkd.errors import BudgetError
from mentorkd.recipe.teacher import OpenAITeacher
from mentorkd.records import Question, Rationale
from mentorkd.teachers.annotation import (
    Annotation,
    AnnotationLedger,
    Answer,
    FailedSample,
    Grade,
    Progress,
    outcome,
    rationale_of,
)
from mentorkd.teachers.cache import RequestCache
from mentorkd.teachers.openai_client import OpenAIClient, StoppedError, characters_as_tokens
from mentorkd.teachers.prompting import Prompter
from mentorkd.teachers.wire import Fault

__all__ = ["annotate_openai"]

T = TypeVar("T")

log = logging.getLogger(__name__)


def annotate_openai(
    questions: Sequence[Question],
    teacher: OpenAITeacher,
    prompter: Prompter,
    cache: RequestCache,
    *,
    grade: Grade,
    grade_in_threads: bool = False,
    count_tokens: Callable[[str], int] = characters_as_tokens,
    on_progress: Progress | None = None,
    first_backoff: float = 0.5,
) -> Annotation:
    """Ask an endpoint for rationales of `questions`, until each has its samples or the budget is reached (`stopped`).

    Processes that share a cache ask one after the other, so that the second finds what the first was given and their
    budget is one. `grade_in_threads` keeps a slow grader off the event loop; `count_tokens` estimates prompts for the rate limit;
    `first_backoff` is the first retry's wait in seconds. Raises TeacherError when the endpoint cannot be used, RunError
    when the cache cannot be written, and DataError, before anything is sent, when a gold answer cannot be read.
    """

    async def run() -> Annotation:
        book = AnnotationLedger(questions, teacher, grade)
        async with OpenAIClient(teacher, cache, count_tokens=count_tokens, first_backoff=first_backoff) as client:
            ask = _Asker(client, teacher, prompter, book, grade_in_threads, on_progress)
            stopped = await ask.all()
            traffic = {
                "sent": client.traffic.sent,
                "cached": client.traffic.cached,
                "overloads": client.breaker.overloads,
                **{f"fault_{kind}": count for kind, count in sorted(client.traffic.faults.items())},
            }
            return book.close(cache.spending(), traffic, stopped)

    with cache.asking(lambda: log.warning("another process asks through %s; waiting until it is done", cache.path)):
        return _run(run)


class _Asker:
    """`concurrency` workers that work off the rounds of a book."""

    def __init__(
        self,
        client: OpenAIClient,
        teacher: OpenAITeacher,
        prompter: Prompter,
        book: AnnotationLedger,
        grade_in_threads: bool,
        on_progress: Progress | None,
    ) -> None:
        self._client = client
        self._teacher = teacher
        self._prompter = prompter
        self._first = lru_cache(maxsize=1024)(prompter.first)
        self._book = book
        self._grade = book.grade
        self._grade_in_threads = grade_in_threads
        self._on_progress = on_progress
        self._more = asyncio.Event()
        self._error: Exception | None = None

    async def all(self) -> str | None:
        """Ask until all is done; return why the budget stopped it, if it did, and raise any other error.

        After an error nothing new is sent, but what is in flight is waited for and kept: it is paid for.
        """
        workers = [asyncio.create_task(self._work()) for _ in range(self._teacher.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        if isinstance(self._error, BudgetError):
            return str(self._error)
        if self._error is not None:
            raise self._error
        return None

    async def _work(self) -> None:
        rounds = self._book.rounds
        while self._error is None and not rounds.over:
            job = rounds.next()
            if job is None:
                self._more.clear()
                await self._more.wait()
                continue
            try:
                self._book.enter(*job, await self._solve(*job))
            except StoppedError:
                return
            except Exception as error:
                self._error = self._error or error
                self._client.stop()
            self._more.set()
            if self._on_progress is not None:
                self._on_progress(rounds.finished, rounds.asked)

    async def _solve(self, index: int, sample: int) -> Rationale | FailedSample:
        question, teacher, prompter = self._book.questions[index], self._teacher, self._prompter
        first = self._first(question.text)
        answer = await self._client.ask(first, sample, max_tokens=teacher.max_tokens, temperature=teacher.temperature)
        answers = [answer]
        if isinstance(answer, Answer) and prompter.two_stage and outcome(answer.reply) == "ok":
            second = prompter.second(question.text, answer.reply.text)
            # Greedy: the samples differ in their reasoning, and each has one conclusion.
            answers.append(await self._client.ask(second, sample, max_tokens=teacher.answer_tokens, temperature=0.0))
        got = [answer for answer in answers if isinstance(answer, Answer)]
        fault = next((answer for answer in answers if isinstance(answer, Fault)), None)
        if fault is not None:
            return FailedSample(question.id, sample, f"{fault.kind}: {fault.message}")
        if self._grade_in_threads:
            return await asyncio.to_thread(rationale_of, question, sample, got, prompter, self._grade)
        return rationale_of(question, sample, got, prompter, self._grade)


def _run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """asyncio.run, also from inside a running loop (a notebook's), where a thread has to lend its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main())
    results: list[T] = []
    errors: list[BaseException] = []

    def lend() -> None:
        try:
            results.append(asyncio.run(main()))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=lend, name="annotate")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
