"""The learners' answers to the test questions, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from mentorkd.errors import RunError
from mentorkd.pipeline.opened import OpenedRun
from mentorkd.pipeline.run_folder import RunFolder
from mentorkd.records import Prediction, Question

Model = tuple[str, int]
"""A learner and a seed."""


@dataclass(frozen=True)
class Answers:
    """The test questions, and what the models that have answered them wrote."""

    questions: Sequence[Question]
    predictions: Mapping[Model, Mapping[str, Prediction]]
    """By the id of the question."""

    @property
    def ids(self) -> list[str]:
        """The ids of the questions."""
        return [question.id for question in self.questions]

    @property
    def learners(self) -> list[str]:
        """The learners with answers, in the recipe's order."""
        return list(dict.fromkeys(learner for learner, _ in self.predictions))

    @property
    def seeds(self) -> list[int]:
        """The seeds with answers."""
        return sorted({seed for _, seed in self.predictions})

    def of(self, learner: str, question: str, seed: int | None) -> dict[int, Prediction]:
        """The answers of a learner to a question, by seed: of one seed, or of all with None."""
        found = {
            each: rows[question]
            for (name, each), rows in self.predictions.items()
            if name == learner and seed in (None, each) and question in rows
        }
        return dict(sorted(found.items()))

    @cached_property
    def correct(self) -> Mapping[Model, Set[str]]:
        """The questions that each model answers correctly."""
        return {
            model: {id for id, answer in rows.items() if answer.verdict == "correct"}
            for model, rows in self.predictions.items()
        }

    def correct_of(self, learner: str, seed: int | None) -> Set[str]:
        """The questions that a learner answers correctly with a seed; with None, with more than half of its seeds."""
        models = [ids for (name, each), ids in self.correct.items() if name == learner and seed in (None, each)]
        counts = Counter(id for ids in models for id in ids)
        return {id for id, count in counts.items() if 2 * count > len(models)}


def read_answers(run: OpenedRun) -> Answers:
    """The answers so far. Raises RunError if the questions are not prepared yet, and DamagedError for a changed file."""
    if "prepare" not in run.published:
        raise RunError(f"{run.root} has no questions yet; they come with the stage prepare")
    stages = {
        (learner, seed): stage
        for learner in run.recipe.learners
        for seed in run.recipe.seeds
        if (stage := run.stage("evaluate", learner, seed)) is not None
    }
    predictions = {model: _predictions(run.root, stage, _version(run.folder, stage)) for model, stage in stages.items()}
    return Answers(_questions(run.root, _version(run.folder, "prepare")), predictions)


def _version(folder: RunFolder, stage: str) -> tuple[int, int]:
    """Changes when a stage is published again."""
    stat = folder.mark(stage).stat()
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=64)
def _predictions(root: Path, stage: str, version: tuple[int, int]) -> Mapping[str, Prediction]:
    return {prediction.question_id: prediction for prediction in RunFolder(root).predictions(stage)}


@lru_cache(maxsize=16)
def _questions(root: Path, version: tuple[int, int]) -> Sequence[Question]:
    return RunFolder(root).questions("prepare", "test")
