"""Audit of a run's data: faults of content are found, counted, reported and removed.

`audit` reads all questions and rationales at once and returns the clean ones with the faults that it found. A question with
different answers is dropped, because no answer can be trusted; one with an impossible answer, because no prediction could be
correct. A question in several splits is kept for one that is not trained on: no score may rest on a trained question. It is never
kept among the unlabelled ones, whose answers are unknown.
The rationales of a dropped question are dropped too, without a count of their own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from mentorkd.errors import DataError
from mentorkd.grading.grade import choices_of, normalise_answer
from mentorkd.records import AnswerKind, Question, Rationale, Split

FaultKind = Literal[
    "duplicate_question",
    "conflicting_answers",
    "impossible_answer",
    "overlapping_question",
    "seen_question",
    "empty_rationale",
    "unknown_question",
    "held_out_rationale",
]

_DESCRIPTIONS: dict[FaultKind, str] = {
    "duplicate_question": "repeated question(s) within a split, kept once",
    "conflicting_answers": "question(s) with different answers, dropped",
    "impossible_answer": "question(s) with a gold answer that is not of the task's kind or not among the options, dropped",
    "overlapping_question": "question(s) in several splits, kept for the first of test, validation, training and unlabelled",
    "seen_question": "question(s) that the run trained or validated on, dropped",
    "empty_rationale": "empty rationale(s), dropped",
    "unknown_question": "rationale(s) of a question that is missing or was dropped, dropped",
    "held_out_rationale": "rationale(s) of a test or validation question, dropped",
}
_EXAMPLES = 3
_PRECEDENCE: tuple[Split, ...] = ("test", "validation", "train", "unlabelled")


@dataclass(frozen=True, slots=True)
class DataFaults:
    """The places of the faults of content, by kind; empty for clean data."""

    places: Mapping[FaultKind, Sequence[str]]

    @property
    def counts(self) -> dict[FaultKind, int]:
        return {kind: len(places) for kind, places in self.places.items()}

    def examples(self, kind: FaultKind) -> list[str]:
        """The first places of a fault, three at most."""
        return list(self.places.get(kind, ()))[:_EXAMPLES]

    def lines(self) -> list[str]:
        """One line per kind of fault: their number, the action taken, and some examples."""
        return [
            f"{len(places)} {_DESCRIPTIONS[kind]}: {'; '.join(self.examples(kind))}{'; ...' if len(places) > _EXAMPLES else ''}"
            for kind, places in self.places.items()
        ]

    def raise_if_strict(self, strict: bool = True) -> None:
        """Raise a DataError with all lines if there is a fault and `strict` is true."""
        if strict and self.places:
            head = "faults in the data, and data.strict is true; correct the files or set data.strict to false"
            raise DataError("\n  ".join([head, *self.lines()]))


@dataclass(frozen=True, slots=True)
class Audit:
    """Clean questions and rationales in their original order, and the removed faults."""

    questions: list[Question]
    rationales: Sequence[Rationale]
    faults: DataFaults


def audit(
    questions: Iterable[Question],
    rationales: Iterable[Rationale] = (),
    *,
    kind: AnswerKind,
    choices: Sequence[str] | None = None,
    rows: Sequence[int] = (),
    seen: Mapping[str, Split] | None = None,
    hold: Callable[[Iterable[Rationale]], Sequence[Rationale]] = list,
) -> Audit:
    """Find the faults in a run's data: the questions of all splits, and the rationales recorded for them.

    Args:
        rows: the row of each question in its file, for the places of faults; empty if they are unknown.
        seen: questions that a finished run has used, by id with their split there; `questions` are to score its learners.
        hold: makes the clean rationales a sequence.
    """
    questions = list(questions)
    numbers: Sequence[int | None] = rows or [None] * len(questions)
    places: dict[FaultKind, list[str]] = {}
    clean, home = _clean_questions(zip(questions, numbers, strict=True), kind, choices, seen or {}, places)
    known = {question.id for question in questions}
    return Audit(clean, hold(_clean_rationales(rationales, known, home, places)), DataFaults(places))


def _clean_questions(
    questions: Iterable[tuple[Question, int | None]],
    kind: AnswerKind,
    choices: Sequence[str] | None,
    seen: Mapping[str, Split],
    places: dict[FaultKind, list[str]],
) -> tuple[list[Question], dict[str, Split]]:
    """The questions without a fault, and the split of each that is kept. `places` gets the faults of the others."""
    kept: dict[tuple[Split, str], tuple[Question, str, int | None]] = {}  # with its normalised answer and its row
    bad: set[tuple[Split, str]] = set()
    for question, row in questions:
        key = (question.split, question.id)
        answer: str | None = ""
        if question.labelled:
            answer = normalise_answer(question.answer, kind, choices_of(question.text, kind, choices))
        if answer is None:
            places.setdefault("impossible_answer", []).append(f"{_short(question, row)} has `{question.answer}`")
        elif question.id in seen:
            places.setdefault("seen_question", []).append(f"{_short(question, row)} is in {seen[question.id]}")
        elif key not in kept:
            kept[key] = question, answer, row
        elif answer == kept[key][1]:
            places.setdefault("duplicate_question", []).append(_short(question, row))
        elif key not in bad:
            place = f"{_short(question, row)} has `{kept[key][0].answer}` and `{question.answer}`"
            places.setdefault("conflicting_answers", []).append(place)
            bad.add(key)
    home: dict[str, Split] = {}
    for split in _PRECEDENCE:
        for key, (question, _, row) in kept.items():
            if key[0] == split and key not in bad and home.setdefault(question.id, split) != split:
                place = f"{_short(question, row)} is also in {home[question.id]}"
                places.setdefault("overlapping_question", []).append(place)
    return [each for key, (each, *_) in kept.items() if key not in bad and home[each.id] == each.split], home


def _clean_rationales(
    rationales: Iterable[Rationale], known: Set[str], home: Mapping[str, Split], places: dict[FaultKind, list[str]]
) -> Iterator[Rationale]:
    """Those without a fault. `places` gets the faults of the others; `home` has the split of each question that is kept."""
    for rationale in rationales:
        fault: FaultKind | None = None
        if rationale.question_id not in known:
            fault = "unknown_question"
        elif not rationale.text:
            fault = "empty_rationale"
        elif home.get(rationale.question_id) in ("test", "validation"):
            fault = "held_out_rationale"
        if fault is not None:
            number = rationale.meta.get("row")
            place = f"row {number}" if number is not None else rationale.id
            places.setdefault(fault, []).append(f"{rationale.source}, {place}")
        elif rationale.question_id in home:
            yield rationale


def _short(question: Question, row: int | None) -> str:
    place = "" if row is None else f" (row {row})"
    return f'{question.split} question "{textwrap.shorten(question.text, 60, placeholder="...")}"{place}'
