"""Prepare: read the questions of every split, find their faults, hold out the validation questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mentorkd.data.audit import DataFaults, audit
from mentorkd.data.readers import read_questions
from mentorkd.data.selection import split_validation
from mentorkd.errors import DataError
from mentorkd.recipe.load import data_path
from mentorkd.recipe.schema import Recipe
from mentorkd.records import AnswerKind, Question, Split

__all__ = ["prepare", "prepare_recipe"]

# The split must be the same for every learner and seed, or their validation accuracies could not be compared.
VALIDATION_SEED = 0


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
    """All questions, each with its split, and the faults found in them.

    Without a validation file, a share of the training QUESTIONS is held out, so that no rationale of a held-out question
    is trained on.
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
    asked, held, tested = by_split["train"], by_split["validation"], by_split["test"]
    if not validation and validation_share:
        asked, held = split_validation(asked, validation_share, VALIDATION_SEED)
        held = [replace(question, split="validation") for question in held]
    if not asked or not tested:
        empty = "training" if not asked else "test"
        raise DataError(f"no {empty} question is left of {train if not asked else test}; expected at least one")
    return [*asked, *held, *tested], audited.faults


def prepare_recipe(recipe: Recipe) -> tuple[list[Question], DataFaults]:
    """The questions that a recipe names, and the faults found in them."""
    task = recipe.task
    assert task.answer is not None, "the recipe's checks fill this in"
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
