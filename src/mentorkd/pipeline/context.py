"""What the stages of a run share: its files and models, what learners are taught, how they are asked and validated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from mentorkd.data.encoding import EncodingCounts, Example, TextEncoder, training_rows
from mentorkd.data.selection import gather, gold_rationales
from mentorkd.distillation.likelihood import likelihoods, perplexity_scorer
from mentorkd.distillation.objectives.base import Objective
from mentorkd.distillation.objectives.build import MentorFiles, objective_of
from mentorkd.errors import DataError, TrainingError
from mentorkd.files import fingerprint
from mentorkd.generation import open_engine
from mentorkd.generation.engine import Engine
from mentorkd.grading.grade import Grader
from mentorkd.models import LoadedModel, load_model, resolve_device, save_model
from mentorkd.pipeline.run_folder import RunFiles, RunFolder, Stage
from mentorkd.pipeline.stages.evaluate import accuracy, evaluate
from mentorkd.precision import Precision
from mentorkd.recipe.learner import Learner
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.search import with_values
from mentorkd.records import GOLD, Prediction, Question, Rationale, Split

__all__ = ["CHUNK_BATCHES", "Workbench"]

# Chunks of sampling that a kill cannot undo are this many batches: about a minute's work, yet enough to sort by length.
CHUNK_BATCHES = 8


class Workbench:
    """One recipe and its run folder, with what is needed to work on them."""

    def __init__(
        self, recipe: Recipe, folder: RunFolder, progress: Callable[[int, int], None], note: Callable[[str], None]
    ) -> None:
        self.recipe, self.folder, self.progress, self.note = recipe, folder, progress, note
        self.files = RunFiles(folder)
        self._device = resolve_device(recipe.device)
        self.holds_gpu = False
        logging.disable_progress_bar()  # a bar a checkpoint would tear ours
        assert recipe.task.answer is not None, "the recipe's checks fill this in"
        self.grader = Grader(recipe.task.answer, recipe.task.choices)

    @property
    def device(self) -> torch.device:
        """Where models run. A stage that asks for an accelerator is taken to hold it to its end (`holds_gpu`)."""
        self.holds_gpu |= self._device.type != "cpu"
        return self._device

    def questions(self, stage: Stage, split: Split | None = None) -> list[Question]:
        """The questions that a stage reads, of a split or all."""
        return self.files.questions(stage.inputs["questions"], split)

    def rows(
        self, stage: Stage, name: str, reader: TextEncoder, *, scored: str | None = None
    ) -> tuple[list[Example], EncodingCounts, list[dict[str, Any]]]:
        """What a learner is taught, or all of a source that it may be: its rows, and the counts of encoding and of filters."""
        learner, questions = self.recipe.learners[name], self.questions(stage, "train")
        written = {
            source: gold_rationales(questions)
            if source == GOLD
            else self.files.rationales(stage.inputs[f"rationales/{source}"])
            for source in ([scored] if scored else learner.rationales)
        }
        filters = {source: self.recipe.filter_of(name, source) for source in written}
        if scored:
            filters = {source: select.of_each() for source, select in filters.items()}
        judge = partial(self._judge, stage, learner, questions)
        gathered = gather(written, filters, questions, tokens=reader.count, conclude=self.grader.find, judge=judge)
        rows, counts = training_rows(gathered.rationales, questions, learner, reader)
        if not rows and not scored:
            raise TrainingError(
                f"{name}: no training row is left of {len(gathered.rationales)} selected rationales "
                f"({counts.source_too_long} prompts and {counts.target_too_long} targets were too long); loosen `select`, "
                "or raise `max_source_tokens` or `max_target_tokens`"
            )
        return rows, counts, gathered.filters

    def _judge(
        self, stage: Stage, reader: Learner, questions: list[Question], name: str, rationales: Sequence[Rationale]
    ) -> dict[str, float]:
        """How likely the model of a `learnable` filter finds rationales."""
        learner = self.recipe.learners.get(name)
        folder = self.model_folder(name, stage.seed, stage.inputs.get(f"judge/{name}")) if learner else None
        bfloat16 = self.precision(learner or reader) == "bfloat16"
        judge = perplexity_scorer(
            name, learner, folder, device=self.device, bfloat16=bfloat16, journals=self.files.engines
        )
        with self.files.alone(judge.journal.name):
            return likelihoods(judge, rationales, questions, on_progress=self.progress)

    def model(self, stage: Stage, name: str) -> Path:
        """The folder of a learner's model, by its role in the stage."""
        trained = stage.inputs.get("model", stage.inputs.get(f"model/{name}"))
        return self.model_folder(name, stage.seed, trained)

    def model_folder(self, name: str, seed: int, trained: str | None) -> Path:
        """The model that the stage `trained` made of a learner; without one the model as it is, saved once."""
        if trained is not None:
            return self.files.model(trained)
        config = self.recipe.learners[name].model.model_copy(update={"lora": None})
        folder = self.files.engines / f"untrained-{fingerprint([config.model_dump(), seed])}"
        with self.files.alone(folder.name):
            if not folder.is_dir():
                half = folder.with_name(f".{folder.name}.tmp")
                save_model(load_model(config, seed=seed, device=self.device), half, card=f"# {name}, not trained\n")
                half.replace(folder)
        return folder

    def engine(self, learner: Learner, model: Path) -> Engine:
        """An engine over a learner's model."""
        sampling = learner.sampling
        return open_engine(
            sampling.engine,
            model_dir=model,
            device=self.device,
            cache_dir=self.files.engines,
            batch_size=sampling.batch_size,
        )

    def predict(
        self, engine: Engine, learner: Learner, name: str, seed: int, questions: list[Question], journal: Path
    ) -> list[Prediction]:
        """Greedy answers of a learner."""
        return evaluate(
            engine,
            questions,
            learner=name,
            seed=seed,
            prompt=learner.eval_prompt,
            grader=self.grader,
            max_new_tokens=learner.sampling.max_new_tokens,
            journal=journal,
            chunk=CHUNK_BATCHES * learner.sampling.batch_size,
            on_progress=self.progress,
        )

    def precision(self, learner: Learner) -> Precision:
        """The learner's arithmetic; `auto` is measured once a run folder, so that a resumed run does not change it."""
        wanted = learner.training.precision
        return self.files.precision(self.device.type) if wanted == "auto" else wanted

    def learner(self, stage: Stage) -> Learner:
        """The learner that a stage serves, with the values of its trial."""
        return with_values(self.recipe.learners[stage.learner], stage.trial)

    def objective(self, stage: Stage, learner: Learner, loaded: LoadedModel) -> Objective:
        """What a learner minimises, with what its mentors left."""
        stored = learner.rationales if learner.soft_label_store != "online" else []
        mentors = {
            name: MentorFiles(
                self.model(stage, name),
                [self.files.soft_labels(stage.inputs[f"soft_labels/{name}/{source}"]) for source in stored],
            )
            for name in learner.mentor_weights
        }
        return objective_of(learner, loaded, mentors, seed=stage.seed)

    def validation(self, stage: Stage, learner: Learner, loaded: LoadedModel) -> Callable[[], float] | None:
        """The accuracy by which the best round is chosen; None where the last one is taken. Raises DataError where there is
        no question to ask."""
        if learner.training.select_on == "last":
            return None
        questions = self.questions(stage, "test" if learner.training.select_on == "test" else "validation")
        if not questions:
            raise DataError(
                "no validation question is left to choose the epoch by; give `task.validation`, raise "
                "`task.validation_share`, or set `training.select_on: last`"
            )
        engine = open_engine("transformers", loaded=loaded, device=self.device, batch_size=learner.sampling.batch_size)
        options = {
            "prompt": learner.eval_prompt,
            "grader": self.grader,
            "max_new_tokens": learner.sampling.max_new_tokens,
        }
        return lambda: accuracy(engine, questions, **options)  # type: ignore[arg-type]
