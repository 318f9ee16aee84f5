"""The data of a run: read the questions of every split, audit them, and hold out validation questions."""

from __future__ import annotations

from mentorkd.data.audit import DataFaults, audit
from mentorkd.data.readers import SourceQuestions, read_source
from mentorkd.data.selection import split_validation
from mentorkd.errors import DataError, GraderError
from mentorkd.recipe.grader import grader_of
from mentorkd.recipe.load import data_path
from mentorkd.recipe.schema import Recipe, TaskConfig
from mentorkd.records import Question, Split

VALIDATION_SEED = 0
"""Fixed, because validation accuracies are comparable only if all learners and seeds share one split."""


def prepare_recipe(recipe: Recipe) -> tuple[list[Question], DataFaults]:
    """All questions of a recipe with their splits, and the faults found in them.

    Without a validation file, a share of the training QUESTIONS is held out, so that training sees no rationale of a
    held-out question. Raises DataError if no question remains of the training, test or unlabelled ones that the recipe names, and
    for a mentor with more folds than training questions.
    """
    task = recipe.task
    assert task.answer is not None, "the checks of a recipe set `task.answer`"
    questions: list[Question] = []
    rows: list[int] = []
    limits: dict[Split, int | None] = {
        "train": task.limit_train,
        "test": task.limit_test,
        "unlabelled": task.limit_unlabelled,
    }
    for split in _files(recipe):
        read, limit = read_split(recipe, split), limits.get(split)
        questions += read.questions[:limit]
        rows += read.rows[:limit]
    audited = audit(questions, kind=task.answer, choices=task.choices, rows=rows)
    by_split: dict[Split, list[Question]] = {"train": [], "validation": [], "test": [], "unlabelled": []}
    for question in audited.questions:
        by_split[question.split].append(question)
    if not task.validation and task.validation_share:
        train, validation = split_validation(by_split["train"], task.validation_share, VALIDATION_SEED)
        by_split |= {"train": train, "validation": validation}
    for name, group, file in (
        ("training", by_split["train"], task.train),
        ("test", by_split["test"], task.test),
        ("unlabelled", by_split["unlabelled"], task.unlabelled),
    ):
        if file is not None and not group:
            raise DataError(f"no {name} question remains from {data_path(recipe, file)}; expected at least one")
    for name, learner in recipe.learners.items():
        if learner.folds > (count := len(by_split["train"])):
            raise DataError(
                f"learners.{name}.folds: got {learner.folds} for {count} training questions; give at most {count}"
            )
    if task.grader is not None:
        _check_grader(task, by_split["train"][0])
    return [question for group in by_split.values() for question in group], audited.faults


def _check_grader(task: TaskConfig, question: Question) -> None:
    """Grade a gold answer, so that a grader that does not work is found before anything is trained."""
    if (verdict := grader_of(task)(f"--> {question.answer}", question).verdict) != "correct":
        what = f"the gold answer {question.answer!r} of question {question.id} is `{verdict}`"
        raise GraderError(f"grader {task.grader}: {what}; expected `correct`, so correct the function or the data")


def read_split(recipe: Recipe, split: Split, source: str | None = None) -> SourceQuestions:
    """All questions of one of the task's files, or of another file that is read like it."""
    task = recipe.task
    assert task.answer is not None, "the checks of a recipe set `task.answer`"
    path = data_path(recipe, _files(recipe)[split]) if source is None else source
    return read_source(path, split=split, kind=task.answer, choices=task.choices, columns=task.columns_of(split))


def question_ids(recipe: Recipe) -> dict[str, str]:
    """`Question.id` by the ids that the task's files give their labelled questions. The training file has the first word."""
    ids: dict[str, str] = {}
    for split in sorted(_files(recipe).keys() - {"unlabelled"}, key=("train", "validation", "test").index):
        ids = read_split(recipe, split).ids | ids
    return ids


def _files(recipe: Recipe) -> dict[Split, str]:
    """The task's files, in the order in which questions are read."""
    task = recipe.task
    files: dict[Split, str | None] = {
        "train": task.train,
        "test": task.test,
        "validation": task.validation,
        "unlabelled": task.unlabelled,
    }
    return {split: file for split, file in files.items() if file}
