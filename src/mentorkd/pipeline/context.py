"""What every stage works with: the recipe, the run folder, where models run, and where progress is shown."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from transformers.utils import logging

from mentorkd.data.selection import split_folds
from mentorkd.files import fingerprint
from mentorkd.files.seals import damage_in, seal_folder
from mentorkd.generation import open_engine
from mentorkd.generation.engine import Engine
from mentorkd.hub import cached_commit
from mentorkd.models import LoadedModel, load_model, resolve_device, save_model
from mentorkd.models.gguf import plain_folder
from mentorkd.pipeline.model_card import describe_model
from mentorkd.pipeline.provenance import Cost
from mentorkd.pipeline.run_folder import RunFolder, Stage, part_role
from mentorkd.pipeline.shards import in_shard
from mentorkd.precision import Precision, use_tf32
from mentorkd.recipe.grader import grader_of
from mentorkd.recipe.graph import initial_model
from mentorkd.recipe.learner import Learner
from mentorkd.recipe.rounds import of_round
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.search import with_values
from mentorkd.records import Progress, Question, Split


class RunContext:
    """One recipe and its run folder, for one stage. `costs` are those of other processes that carried out the stage.

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
        self.grader = grader_of(recipe.task)
        self.holds_gpu = False
        self.costs: list[Cost] = []
        logging.disable_progress_bar()  # transformers would draw a bar for each checkpoint across ours

    @property
    def device(self) -> torch.device:
        """Where models run. A stage that asks for an accelerator is taken to hold it to its end (`holds_gpu`)."""
        self.holds_gpu |= self._device.type != "cpu"
        return self._device

    @cached_property
    def _device(self) -> torch.device:
        device = resolve_device(self.recipe.device)
        use_tf32(device)
        return device

    def questions(self, stage: Stage, split: Split | None = None) -> list[Question]:
        """The questions that a stage reads, of a split or all; those of its shard."""
        return in_shard(self.folder.questions(stage.inputs["questions"], split), stage.shard)

    def learner(self, stage: Stage) -> Learner:
        """The learner that a stage serves, with the values of its trial, as the stage's round has it."""
        return of_round(with_values(self.recipe.learners[stage.learner], stage.trial), stage.round)

    def folds(self, stage: Stage, mentor: str) -> dict[str, int]:
        """The fold of each training question, for a cross-fitted mentor: the model of the fold has not seen the question."""
        folds = self.recipe.learners[mentor].folds
        # Of all questions, whatever the stage's shard: that of a question depends on the others.
        return split_folds(self.folder.questions(stage.inputs["questions"], "train"), folds) if folds > 1 else {}

    def precision(self, learner: Learner) -> Precision:
        """The learner's arithmetic. `auto` is decided once a run folder, so that a resumed run does not change it."""
        wanted = learner.training.precision
        return self.folder.precision(self.device.type) if wanted == "auto" else wanted

    def sampling_dtype(self, learner: Learner) -> Precision | None:
        """The type of a learner's weights while it writes texts; None leaves them as they are saved.

        A learner that is not trained, and every one on a CPU, writes with the weights as they are unless its recipe gives a type.
        """
        if learner.sampling.dtype != "auto":
            return learner.sampling.dtype
        is_half = self.device.type == "cuda" and learner.rationales and self.precision(learner) == "bfloat16"
        return "bfloat16" if is_half else None

    def model(self, stage: Stage, name: str, fold: int | None = None) -> Path:
        """The folder of a learner's model, which the stage reads in the role `model` or `model/NAME`, of the first or another fold."""
        roles = [part_role(role, fold) for role in ("model", f"model/{name}")]
        return self.model_folder(name, stage.seed, stage.inputs.get(roles[0], stage.inputs.get(roles[1])))

    def initial_model(self, stage: Stage) -> LoadedModel:
        """The model that a training starts from: the recipe's, or one that another training made."""
        config = initial_model(self.recipe, stage.learner)
        if trained := stage.inputs.get("initial"):
            of_folder: dict[str, Any] = {"from_config": None, "tokenizer": None, "revision": None, "layers": None}
            of_folder |= {"chat_date": None, "chat_template_kwargs": {}}  # they are in the template already
            config = config.model_copy(update={"name": str(self.folder.model(trained)), **of_folder})
        return load_model(config, seed=stage.seed, device=self.device)

    def model_folder(self, name: str, seed: int, trained: str | None) -> Path:
        """The model that the stage `trained` made of a learner. With None the learner is not trained, and its model is saved once."""
        if trained is not None:
            return self.folder.model(trained)
        config = initial_model(self.recipe, name).model_copy(update={"lora": None, "attn_implementation": None})
        contents = [_content(source, config.revision) for source in (config.name, config.tokenizer) if source]
        settings = config.model_dump(exclude={"attn_implementation"})  # the weights do not depend on it
        folder = self.folder.engines / f"untrained-{fingerprint([settings, contents, seed])}"
        with self.folder.alone(folder.name):
            if self.folder.verify and (damage := damage_in(folder)):
                self.note(f"{damage}; it is made again")
                shutil.rmtree(folder)
            if not folder.is_dir():
                # A name of its own: a lost node of a cluster may hold no lock any more, and still write.
                half = folder.with_name(f".{folder.name}.{uuid4().hex}.tmp")
                card = f"# {name}, not trained\n\n{describe_model(config)}\n"
                save_model(load_model(config, seed=seed, device=self.device), half, card=card)
                seal_folder(half)
                with suppress(OSError):  # another attempt was first, with the same content
                    half.replace(folder)
                shutil.rmtree(half, ignore_errors=True)
        return folder

    def engine(self, learner: Learner, model: Path) -> Engine:
        """The learner's engine over the model in a folder. Close it after use."""
        sampling = learner.sampling
        return open_engine(
            sampling.engine,
            model_dir=model,
            device=self.device,
            cache_dir=self.folder.engines,
            batch_size=sampling.batch_size,
            tokens_per_batch=sampling.tokens_per_batch,
            dtype=self.sampling_dtype(learner),
            most_tokens=learner.training.max_source_tokens + sampling.max_new_tokens,
        )


def _content(source: str, revision: str | None) -> str | None:
    """What tells the content of a model apart under one name: its commit, or the hash of a GGUF file; None for a folder."""
    folder = plain_folder(source)
    return cached_commit(source, revision) if folder == source else Path(folder).name
