"""The ledger of an annotation, for every kind of teacher that is asked: which samples to ask for, and their records."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from mentorkd.data.token_logprobs import LOGPROBS, rationale_logprobs
from mentorkd.grading.grade import Graded
from mentorkd.recipe.teacher import AskedTeacherConfig
from mentorkd.records import TEACHER, Question, Rationale
from mentorkd.teachers.cache import Reply
from mentorkd.teachers.limits import Spending
from mentorkd.teachers.prompting import Prompter
from mentorkd.teachers.wire import Fault

Grade = Callable[[str, Question], Graded]
"""Grades a text that holds an answer, against a question."""
Outcome = Literal["ok", "length", "refusal", "empty"]
"""What a reply is worth: a solution; cut at the token limit; refused by the model or a filter; without reasoning."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, the key of its request in the cache, and whether the cache gave it."""

    key: str
    reply: Reply
    cached: bool = False


@dataclass(frozen=True)
class SamplingResult:
    """The rationales that were sampled, in the order of questions and samples, and the sums beside them.

    `lost` holds the faults of samples without a reply. `spending` is what this account has spent over all runs, and `faults`
    counts its failed requests by kind; `traffic` counts the requests, cache hits and faults of this one. `stopped` says why
    the budget ended sampling, if it did. What came before that is here and in the cache.
    """

    questions: int
    rationales: list[Rationale]
    lost: list[Fault]
    spending: Spending
    traffic: Mapping[str, int]
    stopped: str | None = None
    faults: Mapping[str, int] = field(default_factory=dict)

    def usage(self) -> dict[str, int]:
        """Tokens of all prompts and replies behind the rationales, whichever run paid for them."""
        usage = [rationale.meta["usage"] for rationale in self.rationales]
        return {way: sum(tokens[way] for tokens in usage) for way in ("input_tokens", "output_tokens")}

    def account(self) -> dict[str, Any]:
        """The counts of the report's TeacherAccount, apart from costs. `accuracy` is the share of correct replies."""
        outcomes = Counter(rationale.meta["outcome"] for rationale in self.rationales)
        correct = [rationale for rationale in self.rationales if rationale.verdict == "correct"]
        return {
            "questions": self.questions,
            "solved": len({rationale.question_id for rationale in correct}),
            "samples": len(self.rationales) + len(self.lost),
            "replies": len(self.rationales),
            "correct": len(correct),
            "accuracy": len(correct) / len(self.rationales) if self.rationales else None,
            "cut": outcomes["length"],
            "refused": outcomes["refusal"],
            "empty": outcomes["empty"],
            "malformed": self.faults.get("malformed", 0),
            "lost": len(self.lost),
            "cached": self.traffic["cached"],
        }


def outcome(reply: Reply) -> Outcome:
    """What a reply is worth, before its answer is read."""
    if reply.finish_reason in ("refusal", "content_filter"):
        return "refusal"
    if reply.finish_reason == "length":
        return "length"
    return "ok" if reply.text.strip() else "empty"


def rationale_of(
    question: Question, sample: int, answers: Sequence[Answer], prompter: Prompter, grade: Grade
) -> Rationale:
    """The record of a sample's answers (one, or two with `two_stage`). A reply that is not `ok` counts as no answer.

    The second reply of `two_stage` may be cut off: a model that continues after its answer has given the answer.
    """
    first = answers[0].reply
    status, text, graded = outcome(first), first.text, Graded(None, "no_answer")
    if status == "ok" and any(outcome(answer.reply) == "refusal" for answer in answers):
        status = "refusal"
    elif status == "ok":
        solution = prompter.read([answer.reply.text for answer in answers])
        text, status = solution.rationale, "ok" if solution.rationale else "empty"
        graded = grade(solution.answer_text, question) if solution.rationale else graded
    meta = {
        "outcome": status,
        "finish_reason": first.finish_reason,
        "usage": {
            "input_tokens": sum(answer.reply.input_tokens for answer in answers),
            "output_tokens": sum(answer.reply.output_tokens for answer in answers),
            "estimated": any(answer.reply.estimated for answer in answers),
        },
        "model": first.model,
        "cached": all(answer.cached for answer in answers),
        "requests": [answer.key for answer in answers],
    }
    if first.logprobs is not None:
        meta[LOGPROBS] = rationale_logprobs(first.logprobs, first.text, text.strip())
    return Rationale.create(question.id, text, graded.predicted, graded.verdict, TEACHER, sample, meta)


class SampleQueue:
    """Which sample to ask for next: first `samples` of each question, then as many as it lacks correct ones.

    A question has several rounds, until it has `want` correct samples or has had `tries` in all. Its next round begins
    when its last one has ended, so the samples that are asked for do not depend on the order of replies. Rounds of
    different questions overlap, so there is work as long as any question needs a sample.
    """

    def __init__(self, questions: int, samples: int, *, want: int = 0, tries: int = 0) -> None:
        self._want, self._tries = want, tries
        self._begun = [samples] * questions
        self._open = [samples] * questions
        self._correct = [0] * questions
        self._queue = deque((index, sample) for index in range(questions) for sample in range(samples))
        self.asked = questions * samples
        self.finished = 0

    @property
    def over(self) -> bool:
        return self.finished == self.asked

    def next(self) -> tuple[int, int] | None:
        """A question's index and the number of its sample; None if nothing can be asked for at the moment."""
        return self._queue.popleft() if self._queue else None

    def done(self, index: int, correct: bool) -> None:
        """Note that a sample of a question has ended, with a reply or without one."""
        self.finished += 1
        self._open[index] -= 1
        self._correct[index] += correct
        if self._open[index] == 0:
            start = self._begun[index]
            more = max(0, min(self._want - self._correct[index], self._tries - start))
            self._queue.extend((index, sample) for sample in range(start, start + more))
            self._begun[index] += more
            self._open[index] = more
            self.asked += more


class AnnotationLedger:
    """The samples of all questions: which to ask for, and what each gave. Equal questions are asked once.

    Raises DataError at once if a gold answer cannot be read, since grading must not fail after money was spent.
    """

    def __init__(self, questions: Sequence[Question], teacher: AskedTeacherConfig, grade: Grade) -> None:
        # A question's samples often end in the same line; grading it is the slowest part of reading cached replies.
        self.grade: Grade = lru_cache(maxsize=4096)(grade)
        self.questions = list({question.id: question for question in questions}.values())
        for question in self.questions:
            grade("", question)
        rounds = {} if teacher.until_correct is None else teacher.until_correct.model_dump()
        self.queue = SampleQueue(len(self.questions), teacher.samples, **rounds)
        self._results: dict[tuple[int, int], Rationale | Fault] = {}

    def enter(self, index: int, sample: int, result: Rationale | Fault) -> None:
        self._results[index, sample] = result
        self.queue.done(index, isinstance(result, Rationale) and result.verdict == "correct")

    def close(
        self,
        spending: Spending,
        traffic: Mapping[str, int],
        stopped: str | None = None,
        faults: Mapping[str, int] | None = None,
    ) -> SamplingResult:
        results = [self._results[place] for place in sorted(self._results)]
        return SamplingResult(
            questions=len(self.questions),
            rationales=[result for result in results if isinstance(result, Rationale)],
            lost=[result for result in results if isinstance(result, Fault)],
            spending=spending,
            traffic=traffic,
            stopped=stopped,
            faults=faults or {},
        )
