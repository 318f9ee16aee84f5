"""Which rationales enter training: small filters, each from a list to a shorter list in the same order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from mentorkd.records import Question, Rationale, content_id, normalise_whitespace

__all__ = [
    "FilterCount",
    "cap_per_question",
    "drop_duplicates",
    "keep_correct",
    "sample_questions",
    "select",
    "split_validation",
]


@dataclass(frozen=True, slots=True)
class FilterCount:
    """How many rationales went into a filter, and how many came out."""

    filter: str
    before: int
    after: int


def select(
    rationales: Sequence[Rationale],
    *,
    correct: bool = True,
    deduplicate: bool = True,
    max_per_question: int | None = None,
    question_ratio: float = 1.0,
    seed: int = 0,
    already: Iterable[Rationale] = (),
) -> tuple[list[Rationale], list[FilterCount]]:
    """The rationales that pass the filters asked for, and the count of each of these filters in order.

    Questions are sampled first, so that the sample does not depend on the other filters. With `deduplicate`, rationales
    that repeat one of `already` (a teacher's, say, when these are a mentor's) are dropped too.
    """
    filters: list[tuple[str, bool, Callable[[Sequence[Rationale]], list[Rationale]]]] = [
        ("question_ratio", question_ratio < 1, lambda rows: sample_questions(rows, question_ratio, seed)),
        ("correct", correct, keep_correct),
        ("deduplicate", deduplicate, lambda rows: drop_duplicates(rows, already)),
        ("max_per_question", max_per_question is not None, lambda rows: cap_per_question(rows, max_per_question or 0)),
    ]
    kept, counts = list(rationales), []
    for name, wanted, keep in filters:
        if wanted:
            before, kept = len(kept), keep(kept)
            counts.append(FilterCount(name, before, len(kept)))
    return kept, counts


def keep_correct(rationales: Iterable[Rationale]) -> list[Rationale]:
    """Rationales that arrive at the gold answer (the paper, section 3.1)."""
    return [rationale for rationale in rationales if rationale.verdict == "correct"]


def drop_duplicates(rationales: Iterable[Rationale], already: Iterable[Rationale] = ()) -> list[Rationale]:
    """The first of the rationales of a question that are equal but for whitespace, unless it is among `already`."""
    seen = {_text_of_question(rationale) for rationale in already}
    kept = []
    for rationale in rationales:
        if (mark := _text_of_question(rationale)) not in seen:
            seen.add(mark)
            kept.append(rationale)
    return kept


def cap_per_question(rationales: Sequence[Rationale], limit: int) -> list[Rationale]:
    """The first `limit` rationales of every question by sample number (of equal numbers, the one that comes first)."""
    taken: dict[str, int] = {}
    kept: set[int] = set()
    for index in sorted(range(len(rationales)), key=lambda index: rationales[index].sample):
        question = rationales[index].question_id
        taken[question] = taken.get(question, 0) + 1
        if taken[question] <= limit:
            kept.add(index)
    return [rationale for index, rationale in enumerate(rationales) if index in kept]


def sample_questions(rationales: Sequence[Rationale], ratio: float, seed: int) -> list[Rationale]:
    """The rationales of a share of their questions (the paper's low-resource setting, Figure 5); at least one question.

    Of one seed, a smaller sample is part of a larger one, whatever the order of the rationales.
    """
    questions = {rationale.question_id for rationale in rationales}
    sample = set(_shuffled(questions, "question_ratio", seed)[: max(1, round(ratio * len(questions)))])
    return [rationale for rationale in rationales if rationale.question_id in sample]


def split_validation(questions: Sequence[Question], share: float, seed: int) -> tuple[list[Question], list[Question]]:
    """Training and validation questions; the latter are the given share, at least one unless `share` is 0.

    By id, so that a question that occurs twice is on one side, whatever the order. At least one is left for training.
    """
    ids = {question.id for question in questions}
    count = 0 if share == 0 else min(max(1, round(share * len(ids))), len(ids) - 1)
    held_out = set(_shuffled(ids, "validation", seed)[: max(0, count)])
    training = [question for question in questions if question.id not in held_out]
    validation = [replace(question, split="validation") for question in questions if question.id in held_out]
    return training, validation


def _shuffled(ids: Collection[str], purpose: str, seed: int) -> list[str]:
    """Ids in an order of their own for every purpose and seed; removing some leaves the others in order."""
    return sorted(ids, key=lambda each: content_id(purpose, str(seed), each))


def _text_of_question(rationale: Rationale) -> tuple[str, str]:
    return rationale.question_id, normalise_whitespace(rationale.text)
