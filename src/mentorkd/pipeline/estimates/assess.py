"""The whole of a plan's estimates: seconds of every stage, memory of every learner, disk, money, the design, and warnings."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mentorkd.pipeline.estimates.design import Design, design_of_recipe
from mentorkd.pipeline.estimates.disk import Disk, disk_of
from mentorkd.pipeline.estimates.lengths import Lengths, lengths_of
from mentorkd.pipeline.estimates.machine import GB, Machine
from mentorkd.pipeline.estimates.memory import Memory, generation_memory, training_memory
from mentorkd.pipeline.estimates.work import Row, forward_operations, reading_seconds, training_seconds, writing_seconds
from mentorkd.pipeline.plan import Estimates
from mentorkd.pipeline.run import PlannedStage
from mentorkd.pipeline.run_folder import Stage
from mentorkd.recipe.advice import rates_for
from mentorkd.recipe.graph import initial_model
from mentorkd.recipe.learner import ModelConfig
from mentorkd.recipe.rounds import of_round
from mentorkd.recipe.sizes import ModelSize, size_of
from mentorkd.recipe.vocabularies import kind_of_files
from mentorkd.records import GOLD, TEACHER, ModelKind

_PICO = 1e12
_LIGHT_SECONDS = 0.5
"""A stage without a model, or the start of one with a model."""
_READ_SECONDS = 5e-5
"""To read and audit one row of data."""
_MODEL_KINDS = ("train", "augment", "score", "evaluate")
_ANSWER_TOKENS = 4
"""A target that is the gold answer alone."""
_UNSEEN = 0.005
"""A share of rows that are too long which nobody needs to know."""


@dataclass(frozen=True)
class Assessment:
    """What a run takes and can show. What is not known is None, and `unknown` says why."""

    estimates: Estimates
    planned: Sequence[PlannedStage]
    machine: Machine
    root: Path

    @cached_property
    def sizes(self) -> dict[str, ModelSize | None]:
        """The models of the learners."""
        return {name: size_of(model) for name, model in self._models.items()}

    @cached_property
    def _models(self) -> dict[str, ModelConfig]:
        recipe = self.estimates.recipe
        return {name: initial_model(recipe, name) for name in recipe.learners}

    def _kind(self, name: str) -> ModelKind:
        size = self.sizes[name]
        return size.kind if size is not None else kind_of_files(self._models[name]) or "causal"

    @cached_property
    def lengths(self) -> dict[str, Lengths]:
        """The rows of the learners."""
        texts, longest = self.estimates.sample, self.estimates.tokens_per_rationale
        learners = self.estimates.recipe.learners
        known: dict[str, Lengths] = {}
        for name, learner in learners.items():
            model, training = self._models[name], learner.training
            limits = (training.max_source_tokens, training.max_target_tokens, training.batch_size)
            others = (training.gradient_accumulation, training.split, training.tokens_per_batch)
            answers = learner.rationales == [GOLD]
            key = repr((model.tokenizer or model.name, learner.prompt, learner.target, limits, others, answers))
            if key not in known:
                rows = [(question, "", answer) for question, _, answer in texts] if answers else texts
                written = _ANSWER_TOKENS if answers else longest
                known[key] = lengths_of(learner, model, self._kind(name), rows, written)
            known[name] = known[key]
        return {name: known[name] for name in learners}

    # Time

    @cached_property
    def seconds(self) -> dict[str, float | None]:
        """Seconds of every stage: measured ones of finished stages, estimates of the others; None where no estimate is possible."""
        factor = self.calibration
        return {
            planned.stage.name: planned.record.seconds
            if planned.state == "done" and planned.record is not None
            else None
            if (modelled := self._modelled[planned.stage.name]) is None
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
            if (modelled := self._modelled[planned.stage.name])
        ]
        return sum(measured for measured, _ in pairs) / sum(modelled for _, modelled in pairs) if pairs else None

    @cached_property
    def _modelled(self) -> dict[str, float | None]:
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
        if stage.kind in ("augment", "evaluate"):
            return _LIGHT_SECONDS + writing_seconds(
                size, text, self.machine, rows, sampling.batch_size, sampling.max_new_tokens
            )
        if stage.kind == "score":
            return reading_seconds(size, padded, self.machine, rows, learner.training.batch_size)
        training, mentors = learner.training, self._mentors(name)
        online = learner.soft_label_store == "online"
        mentor_work = sum(
            forward_operations(mentor, padded) if online else 2 * mentor.head * padded.target
            for mentor in mentors.values()
        )
        updates = counts["updates"]
        seconds = training_seconds(
            size,
            self._models[name],
            training,
            padded,
            self.machine,
            updates=updates,
            rows_an_update=rows * counts["epochs"] / max(1, updates),
            mentor_operations=mentor_work,
            mentor_vocabulary=sum(mentor.vocabulary for mentor in mentors.values()),
        )
        if training.select_on == "last":
            return seconds
        questions = self.estimates.questions.get(training.select_on, 0)
        one = writing_seconds(size, text, self.machine, questions, sampling.batch_size, sampling.max_new_tokens)
        return seconds + max(1, training.epochs // training.validate_every) * one

    @cached_property
    def _counts(self) -> dict[str, dict[str, float]]:
        return {planned.stage.name: self.estimates.of(planned.stage) for planned in self.planned}

    def _mentors(self, name: str) -> dict[str, ModelSize]:
        """The mentors whose logits a training computes."""
        learner = self.estimates.recipe.learners[name]
        if learner.soft_label_store in ("top_k", "chunks"):
            return {}
        sizes = {mentor: self.sizes.get(mentor) for mentor in learner.mentor_weights if mentor != TEACHER}
        return {mentor: size for mentor, size in sizes.items() if size is not None}

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
            size, model, lengths = self.sizes[name], self._models[name], self.lengths[name]
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
            rows = min(sampling.batch_size, max(1, questions))
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

    # Warnings

    @property
    def warnings(self) -> list[str]:
        """What will fail, waste time, or show nothing."""
        return [
            *self._memory_warnings(),
            *self._disk_warnings(),
            *self._length_warnings(),
            *self._rate_warnings(),
            *(self.design.warnings() if self.design else ()),
        ]

    @property
    def unknown(self) -> list[str]:
        """What is not known, and why."""
        lines = []
        unsized = _by_model({name: self._models[name] for name, size in self.sizes.items() if size is None})
        for model, names in unsized.items():
            why = "no config of it is on this machine, and its name is none of the known ones, or its layers are of another family"
            lines.append(
                f"{', '.join(names)}: the size of {model} is not known, so neither is its time or memory ({why})"
            )
        untold = _by_model(
            {
                name: self._models[name]
                for name, lengths in self.lengths.items()
                if lengths.too_long is None and self.estimates.recipe.learners[name].rationales and self._has_texts
            }
        )
        for model, names in untold.items():
            why = "no tokenizer of it is on this machine"
            lines.append(f"{', '.join(names)}: whether rows are too long for {model} is not known ({why})")
        if self.estimates.dry_run is not None:
            lines.append(
                "the time of the teacher is not estimated: it is that of its endpoint, or of a model with a size of its own"
            )
        return lines

    @property
    def _has_texts(self) -> bool:
        return any(rationale for _, rationale, _ in self.estimates.sample)

    def _memory_warnings(self) -> Iterator[str]:
        limit = self.machine.memory
        for memory in self.memory if limit else ():
            if memory.total > limit:
                ways = "a smaller `batch_size`, `gradient_checkpointing: true` or `lora`"
                if memory.work == "generate":
                    ways = "a smaller `sampling.batch_size`"
                yield (
                    f"{memory.learner}: to {memory.work} takes about {_gb(memory.total)}, and {self.machine.name} has "
                    f"{_gb(limit)}; try {ways}"
                )

    def _disk_warnings(self) -> Iterator[str]:
        if self.disk.total > self.disk_free:
            yield f"the run writes about {_gb(self.disk.total)}, and {_gb(self.disk_free)} are free; name another folder with --run"

    def _length_warnings(self) -> Iterator[str]:
        lines: dict[str, list[str]] = {}
        for name, learner in self.estimates.recipe.learners.items():
            lengths, training = self.lengths[name], learner.training
            if not learner.rationales:
                continue
            if lengths.too_long and lengths.too_long > _UNSEEN * lengths.rows:
                limits = f"`max_source_tokens: {training.max_source_tokens}`, `max_target_tokens: {training.max_target_tokens}`"
                line = f"{lengths.too_long:,} of {lengths.rows:,} sampled rows are too long and would be dropped ({limits})"
                lines.setdefault(line, []).append(name)
            size = self.sizes[name]
            positions = None if size is None else size.positions
            most = training.max_source_tokens + training.max_target_tokens
            if positions is not None and lengths.longest_source + lengths.longest_target > positions:
                line = f"rows of up to {most:,} tokens are allowed, and the model has {positions:,} positions; lower the limits"
                lines.setdefault(line, []).append(name)
        yield from (f"{', '.join(names)}: {line}" for line, names in lines.items())

    def _rate_warnings(self) -> Iterator[str]:
        lines: dict[str, list[str]] = {}
        for name, learner in self.estimates.recipe.learners.items():
            size, rate = self.sizes[name], learner.training.learning_rate
            if size is None or not learner.rationales:
                continue
            rates = rates_for(size.parameters, size.kind, lora=self._models[name].lora is not None)
            if self._models[name].from_config is None and not rates.low <= rate <= rates.high:
                line = f"`learning_rate: {rate:g}` is unusual for {rates.who} ({rates.low:g} to {rates.high:g}); {rates.usual:g} is usual"
                lines.setdefault(line, []).append(name)
        yield from (f"{', '.join(names)}: {line}" for line, names in lines.items())


def _by_model(models: Mapping[str, ModelConfig]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name, model in models.items():
        names.setdefault(str(model.name or (model.from_config or {}).get("model_type")), []).append(name)
    return names


def _gb(value: float) -> str:
    return f"{value / GB:.{1 if value < 100 * GB else 0}f} GB"
