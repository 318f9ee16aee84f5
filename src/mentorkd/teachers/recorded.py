"""A teacher whose rationales were recorded: they are read from a file, and nobody is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mentorkd.data.audit import Audit, audit
from mentorkd.data.prepare import question_ids
from mentorkd.data.readers import stream_rationales
from mentorkd.data.rows import Rows
from mentorkd.data.sources import source_identity
from mentorkd.recipe.grader import grader_of
from mentorkd.recipe.graph import imitates_teacher
from mentorkd.recipe.load import data_path
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.teacher import RecordedTeacherConfig
from mentorkd.records import TEACHER, Question, Rationale
from mentorkd.teachers.teacher import Annotation, AnnotationContext, Description, TeacherEstimate


class RecordedTeacher:
    """Reads `teacher.rationales`."""

    def __init__(self, recipe: Recipe, config: RecordedTeacherConfig) -> None:
        assert recipe.task.answer is not None, "the recipe's checks fill this in"
        self.recipe, self.config, self.kind = recipe, config, recipe.task.answer
        self.file = data_path(recipe, config.rationales)

    def check(self) -> None:
        """Nothing: loading the recipe has looked for the file, and reading it is the first thing a run does."""

    def identity(self) -> list[Any]:
        settings = self.config.model_dump(exclude={"select", "overlay"})
        if self.config.columns is None:  # a key of later versions is named only where it is set
            del settings["columns"]
        return [settings, source_identity(self.file)]

    def describe(self) -> Description:
        return Description("recorded")

    def estimate(self, questions: Sequence[Question], root: Path, *, roughly: bool = False) -> TeacherEstimate:
        characters = 0

        def measured(rationales: Iterable[Rationale]) -> Iterator[Rationale]:
            nonlocal characters
            for rationale in rationales:
                characters += len(rationale.text)
                yield rationale

        audited = self._audited(questions, measured)
        count = len(audited.rationales)
        return TeacherEstimate(
            count, recorded=audited.rationales, characters=characters / max(1, count), faults=audited.faults.lines()
        )

    def annotate(self, questions: Sequence[Question], context: AnnotationContext) -> Annotation:
        """All rationales that the file has for `questions`, correct and wrong ones alike, and their faults."""
        audited = self._audited(questions)
        if self.recipe.data.strict:
            audited.faults.raise_if_strict()
        return Annotation(audited.rationales, audited.faults.lines())

    def _audited(
        self, questions: Sequence[Question], watch: Callable[[Iterable[Rationale]], Iterable[Rationale]] = iter
    ) -> Audit:
        """The rationales without those that have faults. `watch` sees each of them as it is read.

        Rationales of validation questions are kept here and left out of training later: the split is this tool's own,
        not a fault of the data. Those of unlabelled questions cannot be graded, and belong to no question here.
        """
        questions = [question for question in questions if question.labelled]
        rationales, task = self._read(questions), self.recipe.task
        if task.limit_train is not None:
            # The file may hold rationales of the questions that were cut off. Those of test questions are a fault in any
            # case, so a limit on test questions needs nothing here.
            known = {question.id for question in questions}
            rationales = (rationale for rationale in rationales if rationale.question_id in known)
        merged = [replace(each, split="train") if each.split == "validation" else each for each in questions]
        return audit(
            merged,
            rationales,
            kind=self.kind,
            choices=task.choices,
            hold=lambda clean: Rows.of(Rationale, watch(clean)),
        )

    def _read(self, questions: Sequence[Question]) -> Iterator[Rationale]:
        task, own = self.recipe.task, self.config.columns
        return stream_rationales(
            self.file,
            questions,
            kind=self.kind,
            choices=task.choices,
            own=grader_of(task).own,
            columns=task.columns_of(TEACHER) if own is None else own,
            ids=lambda: question_ids(self.recipe),
            needs_logprobs=imitates_teacher(self.recipe),
        )
