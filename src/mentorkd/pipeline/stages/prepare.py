"""Prepare: the questions of every split."""

from __future__ import annotations

from pathlib import Path

from mentorkd.data.prepare import prepare_recipe
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.records import PrepareRecord, count_splits
from mentorkd.pipeline.run_folder import Stage
from mentorkd.records import write_jsonl


def prepare(context: RunContext, stage: Stage, workdir: Path) -> PrepareRecord:
    """Read the task's questions, count their faults, and hold out the validation questions.

    Raises DataError for faulty data if the recipe says `data.strict`.
    """
    questions, faults = prepare_recipe(context.recipe)
    faults.raise_if_strict(context.recipe.data.strict)
    for line in faults.lines():
        context.note(line)
    write_jsonl(workdir / "out" / "questions.jsonl", questions)
    return PrepareRecord(questions=count_splits(questions), faults=faults.lines())
