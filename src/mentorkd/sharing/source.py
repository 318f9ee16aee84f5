"""A trained learner of a run, as exports read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mentorkd.errors import RunError
from mentorkd.pipeline.opened import OpenedRun
from mentorkd.pipeline.run import Pipeline, open_run
from mentorkd.pipeline.written import RunFile, TextFile, Written, find_written
from mentorkd.recipe.learner import Learner
from mentorkd.records import TEACHER, Prediction, Question


@dataclass(frozen=True)
class Source:
    """A learner of a run and one of its seeds. What an export reads of it is checked against its marks."""

    pipeline: Pipeline
    name: str
    seed: int

    @property
    def learner(self) -> Learner:
        """The learner's settings in the recipe."""
        return self.pipeline.recipe.learners[self.name]

    def model(self) -> Path:
        """The folder of its weights, a plain Hugging Face folder. Raises RunError if the learner is not trained, or not yet."""
        stage = self.pipeline.trained(self.name, self.seed)
        if stage is None:
            raise RunError(f"got learner {self.name}, which is not trained; its model is the one that the recipe names")
        return self.pipeline.folder.model(stage)

    def test_questions(self) -> list[Question]:
        """The run's test questions."""
        return self.pipeline.folder.questions("prepare", "test")

    def predictions(self) -> Sequence[Prediction]:
        """Its answers to the test questions, in their order. Raises RunError if they are not finished, or answer other questions."""
        stage = self.pipeline.stage_of("evaluate", self.name, self.seed)
        assert stage is not None, "every learner is evaluated"
        predictions = self.pipeline.folder.predictions(stage)
        if [each.question_id for each in predictions] != [each.id for each in self.test_questions()]:
            raise RunError(f"{stage} answers other test questions than the run has now; `mentorkd run` asks again")
        return predictions

    def written(self) -> Written:
        """All rationales of the run: the teacher's, and those of every learner and seed. Raises RunError if there is none yet."""
        return find_written(OpenedRun(self.pipeline.folder.root))

    def texts(self) -> list[TextFile]:
        """The files of rationales that learners read: that of the teacher with the decisions of people, if some are in effect."""
        written = self.written()
        curated = [
            replace(text, file=written.curated or text.file) for text in written.texts if text.author.seed is None
        ]
        return curated + [text for text in written.texts if text.author.seed is not None]

    def checked(self, file: RunFile) -> Path:
        """A file of rationales or questions. Raises DamagedError if it has changed since the run wrote it."""
        if self.pipeline.folder.verify:
            file.check()
        return file.path


def open_source(folder: Path, learner: str | None, seed: int | None, *, verify: bool = True) -> Source:
    """A learner of a run folder: by default the student of the report's headline, with the recipe's first seed.

    Raises RunError for a folder that is no run, and for a learner or seed that it does not have.
    """
    pipeline = open_run(folder, verify=verify)
    recipe = pipeline.recipe
    if learner is not None and learner not in recipe.learners:
        hint = " (the teacher is not a trained model)" if learner == TEACHER else ""
        raise RunError(f"got learner {learner}{hint}; expected one of {', '.join(recipe.learners)}")
    if seed is not None and seed not in recipe.seeds:
        expected = ", ".join(map(str, recipe.seeds))
        raise RunError(f"got seed {seed}; expected one of {expected}, the recipe's seeds")
    return Source(pipeline, learner or pipeline.headline_student(), recipe.seeds[0] if seed is None else seed)
