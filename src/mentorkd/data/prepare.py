"""The data of a run: read the questions of every split, audit them, and hold out validation questions."""

from __future__ import annotations

from mentorkd.data.audit import DataFaults, audit
from mentorkd.data.readers import read_questions
from mentorkd.data.selection import split_validation
from mentorkd.errors import DataError
from mentorkd.recipe.load import data_path
from mentorkd.recipe.schema import Recipe
from mentorkd.records import Question, Split

VALIDATION_SEED = 0
"""Fixed, because validation accuracies are comparable only if all learners and seeds share one split."""


def prepare_recipe(recipe: Recipe) -> tuple[list[Question], DataFaults]:
    """All questions of a recipe with their splits, and the faults found in them.

    Without a validation file, a share of the training QUESTIONS is held out, so that training sees no rationale of a
    held-out question. Raises DataError if no training or test question remains.
    """
    task = recipe.task
    kind = task.answer
    assert kind is not None, "the checks of a recipe set `task.answer`"

    def read(source: str, split: Split) -> list[Question]:
        path = data_path(recipe, source)
        return read_questions(path, split=split, kind=kind, choices=task.choices, columns=task.columns)

    questions = [*read(task.train, "train")[: task.limit_train], *read(task.test, "test")[: task.limit_test]]
    if task.validation:
        questions += read(task.validation, "validation")
    audited = audit(questions, kind=kind, choices=task.choices)
    by_split: dict[Split, list[Question]] = {"train": [], "validation": [], "test": []}
    for question in audited.questions:
        by_split[question.split].append(question)
    if not task.validation and task.validation_share:
        train, validation = split_validation(by_split["train"], task.validation_share, VALIDATION_SEED)
        by_split |= {"train": train, "validation": validation}
    for name, group, source in (("training", by_split["train"], task.train), ("test", by_split["test"], task.test)):
        if not group:
            raise DataError(f"no {name} question remains from {data_path(recipe, source)}; expected at least one")
    return [question for group in by_split.values() for question in group], audited.faults
