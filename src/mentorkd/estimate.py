"""What a recipe will cost, told from its data alone: rows and tokens a stage, before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mentorkd.readers import read_rationales
from mentorkd.recipe import TEACHER, Recipe
from mentorkd.recipe_file import data_path
from mentorkd.records import Question, Rationale
from mentorkd.stages.prepare import prepare
from mentorkd.stages.select import gather
from mentorkd.store import Stage

__all__ = ["Estimates", "estimate"]

# English text in the T5 vocabulary has 3.5 to 4.5 characters a token on the paper's data.
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Estimates:
    """Rows and tokens that stages will handle; `notes` say how they were come by."""

    questions: Mapping[str, int]
    rationales: int
    kept: int
    tokens_per_rationale: int
    recipe: Recipe

    @property
    def notes(self) -> list[str]:
        return [
            f"tokens are estimated as characters / {CHARACTERS_PER_TOKEN}; rationales yet to be written are taken to be as long "
            "as the teacher's, and all to be kept, so stages that read them may handle fewer"
        ]

    def of(self, stage: Stage) -> dict[str, int]:
        """`rows` and, where a model reads or writes them, `tokens` of a stage; nothing for the report."""
        if stage.kind == "prepare":
            return {"rows": sum(self.questions.values())}
        if stage.kind == "annotate":
            return {"rows": self.rationales}
        if stage.kind == "report":
            return {}
        learner = self.recipe.learners[stage.learner]
        if stage.kind == "score":
            rows = self._written(stage.source)
        elif stage.kind == "train":
            rows = sum(map(self._written, learner.rationales)) * learner.training.epochs
        elif stage.kind == "augment":
            rows = self.questions["train"] * learner.sampling.samples
        else:
            rows = self.questions["test"]
        return {"rows": rows, "tokens": rows * self.tokens_per_rationale}

    def _written(self, source: str) -> int:
        if source == TEACHER:
            return self.kept
        return self.questions["train"] * self.recipe.learners[source].sampling.samples


def estimate(recipe: Recipe) -> Estimates:
    """Read the recipe's data and count."""
    task = recipe.task
    assert task.answer is not None, "the recipe's checks fill this in"
    questions, _ = prepare(
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
    rationales = _recorded(recipe, questions)
    kept = gather(
        {TEACHER: rationales}, {TEACHER: recipe.teacher.select}, [q for q in questions if q.split == "train"]
    ).rationales
    characters = sum(len(rationale.text) for rationale in rationales)
    return Estimates(
        questions={split: sum(q.split == split for q in questions) for split in ("train", "validation", "test")},
        rationales=len(rationales),
        kept=len(kept),
        tokens_per_rationale=round(characters / max(1, len(rationales)) / CHARACTERS_PER_TOKEN),
        recipe=recipe,
    )


def _recorded(recipe: Recipe, questions: list[Question]) -> list[Rationale]:
    task = recipe.task
    assert task.answer is not None
    return read_rationales(
        data_path(recipe, recipe.teacher.rationales),
        questions,
        kind=task.answer,
        choices=task.choices,
        columns=task.columns,
    )
