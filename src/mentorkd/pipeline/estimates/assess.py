"""The whole of a plan's estimates: seconds of every stage, memory of every learner, disk, money, and the design."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mentorkd.data.splitting import cost_of_part
from mentorkd.pipeline.estimates.design import Design, design_of_recipe
from mentorkd.pipeline.estimates.disk import Disk, disk_of
from mentorkd.pipeline.estimates.lengths import Lengths, lengths_of
from mentorkd.pipeline.estimates.machine import Machine
from mentorkd.pipeline.estimates.memory import Memory, generation_memory, training_memory
from mentorkd.pipeline.estimates.work import Row, forward_operations, reading_seconds, training_seconds, writing_seconds
from mentorkd.pipeline.plan import Estimates
from mentorkd.pipeline.run import PlannedStage
from mentorkd.pipeline.run_folder import Stage
from mentorkd.recipe.graph import initial_model
from mentorkd.recipe.learner import VALIDATION_SHARE, ModelConfig
from mentorkd.recipe.rounds import of_round
from mentorkd.recipe.sizes import ModelSize, size_of
from mentorkd.recipe.vocabularies import kind_of_files, soft_label_form
from mentorkd.records import GOLD, TEACHER, ModelKind

_PICO = 1e12
_LIGHT_SECONDS = 0.5
"""A stage without a model, or the start of one with a model."""
_READ_SECONDS = 5e-5
"""To read and audit one row of data."""
_MODEL_KINDS = ("train", "augment", "score", "evaluate", "sample")
_AGREEMENT_ROWS = 64
"""Rows on which a finished training measures the agreement with a mentor (distillation/agreement.py)."""
_ANSWER_TOKENS = 4
"""A target that is the gold answer alone."""


@dataclass(frozen=True)
class Assessment:
    """What a run takes and can show. What is not known is None, and `checks.unknown` says why."""

    estimates: Estimates
    planned: Sequence[PlannedStage]
    machine: Machine
    root: Path

    @cached_property
    def sizes(self) -> dict[str, ModelSize | None]:
        """The sizes of these models; None where no config tells them."""
        return {name: size_of(model) for name, model in self.models.items()}

    @cached_property
    def models(self) -> dict[str, ModelConfig]:
        """The initial models of the learners."""
        recipe = self.estimates.recipe
        return {name: initial_model(recipe, name) for name in recipe.learners}

    def _kind(self, name: str) -> ModelKind:
        size = self.sizes[name]
        return size.kind if size is not None else kind_of_files(self.models[name]) or "causal"

    @cached_property
    def lengths(self) -> dict[str, Lengths]:
        """The rows of the learners."""
        texts, longest = self.estimates.sample, self.estimates.tokens_per_rationale
        learners = self.estimates.recipe.learners
        known: dict[str, Lengths] = {}
        for name, learner in learners.items():
            model, training = self.models[name], learner.training
            limits = (training.max_source_tokens, training.max_target_tokens, training.batch_size)
            others = (training.gradient_accumulation, training.processes, training.tokens_per_batch)
            cost = self._cost_of_part(name)
            answers = learner.rationales == [GOLD]
            key = repr((model.tokenizer or model.name, learner.prompt, learner.target, limits, others, cost, answers))
            if key not in known:
                rows = [(question, "", answer) for question, _, answer in texts] if answers else texts
                written = _ANSWER_TOKENS if answers else longest
                known[key] = lengths_of(learner, model, self._kind(name), rows, written, cost)
            known[name] = known[key]
        return {name: known[name] for name in learners}

    def _cost_of_part(self, name: str) -> int | None:
        """What a part of a micro-batch costs (`data/splitting.py`); None where a micro-batch is read at once."""
        training, size = self.estimates.recipe.learners[name].training, self.sizes[name]
        if training.split == "none" or training.sharding != "none" or size is None:
            return None
        return cost_of_part(size.parameters, self.machine.device)

    # Time

    @cached_property
    def seconds(self) -> dict[str, float | None]:
        """Seconds of every stage: measured ones of finished stages, estimates of the others; None where no estimate is possible."""
        factor = self.calibration
        return {
            planned.stage.name: planned.record.seconds
            if planned.state == "done" and planned.record is not None
            else None
            if (modelled := self.modelled[planned.stage.name]) is None
            else modelled * (factor or 1.0 if planned.stage.kind in _MODEL_KINDS else 1.0)
            for planned in self.planned
        }

    @cached_property
    def calibration(self) -> float | None:
        """Measured by modelled seconds of this run's finished stages with a model; None without any."""
        pairs = [
            (planned.record.seconds, modelled)
            for planned in self.planned
            if planned.state == "done" and planned.record is not None and planned.stage.kind in _MODEL_KINDS
            if (modelled := self.modelled[planned.stage.name])
        ]
        return sum(measured for measured, _ in pairs) / sum(modelled for _, modelled in pairs) if pairs else None

    @cached_property
    def modelled(self) -> dict[str, float | None]:
        """Seconds of every stage by its operations and the machine's speed alone."""
        return {planned.stage.name: self._seconds(planned.stage) for planned in self.planned}

    @property
    def seconds_left(self) -> float:
        """Seconds of the stages that are to run, without those of unknown time."""
        return sum(self.seconds[planned.stage.name] or 0.0 for planned in self.planned if planned.state != "done")

    @property
    def untimed(self) -> list[str]:
        """The names of stages that are to run, and whose time is not known."""
        names = (planned.stage.name for planned in self.planned if planned.state != "done")
        return [name for name in names if self.seconds[name] is None]

    def _seconds(self, stage: Stage) -> float | None:
        counts, name = self._counts[stage.name], stage.learner
        if stage.kind == "annotate" and self.estimates.dry_run is not None:
            return None  # the endpoint, or a model that is none of the learners
        if stage.kind not in _MODEL_KINDS or stage.merged:
            return _LIGHT_SECONDS + _READ_SECONDS * counts.get("rows", 0)
        author = stage.mentor if stage.kind == "score" else name
        if author == TEACHER:
            return _LIGHT_SECONDS
        size, lengths = self.sizes[author], self.lengths[name]
        if size is None:
            return None
        learner, rows = of_round(self.estimates.recipe.learners[name], stage.round), counts["rows"]
        text, padded = Row(lengths.source, lengths.target), Row(lengths.padded_source, lengths.padded_target)
        sampling = self.estimates.recipe.learners[author].sampling
        if stage.kind in ("augment", "evaluate", "sample"):
            return _LIGHT_SECONDS + writing_seconds(
                size, text, self.machine, rows, sampling.rows, sampling.max_new_tokens
            )
        if stage.kind == "score":
            batch, logits = learner.training.batch_size, stage.form != "hidden"
            return reading_seconds(size, padded, self.machine, rows, batch, logits=logits)
        training, mentors = learner.training, self._mentors(name)
        online = learner.soft_label_store == "online"
        mentor_work = sum(
            forward_operations(mentor, padded) if online else 2 * mentor.head * padded.target
            for mentor in mentors.values()
        )
        updates = counts["updates"]
        seconds = training_seconds(
            size,
            self.models[name],
            training,
            padded,
            self.machine,
            updates=updates,
            rows_an_update=min(rows, self.estimates.rows_an_update(name)),
            mentor_operations=mentor_work,
            mentor_vocabulary=sum(mentor.vocabulary for mentor in mentors.values()),
        )
        if learner.mentor_weights:
            measured = min(rows, _AGREEMENT_ROWS * len(learner.mentor_weights))
            seconds += reading_seconds(size, padded, self.machine, measured, training.batch_size, logits=True)
        if training.select_on == "last":
            return seconds
        questions = self.estimates.questions.get(training.select_on, 0)
        one = writing_seconds(size, text, self.machine, questions, sampling.rows, sampling.max_new_tokens)
        if training.validate_every == "auto":
            return seconds + max(one, min(training.epochs * one, VALIDATION_SHARE * seconds))
        return seconds + max(1, training.epochs // training.validate_every) * one

    @cached_property
    def _counts(self) -> dict[str, dict[str, float]]:
        return {planned.stage.name: self.estimates.of(planned.stage) for planned in self.planned}

    def _mentors(self, name: str) -> dict[str, ModelSize]:
        """The mentors whose logits a training computes."""
        recipe, mentors = self.estimates.recipe, self.estimates.recipe.learners[name].mentor_weights
        whole = [mentor for mentor in mentors if soft_label_form(recipe, name, mentor) in ("hidden", "online")]
        return {mentor: size for mentor in whole if (size := self.sizes[mentor]) is not None}

    @property
    def time_basis(self) -> str:
        """What the seconds rest on."""
        number = sum(planned.state == "done" and planned.stage.kind in _MODEL_KINDS for planned in self.planned)
        if self.calibration is not None:
            stages = f"{number} finished stage{'s' if number > 1 else ''} of this run"
            return f"operations of every stage, at the speed of {stages}"
        return f"operations of every stage, one after another on {self.machine.name} ({self.machine.basis})"

    # Memory

    @cached_property
    def memory(self) -> list[Memory]:
        """The peaks of training and of generation, of each learner with a known size."""
        recipe, peaks = self.estimates.recipe, []
        for name, learner in recipe.learners.items():
            size, model, lengths = self.sizes[name], self.models[name], self.lengths[name]
            if size is None:
                continue
            if learner.rationales:
                online = learner.soft_label_store == "online"
                mentors = self._mentors(name)
                peaks.append(
                    training_memory(
                        name, size, model, learner.training, lengths, self.machine.device, mentors, online=online
                    )
                )
            sampling = learner.sampling
            questions = max(self.estimates.questions.get("test", 0), self.estimates.questions.get("train", 0))
            rows = min(sampling.rows, max(1, questions))
            if sampling.tokens_per_batch is not None:
                rows = max(1, sampling.tokens_per_batch // int(lengths.longest_source + sampling.max_new_tokens))
            peaks.append(
                generation_memory(
                    name, size, model, rows, lengths.longest_source, sampling.max_new_tokens, self.machine.device
                )
            )
        return peaks

    @property
    def most_memory(self) -> Memory | None:
        return max(self.memory, key=lambda memory: memory.total, default=None)

    # Disk, money, design

    @cached_property
    def disk(self) -> Disk:
        """Bytes that the stages that are to run will write."""
        stages = [planned.stage for planned in self.planned if planned.state != "done"]
        rows = {name: counts.get("rows", 0.0) for name, counts in self._counts.items()}
        return disk_of(stages, rows, self.estimates.recipe.learners, self.sizes, self.lengths)

    @property
    def disk_free(self) -> int:
        """Free bytes where the run folder is, or will be."""
        folder = next(each for each in (self.root.absolute(), *self.root.absolute().parents) if each.exists())
        return shutil.disk_usage(folder).free

    @property
    def dollars(self) -> tuple[float, float] | None:
        """What the teacher costs: by its first round, and by all rounds. None where it has no price; (0, 0) where nobody is paid."""
        asked = self.estimates.dry_run
        if asked is None:
            return 0.0, 0.0
        if asked.picodollars is None or asked.most_picodollars is None:
            return None
        return asked.picodollars / _PICO, asked.most_picodollars / _PICO

    @cached_property
    def design(self) -> Design | None:
        """The comparison of the headline."""
        return design_of_recipe(self.estimates.recipe, self.estimates.questions.get("test", 0))
