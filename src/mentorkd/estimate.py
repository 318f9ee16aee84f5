"""What a recipe will cost, told from its data alone: rows and tokens a stage, before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mentorkd.readers import read_rationales
from mentorkd.recipe import GOLD, TEACHER, Recipe, RecordedTeacher
from mentorkd.recipe_file import data_path
from mentorkd.records import Question, Rationale
from mentorkd.stages.prepare import prepare_recipe
from mentorkd.stages.sampling import Grader
from mentorkd.stages.select import CHARACTERS_PER_TOKEN, gather
from mentorkd.store import Stage

if TYPE_CHECKING:
    from mentorkd.teachers.dry_run import DryRun

__all__ = ["Estimates", "estimate"]


@dataclass(frozen=True)
class Estimates:
    """Rows and tokens that stages will handle; `notes` say how they were come by."""

    questions: Mapping[str, int]
    rationales: int
    kept: int
    tokens_per_rationale: int
    recipe: Recipe
    asked: DryRun | None = field(default=None, kw_only=True)

    @property
    def notes(self) -> list[str]:
        length = "as the teacher's" if self.asked is None else "as `teacher.max_tokens` allows"
        notes = [
            f"tokens are estimated as characters / {CHARACTERS_PER_TOKEN}; rationales yet to be written are taken to be as long "
            f"{length}, and all to be kept, so stages that read them may handle fewer"
        ]
        return notes if self.asked is None else notes + [f"teacher: {line}" for line in self.asked.lines()]

    def of(self, stage: Stage) -> dict[str, int]:
        """`rows` of a stage, the `epochs` of a training and, where a model reads or writes them, `tokens` of all epochs;
        nothing for the report.
        """
        if stage.kind == "prepare":
            return {"rows": sum(self.questions.values())}
        if stage.kind == "annotate":
            asked = self.asked
            tokens = {} if asked is None else {"tokens": asked.input_tokens + asked.output_tokens}
            return {"rows": self.rationales, **tokens}
        if stage.kind == "report":
            return {}
        learner = self.recipe.learners[stage.learner]
        if stage.kind == "score":
            rows = self._written(stage.source)
        elif stage.kind == "train":
            rows, epochs = sum(map(self._written, learner.rationales)), learner.training.epochs
            return {"rows": rows, "epochs": epochs, "tokens": rows * epochs * self.tokens_per_rationale}
        elif stage.kind == "augment":
            rows = self.questions["train"] * learner.sampling.samples
        else:
            rows = self.questions["test"]
        return {"rows": rows, "tokens": rows * self.tokens_per_rationale}

    def _written(self, source: str) -> int:
        if source == TEACHER:
            return self.kept
        if source == GOLD:
            return self.questions["train"]
        return self.questions["train"] * self.recipe.learners[source].sampling.samples


def estimate(recipe: Recipe, root: Path) -> Estimates:
    """Read the recipe's data and count; in the run folder `root`, replies of a teacher may be kept already."""
    questions, _ = prepare_recipe(recipe)
    counts = {split: sum(q.split == split for q in questions) for split in ("train", "validation", "test")}
    asked = [question for question in questions if question.split == "train"]
    teacher = recipe.teacher
    if not isinstance(teacher, RecordedTeacher):
        from mentorkd.stages.ask import preview

        rows = counts["train"] * teacher.samples
        return Estimates(
            counts, rows, rows, teacher.max_tokens, recipe, asked=preview(recipe, asked, root, roughly=True)
        )
    rationales = _recorded(recipe, teacher, questions)
    assert recipe.task.answer is not None
    grader = Grader(recipe.task.answer, recipe.task.choices)
    select = teacher.select.model_copy(update={"learnable": None})  # no model is loaded here that could judge
    kept = gather({TEACHER: rationales}, {TEACHER: select}, asked, conclude=grader.find).rationales
    characters = sum(len(rationale.text) for rationale in rationales)
    per_rationale = round(characters / max(1, len(rationales)) / CHARACTERS_PER_TOKEN)
    return Estimates(counts, len(rationales), len(kept), per_rationale, recipe)


def _recorded(recipe: Recipe, teacher: RecordedTeacher, questions: list[Question]) -> list[Rationale]:
    task = recipe.task
    assert task.answer is not None
    return read_rationales(
        data_path(recipe, teacher.rationales),
        questions,
        kind=task.answer,
        choices=task.choices,
        columns=task.columns,
    )
