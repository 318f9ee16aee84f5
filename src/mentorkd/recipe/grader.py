"""The grader of a recipe's task, and the faults of `task.grader`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from mentorkd.grading.grade import Grader
from mentorkd.grading.own import OwnGrader, module_and_function, source_of
from mentorkd.recipe.aliases import filters_in
from mentorkd.recipe.checks import Finding
from mentorkd.recipe.schema import TaskConfig
from mentorkd.recipe.yaml import mapping

_KEY = ("task", "grader")


def grader_of(task: TaskConfig) -> Grader:
    """What grades the texts of a task."""
    assert task.answer is not None, "the recipe's checks fill this in"
    return Grader(task.answer, task.choices, OwnGrader(task.grader) if task.grader else None)


def resolved(grader: str, folder: str) -> str:
    """The grader with the absolute path of its file, if the file is named or lies in `folder` under the module's name."""
    if (parts := module_and_function(grader)) is None:
        return grader
    module, function = parts
    file = module if module.endswith(".py") else f"{module.replace('.', '/')}.py"
    path = os.path.normpath(os.path.join(folder, os.path.expanduser(file)))
    return f"{path}:{function}" if module.endswith(".py") or os.path.isfile(path) else grader


def grader_faults(raw: Mapping[str, Any]) -> Iterator[Finding]:
    """The faults of a raw recipe's grader, apart from a missing file."""
    task = mapping(raw.get("task"))
    if not isinstance(grader := task.get("grader"), str):
        return
    if module_and_function(grader) is None:
        yield _KEY, f"got {grader!r}; expected MODULE:FUNCTION or FILE.py:FUNCTION, e.g. overlap:grade"
    if (kind := task.get("answer")) is not None and kind != "text":
        yield _KEY, f"`answer: {kind}` has a grader of mentorkd's; set `answer: text`, or remove `grader`"
    for place, filters in filters_in(raw):
        if filters.get("answer_in_rationale"):
            why = "`task.grader` grades answers, and cannot find one in the reasoning"
            yield (*place, "answer_in_rationale"), f"{why}; remove this filter"


def missing_grader(raw: Mapping[str, Any]) -> Iterator[Finding]:
    """The fault of a grader whose file or module does not exist."""
    grader = mapping(raw.get("task")).get("grader")
    parts = module_and_function(grader) if isinstance(grader, str) else None
    if parts is None or source_of(parts[0]) is not None:
        return
    if parts[0].endswith(".py"):
        yield _KEY, f"no file at {parts[0]}"
    else:
        file = f"{parts[0].replace('.', '/')}.py"
        yield _KEY, f"no module `{parts[0]}`; put {file} beside the recipe, or install the module"
