"""Whose run folder it is: a folder belongs to the recipe whose name and questions it has.

Settings may change from run to run, since overrides are for that. The places of data files may change too: data that were moved
are the same data.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from mentorkd.data.prepare import prepare_recipe
from mentorkd.errors import DataError, RecipeError
from mentorkd.pipeline.run_folder import RunFolder, Stage
from mentorkd.recipe.schema import Recipe, TaskConfig
from mentorkd.recipe.yaml import mapping, read_yaml
from mentorkd.records import Question

_PLACES = {"train", "validation", "test", "unlabelled"}


def conflict(recipe: Recipe, folder: RunFolder, prepare: Stage) -> str | None:
    """Why the folder belongs to another recipe; None if it belongs to this one, or to none yet.

    `prepare` is the recipe's first stage. The questions are read only if it is not finished.
    """
    if not folder.recipe.is_file():
        return None
    try:
        raw = mapping(read_yaml(folder.recipe.read_text(encoding="utf-8"))[0])
    except (RecipeError, UnicodeDecodeError):
        raw = {}
    name, task = raw.get("name"), mapping(raw.get("task"))
    if not isinstance(name, str) or not task:
        return f"{folder.recipe} is damaged, so nobody knows whose results {folder.root} holds"
    if name != recipe.name:
        return f"{folder.root} belongs to the recipe `{name}`, and this one is `{recipe.name}`"
    if folder.finished(prepare) or folder.last(prepare.name) is None:
        return None
    if not (folder.root / folder.record(prepare.name).target / "questions.jsonl").is_file():
        return None  # removed, to be made again
    theirs = _ids(folder.questions(prepare.name), task.get("validation") is not None)
    ours = _read(recipe)
    if theirs == ours or theirs == _read_with(recipe, task):
        return None
    counts = [len(train | test) for train, test in (theirs, ours)]
    return f"{folder.root} belongs to a recipe `{name}` with other questions ({counts[0]:,} there, {counts[1]:,} here)"


def _read(recipe: Recipe) -> tuple[set[str], set[str]]:
    return _ids(prepare_recipe(recipe)[0], recipe.task.validation is not None)


def _read_with(recipe: Recipe, stored: dict[str, Any]) -> tuple[set[str], set[str]] | None:
    """The ids that the recipe's files give with the stored settings of the task; None if these do not fit the files."""
    settings = {key: value for key, value in stored.items() if key not in _PLACES}
    places = {place: getattr(recipe.task, place) for place in _PLACES}
    if stored.get("validation") is None:
        places["validation"] = None
    elif places["validation"] is None:
        settings["validation_share"] = 0.0
    try:
        return _read(recipe.model_copy(update={"task": TaskConfig.model_validate(settings | places)}))
    except (ValidationError, DataError):
        return None


def _ids(questions: Iterable[Question], has_file: bool) -> tuple[set[str], set[str]]:
    """The ids of the training questions, with those held out of them, and of the test questions."""
    train, test = set[str](), set[str]()
    for question in questions:
        if question.split == "test":
            test.add(question.id)
        elif question.split == "train" or (question.split == "validation" and not has_file):
            train.add(question.id)
    return train, test
