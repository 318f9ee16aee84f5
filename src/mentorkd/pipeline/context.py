"""What every stage works with: the recipe, the run folder, where models run, and where progress is shown."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from transformers.utils import logging

from mentorkd.files import fingerprint
from mentorkd.generation import open_engine
from mentorkd.generation.engine import Engine
from mentorkd.grading.grade import Grader
from mentorkd.hub import cached_commit
from mentorkd.models import load_model, resolve_device, save_model
from mentorkd.models.gguf import plain_folder
from mentorkd.pipeline.model_card import describe_model
from mentorkd.pipeline.run_folder import RunFolder, Stage
from mentorkd.precision import Precision
from mentorkd.recipe.learner import Learner
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.search import with_values
from mentorkd.records import Progress, Question, Split
from mentorkd.seals import damage_in, seal_folder


class RunContext:
    """One recipe and its run folder, for one stage.

    Args:
        progress: called with (done, total).
        note: called with a line for the user.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        progress: Progress = lambda done, total: None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.recipe, self.folder, self.progress, self.note = recipe, folder, progress, note
        assert recipe.task.answer is not None, "the recipe's checks fill this in"
        self.grader = Grader(recipe.task.answer, recipe.task.choices)
        self.holds_gpu = False
        self._device = resolve_device(recipe.device)
        logging.disable_progress_bar()  # transformers would draw a bar for each checkpoint across ours

    @property
    def device(self) -> torch.device:
        """Where models run. A stage that asks for an accelerator is taken to hold it to its end (`holds_gpu`)."""
        self.holds_gpu |= self._device.type != "cpu"
        return self._device

    def questions(self, stage: Stage, split: Split | None = None) -> list[Question]:
        """The questions that a stage reads, of a split or all."""
        return self.folder.questions(stage.inputs["questions"], split)

    def learner(self, stage: Stage) -> Learner:
        """The learner that a stage serves, with the values of its trial."""
        return with_values(self.recipe.learners[stage.learner], stage.trial)

    def precision(self, learner: Learner) -> Precision:
        """The learner's arithmetic. `auto` is measured once a run folder, so that a resumed run does not change it."""
        wanted = learner.training.precision
        return self.folder.precision(self.device.type) if wanted == "auto" else wanted

    def model(self, stage: Stage, name: str) -> Path:
        """The folder of a learner's model, which the stage reads in the role `model` or `model/NAME`."""
        return self.model_folder(name, stage.seed, stage.inputs.get("model", stage.inputs.get(f"model/{name}")))

    def model_folder(self, name: str, seed: int, trained: str | None) -> Path:
        """The model that the stage `trained` made of a learner. With None the learner is not trained, and its model is saved once."""
        if trained is not None:
            return self.folder.model(trained)
        config = self.recipe.learners[name].model.model_copy(update={"lora": None})
        contents = [_content(source, config.revision) for source in (config.name, config.tokenizer) if source]
        folder = self.folder.engines / f"untrained-{fingerprint([config.model_dump(), contents, seed])}"
        with self.folder.alone(folder.name):
            if self.folder.verify and (damage := damage_in(folder)):
                self.note(f"{damage}; it is made again")
                shutil.rmtree(folder)
            if not folder.is_dir():
                half = folder.with_name(f".{folder.name}.tmp")
                card = f"# {name}, not trained\n\n{describe_model(config)}\n"
                save_model(load_model(config, seed=seed, device=self.device), half, card=card)
                seal_folder(half)
                half.replace(folder)
        return folder

    def engine(self, learner: Learner, model: Path) -> Engine:
        """The learner's engine over the model in a folder."""
        sampling = learner.sampling
        return open_engine(
            sampling.engine,
            model_dir=model,
            device=self.device,
            cache_dir=self.folder.engines,
            batch_size=sampling.batch_size,
        )


def _content(source: str, revision: str | None) -> str | None:
    """What tells the content of a model apart under one name: its commit, or the hash of a GGUF file; None for a folder."""
    folder = plain_folder(source)
    return cached_commit(source, revision) if folder == source else Path(folder).name
