"""The data of a run: read the questions of every split, audit them, and hold out validation questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mentorkd.data.audit import DataFaults, audit
from mentorkd.data.readers import read_questions, read_rationales
from mentorkd.data.selection import split_validation
from mentorkd.errors import DataError
from mentorkd.recipe.load import data_path
from mentorkd.recipe.schema import Recipe, RecordedTeacher
from mentorkd.records import AnswerKind, Question, Rationale, Split

__all__ = ["annotate", "prepare", "prepare_recipe"]

VALIDATION_SEED = 0
"""Fixed, because validation accuracies are comparable only if all learners and seeds share one split."""


def prepare(
    *,
    train: str,
    test: str,
    validation: str | None,
    validation_share: float,
    kind: AnswerKind,
    choices: Sequence[str] | None,
    columns: Mapping[str, str],
    limit_train: int | None,
    limit_test: int | None,
) -> tuple[list[Question], DataFaults]:
    """All questions with their splits, and the faults found in them.

    Without a validation file, a share of the training QUESTIONS is held out, so that training sees no rationale of a
    held-out question. Raises DataError if no training or test question remains.
    """

    def read(source: str, split: Split) -> list[Question]:
        return read_questions(source, split=split, kind=kind, choices=choices, columns=columns)

    questions = [*read(train, "train")[:limit_train], *read(test, "test")[:limit_test]]
    if validation:
        questions += read(validation, "validation")
    audited = audit(questions, kind=kind, choices=choices)
    by_split: dict[Split, list[Question]] = {"train": [], "validation": [], "test": []}
    for question in audited.questions:
        by_split[question.split].append(question)
    if not validation and validation_share:
        by_split["train"], by_split["validation"] = split_validation(
            by_split["train"], validation_share, VALIDATION_SEED
        )
    needed: dict[Split, str] = {"train": train, "test": test}
    for split, source in needed.items():
        if not by_split[split]:
            raise DataError(f"no {split} question remains from {source}; expected at least one")
    return [question for group in by_split.values() for question in group], audited.faults


def prepare_recipe(recipe: Recipe) -> tuple[list[Question], DataFaults]:
    """The questions of a recipe, and the faults found in them."""
    task = recipe.task
    assert task.answer is not None, "the checks of a recipe set `task.answer`"
    return prepare(
        train=data_path(recipe, task.train),
        test=data_path(recipe, task.test),
        validation=data_path(recipe, task.validation) if task.validation else None,
        validation_share=task.validation_share,
        kind=task.answer,
        choices=task.choices,
        columns=task.columns,
        limit_train=task.limit_train,
        limit_test=task.limit_test,
    )


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
    """All recorded rationales of `questions` (of every split), with correct or wrong answers, and their faults.

    `limited` means that `questions` holds only the first training questions of a larger set; rationales of other
    questions are then no fault. A limit on test questions does not count, because rationales of test questions are
    always a fault.

    Rationales of validation questions are kept here and dropped later: this tool makes the validation split, so they are
    no fault of the data.
    """
    rationales = read_rationales(locate(teacher.rationales), questions, kind=kind, choices=choices, columns=columns)
    if limited:
        known = {question.id for question in questions}
        rationales = [rationale for rationale in rationales if rationale.question_id in known]
    merged = [
        replace(question, split="train") if question.split == "validation" else question for question in questions
    ]
    audited = audit(merged, rationales, kind=kind, choices=choices)
    return audited.rationales, audited.faults
