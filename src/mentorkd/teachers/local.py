"""Annotation by a model that runs here, through any generation engine: the same prompts, the same records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Protocol

from mentorkd.generation.engine import FinishReason, SamplingParams
from mentorkd.recipe.teacher import LocalTeacher
from mentorkd.records import Question, content_id
from mentorkd.teachers.annotation import Annotation, AnnotationLedger, Answer, Grade, Progress, outcome, rationale_of
from mentorkd.teachers.cache import Reply, RequestCache, request_key
from mentorkd.teachers.limits import Spending
from mentorkd.teachers.prompting import Prompter

__all__ = ["Sampled", "Sampler", "annotate_local"]

CHUNK_BATCHES = 8
"""Batches that are sampled before their replies are kept: a kill costs so many, and a sort by length needs some."""


class Sampled(Protocol):
    """A completion as the engines of `mentorkd.generation` give it."""

    @property
    def text(self) -> str: ...
    @property
    def tokens(self) -> int: ...
    @property
    def finish_reason(self) -> FinishReason: ...


class Sampler(Protocol):
    """The part of a generation engine that a teacher needs; temperature 0 is greedy, with n = 1."""

    @property
    def name(self) -> str: ...

    def sample(
        self,
        prompts: Sequence[str],
        params: SamplingParams,
        *,
        seed: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> Sequence[Sequence[Sampled]]: ...


def annotate_local(
    questions: Sequence[Question],
    teacher: LocalTeacher,
    engine: Sampler,
    prompter: Prompter,
    cache: RequestCache,
    *,
    grade: Grade,
    identity: str | None = None,
    stop: Sequence[str] = (),
    on_progress: Progress | None = None,
) -> Annotation:
    """Sample rationales of `questions` from an engine, which reads prompts as they are and ends texts at `stop`.

    What was sampled before a kill is in the cache; `identity` (a digest of the weights, say) tells models of one name
    apart in it. Raises DataError when a gold answer cannot be read.
    """
    book = AnnotationLedger(questions, teacher, grade)
    local = _Local(teacher, engine, cache, identity or f"{teacher.model}@{teacher.revision or 'main'}", stop)
    # Whole questions, so that their samples are drawn together.
    size = max(1, CHUNK_BATCHES * teacher.batch_size // teacher.samples) * teacher.samples
    while not book.rounds.over:
        jobs = list(islice(iter(book.rounds.next, None), size))
        first = [(prompter.first(book.questions[index].text), sample) for index, sample in jobs]
        answers = [[answer] for answer in local.ask(first, teacher.max_tokens, teacher.temperature)]
        if prompter.two_stage:
            again = [place for place, got in enumerate(answers) if outcome(got[0].reply) == "ok"]
            second = [
                (prompter.second(book.questions[jobs[place][0]].text, answers[place][0].reply.text), jobs[place][1])
                for place in again
            ]
            for place, answer in zip(again, local.ask(second, teacher.answer_tokens, 0.0), strict=True):
                answers[place].append(answer)
        for (index, sample), got in zip(jobs, answers, strict=True):
            book.enter(index, sample, rationale_of(book.questions[index], sample, got, prompter, grade))
        if on_progress is not None:
            on_progress(book.rounds.finished, book.rounds.asked)
    return book.close(Spending(), {"sampled": local.sampled, "cached": local.cached})


class _Local:
    """An engine behind the cache."""

    def __init__(
        self, teacher: LocalTeacher, engine: Sampler, cache: RequestCache, identity: str, stop: Sequence[str]
    ) -> None:
        self.sampled = 0
        self.cached = 0
        self._teacher = teacher
        self._engine = engine
        self._cache = cache
        self._identity = identity
        self._stop = list(stop)

    def ask(self, prompts: Sequence[tuple[str, int]], max_tokens: int, temperature: float) -> list[Answer]:
        """An answer to each (prompt, sample), cached or sampled; samples of one prompt are drawn together."""
        requests = [self._request(prompt, max_tokens, temperature) for prompt, _ in prompts]
        keys = [request_key(request) for request in requests]
        known = [self._cache.get(key, sample) for key, (_, sample) in zip(keys, prompts, strict=True)]
        answers = {place: Answer(keys[place], reply, True) for place, reply in enumerate(known) if reply is not None}
        self.cached += len(answers)
        places_of: dict[str, list[int]] = defaultdict(list)
        for place, (prompt, _) in enumerate(prompts):
            if place not in answers:
                places_of[prompt].append(place)
        by_count: dict[int, list[list[int]]] = defaultdict(list)
        for places in places_of.values():
            # A greedy engine gives one completion a prompt, so there samples of a prompt are drawn one by one.
            for group in [places] if temperature else [[place] for place in places]:
                by_count[len(group)].append(group)
        for count, groups in by_count.items():
            replies = self._sample([prompts[group[0]] for group in groups], count, max_tokens, temperature)
            for group, drawn in zip(groups, replies, strict=True):
                for place, reply in zip(group, drawn, strict=True):
                    answers[place] = Answer(keys[place], reply)
        fresh = [place for place in answers if not answers[place].cached]
        kept = [self._cache.put(requests[place], prompts[place][1], answers[place].reply) for place in fresh]
        for done in kept:
            done.result()
        self.sampled += len(fresh)
        return [answers[place] for place in range(len(prompts))]

    def _sample(
        self, prompts: Sequence[tuple[str, int]], count: int, max_tokens: int, temperature: float
    ) -> list[list[Reply]]:
        texts = [prompt for prompt, _ in prompts]
        # The first sample's number enters the seed: a second round must not repeat the first.
        seed = content_id(str(self._teacher.seed), *(f"{sample} {prompt}" for prompt, sample in prompts))
        top_p, top_k = (self._teacher.top_p, self._teacher.top_k) if temperature else (1.0, 0)
        params = SamplingParams(count, temperature, top_p, top_k, max_tokens)
        completions = self._engine.sample(texts, params, seed=int(seed, 16) % 2**31)
        return [[self._reply(completion) for completion in drawn] for drawn in completions]

    def _reply(self, completion: Sampled) -> Reply:
        return Reply(completion.text, completion.finish_reason, 0, completion.tokens, model=self._teacher.model)

    def _request(self, prompt: str, max_tokens: int, temperature: float) -> dict[str, Any]:
        teacher = self._teacher
        body = {"model": self._identity, "dtype": teacher.dtype, "prompt": prompt, "seed": teacher.seed}
        body |= {"temperature": temperature, "top_p": teacher.top_p, "top_k": teacher.top_k, "max_tokens": max_tokens}
        body["stop"] = self._stop
        return {"endpoint": f"local:{self._engine.name}", "body": body}
