"""Annotate: the rationales that a teacher gave in the past, from a file (Mentor-KD, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mentorkd.audit import DataFaults, audit
from mentorkd.readers import read_rationales
from mentorkd.recipe.schema import RecordedTeacher
from mentorkd.records import AnswerKind, Question, Rationale

__all__ = ["annotate"]


def annotate(
    teacher: RecordedTeacher,
    questions: Sequence[Question],
    *,
    locate: Callable[[str], str],
    kind: AnswerKind,
    choices: Sequence[str] | None,
    columns: Mapping[str, str],
    limited: bool,
) -> tuple[list[Rationale], DataFaults]:
    """All rationales the teacher gives for `questions` (of every split), right and wrong ones alike, and their faults.

    `limited` says that `questions` hold only the first training questions of a larger set, so that rationales of others
    are no fault. A limit on test questions is none: rationales of those are a fault anyway.

    Rationales of validation questions are kept, and left out later: the split is this tool's own, not a fault of the data.
    """
    rationales = read_rationales(locate(teacher.rationales), questions, kind=kind, choices=choices, columns=columns)
    if limited:
        asked = {question.id for question in questions}
        rationales = [rationale for rationale in rationales if rationale.question_id in asked]
    merged = [
        replace(question, split="train") if question.split == "validation" else question for question in questions
    ]
    audited = audit(merged, rationales, kind=kind, choices=choices)
    return audited.rationales, audited.faults
