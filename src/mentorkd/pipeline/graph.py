"""A recipe compiled to stages: what each stage reads, and a fingerprint of everything that decides its outputs.

A fingerprint covers the stage's part of the recipe, the identity of its inputs and its code version. It covers no names.
Stages of one kind with equal fingerprints are one stage, so learners that differ only in a later stage share the earlier ones. A
stage finds its inputs by their roles, in whatever folder they are. The identity of an input is its fingerprint. There is one
exception: a finished budget's identity is the number of updates that it gave the arm, so an arm stays finished when another
arm changes and this number does not.

Stages that write, score, evaluate, or ask a local teacher are cut into shards (`shards.py`), each with its number and how many there are
in its fingerprint. A stage that is finished as a whole stays so.

| kind | reads, by role |
|---|---|
| prepare | nothing |
| annotate | `questions` |
| curate | `questions`, `rationales/teacher` |
| score | `questions`, `rationales/SOURCE`, `model` |
| budget | `questions`, `rationales/SOURCE`, `questions/SOURCE` and `scorer/LEARNER` of all arms |
| budget (to match compute) | the same, `model/MENTOR` and `initial/LEARNER` |
| train | as budget; with a mentor `soft_labels/MENTOR/SOURCE`, `model/MENTOR`; an arm `budget` |
| train (from trained weights) | the same and `initial` |
| rounds | `round/NUMBER` |
| search | `trial/NUMBER` |
| augment, evaluate, sample | `questions`, `model` (if the learner is trained) |
| augment, evaluate, sample, annotate (of shards) | `questions`, `shard/NUMBER` |
| report | `KIND/LEARNER/SEED` of every learner, `train/LEARNER/SEED/FOLD` of further folds, and every other stage |

A learner with own texts has a chain of trainings, each with the texts that the model before it wrote: train, then augment, score and
train for each round, and `rounds`, which chooses the best. A cross-fitted mentor has a training for each fold; the roles of what the
second fold makes end in `/1`, and so on. After that, the roles of the second and further shards of soft labels end in `/shard-1`, ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from mentorkd.data.overlay import identity, in_effect
from mentorkd.data.sources import source_identity
from mentorkd.files import digest_path, fingerprint
from mentorkd.grading.own import OwnGrader
from mentorkd.hub import UNKNOWN, HubModels, Named, on_hub
from mentorkd.hub.chat import DATE
from mentorkd.pipeline.records import BudgetRecord, PrepareRecord, StageRecord
from mentorkd.pipeline.run_folder import Stage, part_role, role
from mentorkd.pipeline.shards import Shards, shard_name, shard_role
from mentorkd.recipe.aliases import (
    LATER_TASK_KEYS,
    birth_names,
    canonical_dump,
    drop_unset_later_keys,
    later_sampling,
    later_settings,
    later_training,
)
from mentorkd.recipe.checks import unused_settings
from mentorkd.recipe.graph import Links, arms, initial_model, learning_order, links_of, matched_arms, writers
from mentorkd.recipe.learner import BySource, Learner, ModelConfig, SamplingConfig, SelectConfig
from mentorkd.recipe.load import data_path
from mentorkd.recipe.rounds import of_round, other_sources, own_sampling, rounds_of, share_of
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.search import trial_name, trials_of, with_values
from mentorkd.recipe.vocabularies import soft_label_form
from mentorkd.records import GOLD, SELF, TEACHER, Split
from mentorkd.teachers.annotate import open_teacher

# Raised when a stage's code makes other outputs from the same inputs.
CODE_VERSIONS = {
    "prepare": 1,
    "annotate": 1,
    "curate": 1,
    "score": 3,
    "budget": 1,
    "train": 3,
    "rounds": 1,
    "search": 1,
    "augment": 2,
    "evaluate": 3,
    "sample": 1,
    "report": 10,
}

Finished = Callable[[Stage], StageRecord | None]
"""Gives what a finished stage recorded, whether or not its outputs are still there; None for one that never finished."""

LENGTH = {"epochs", "updates", "batch_size", "tokens_per_batch", "gradient_accumulation", "length_window"}
LENGTH |= {"max_source_tokens", "max_target_tokens", "processes"}
"""Settings of a training that decide how many updates its epochs take."""


def compile_stages(recipe: Recipe, finished: Finished = lambda stage: None, hub: HubModels = UNKNOWN) -> list[Stage]:
    """All stages of a recipe, each after the stages that it needs. Reads data files and local models to hash them.

    A model on the hub is hashed by its name and commit: `hub` tells the commits that the run used before. `finished` decides the
    fingerprints of arms: until their budget is finished, they contain the budget's own fingerprint. It decides the shards too: until the
    questions are counted, `shards: auto` is one.
    """
    graph = _Graph(finished)
    task = recipe.task.model_dump()
    drop_unset_later_keys(task, LATER_TASK_KEYS)
    if task.get("grader"):
        task["grader"] = OwnGrader(task["grader"]).identity
    parts = [part for part in ("train", "test", "validation", "unlabelled") if task.get(part)]
    files = {part: source_identity(data_path(recipe, task[part])) for part in parts}
    prepared = graph.add("prepare", "data", [task, files, recipe.data.strict], {})
    counted = finished(graph.stages[prepared])
    shards = Shards(recipe.shards, counted.questions if isinstance(counted, PrepareRecord) else {})
    parts_of_teacher = shards.over("train") if recipe.teacher.has_shards else 1
    teacher = _teacher_identity(recipe, hub)
    annotated = graph.add("annotate", "teacher", teacher, {"questions": prepared}, shards=parts_of_teacher)
    curated = _add_curation(recipe, graph, prepared, annotated)
    matched, order = matched_arms(recipe), learning_order(recipe)
    models: dict[str, Any] = {}
    for name in order:
        models[name] = _model_identity(recipe.learners[name].model, hub, models)
    by_role: dict[str, str] = {}
    for seed in recipe.seeds:
        learners = _Seed(recipe, seed, graph, hub, models, shards, prepared, {TEACHER: curated, GOLD: prepared})
        for name in sorted(order, key=matched.__contains__):  # the budget needs the texts of all sources of its arms
            if name in matched and learners.budget is None:
                learners.add_budget()
            learners.add_learner(name)
        by_role |= learners.by_role
    graph.add("report", "report", canonical_dump(recipe), {**{name: name for name in graph.stages}, **by_role})
    return list(graph.stages.values())


def stage_fingerprint(kind: str, settings: Any, needs: Sequence[Any]) -> str:
    """The fingerprint of a stage with these settings, and of the identities of its inputs in their order."""
    return fingerprint([kind, CODE_VERSIONS[kind], settings, list(needs)])


def _add_curation(recipe: Recipe, graph: _Graph, prepared: str, annotated: str) -> str:
    """Add what applies the overlay's decisions to the teacher's rationales; the annotation itself where none is in effect.

    It is a stage of its own, so that no teacher is asked again for a decision, and what the teacher wrote stays in the run.
    """
    decisions = in_effect(recipe.teacher.overlay)
    if not decisions:
        return annotated
    inputs = {"questions": prepared, f"rationales/{TEACHER}": annotated}
    return graph.add("curate", "teacher/curated", identity(decisions.values()), inputs)


@dataclass
class _Graph:
    """Stages by name. A stage that is already there under another name is not added again."""

    finished: Finished
    stages: dict[str, Stage] = field(default_factory=dict)
    known: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(
        self, kind: str, target: str, settings: Any, inputs: Mapping[str, str], *, shards: int = 1, **more: Any
    ) -> str:
        """Add a stage; return the name of the stage that does the work. `more` is as for `_stage`.

        A stage of several shards puts their rows together.
        """
        parts = self.add_parts(kind, target, settings, inputs, shards=shards, **more)
        if len(parts) == 1:
            return parts[0]
        merged = {f"shard/{number}": part for number, part in enumerate(parts)}
        return self._put(self._stage(kind, target, None, {"questions": inputs["questions"], **merged}, **more))

    def add_parts(
        self, kind: str, target: str, settings: Any, inputs: Mapping[str, str], *, shards: int, **more: Any
    ) -> list[str]:
        """Add the shards of a stage alone, or the whole stage if it has one, or if it is finished as a whole; return their names.

        A shard reads what was made in as many shards from the one of its own number: both have the same questions.
        """
        whole = self._stage(kind, target, settings, inputs, **more)
        if shards == 1 or (kind, whole.fingerprint) in self.known or self._is_finished(whole):
            return [self._put(whole)]
        parts = []
        for number in range(shards):
            own = more | {"name": shard_name(whole.name, number), "shard": (number, shards)}
            place, part = f"{target}/shards/{kind}-{number}-of-{shards}", [settings, {"shard": [number, shards]}]
            read = {role: self._shard_of(need, number, shards) for role, need in inputs.items()}
            parts.append(self._put(self._stage(kind, place, part, read, **own)))
        return parts

    def _shard_of(self, stage: str, number: int, shards: int) -> str:
        """A shard of a stage that puts the rows of as many shards together; else the stage itself."""
        merged = self.stages[stage].merged
        return merged[number] if len(merged) == shards else stage

    def _stage(
        self,
        kind: str,
        target: str,
        settings: Any,
        inputs: Mapping[str, str],
        *,
        name: str = "",
        identities: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Stage:
        """A stage, named by its kind if no `name` is given.

        `identities` replaces the fingerprints of inputs, by role. `fields` are further fields of the stage.
        """
        needs = {role: self.stages[need].fingerprint for role, need in inputs.items()} | dict(identities or {})
        mark = stage_fingerprint(kind, settings, list(needs.values()))
        return Stage(name or kind, kind, target, dict(inputs), mark, **fields)

    def _put(self, stage: Stage) -> str:
        key = stage.kind, stage.fingerprint
        if key not in self.known:
            assert stage.name not in self.stages, f"two stages are called {stage.name}"
            self.stages[stage.name] = stage
            self.known[key] = stage.name
        return self.known[key]

    def _is_finished(self, stage: Stage) -> bool:
        record = self.finished(stage)
        return (
            record is not None and record.fingerprint == stage.fingerprint
        )  # it may be the last record of any settings


@dataclass
class _Seed:
    """The stages of one seed's learners. Learners are added one after the other, each after those it learns from."""

    recipe: Recipe
    seed: int
    graph: _Graph
    hub: HubModels
    models: Mapping[str, Any]
    shards: Shards
    prepared: str
    text: dict[str, str]
    """The stage that writes a source's text, by source."""
    trained: dict[str, str] = field(default_factory=dict)
    """The stage that trains a learner, by learner; of a cross-fitted mentor, the first of its trainings."""
    further_folds: dict[str, list[str]] = field(default_factory=dict)
    """The other trainings of cross-fitted mentors."""
    by_role: dict[str, str] = field(default_factory=dict)
    """Every learner's stages, by the roles in which the report reads them."""
    budget: str | None = None
    updates: Mapping[str, int] = field(default_factory=dict)
    """The updates that the finished budget gave each arm."""

    @cached_property
    def _links(self) -> Mapping[str, Links]:
        return links_of(self.recipe)

    @cached_property
    def _writers(self) -> set[str]:
        return writers(self.recipe)

    def add_learner(self, name: str) -> None:
        learner = self.recipe.learners[name]
        if learner.rationales:
            first, *others = [
                self._add_search(name) if learner.search else self._add_training(name, {}, fold)
                for fold in (range(learner.folds) if learner.folds > 1 else [None])
            ]
            self.trained[name], self.further_folds[name] = first, others
            own = role("train", name, self.seed)
            self.by_role |= {part_role(own, fold): stage for fold, stage in enumerate([first, *others])}
        model = self._model(name)
        if name in self._writers:
            writing = [*_writing(learner, learner.sampling, self.seed), self._untrained(name)]
            inputs, shards = model | self._all_folds(name), self.shards.over("train")
            self.text[name] = self._add("augment", name, writing, inputs, shards=shards)
        answering = [learner.sampling.max_new_tokens, learner.sampling.engine, learner.eval_prompt]
        answering += _sampling_dtype(learner)
        self._add("evaluate", name, [*answering, self._untrained(name)], model, shards=self.shards.over("test"))
        if learner.sampling.test_samples:
            sampling = later_sampling(learner.sampling.model_dump(exclude={"samples"}))
            settings = [sampling, learner.eval_prompt, self.seed, self._untrained(name)]
            self._add("sample", name, settings, model, shards=self.shards.over("test"))

    def add_budget(self) -> None:
        """Add the stage that decides how many updates every arm gets. The stages of all their sources must be there."""
        learners = {name: self.recipe.learners[name] for name in arms(self.recipe)}
        inputs, settings = {"questions": self.prepared}, []
        for name, learner in learners.items():
            sources = other_sources(learner)
            inputs |= {f"rationales/{source}": self.text[source] for source in sources}
            inputs |= self._limits(name, sources) | self._scorers(name)
            settings.append([name, self.models[name], sources, row_settings(self.recipe, name, self.hub)])
            if self.recipe.match == "compute":
                inputs |= self._learnt_from(name)
                settings[-1].append([*learner.mentor_weights, learner.by_source("kd_weight"), self.recipe.compute])
        place, matching = f"budget/seed-{self.seed}", [self.recipe.match, self.seed, settings]
        self.budget = self.graph.add("budget", place, matching, inputs, name=place, seed=self.seed)
        if isinstance(record := self.graph.finished(self.graph.stages[self.budget]), BudgetRecord):
            self.updates = {name: arm.updates for name, arm in record.arms.items()}

    def _add_training(self, name: str, trial: Mapping[str, Any], fold: int | None = None) -> str:
        """Add the training of a learner, of one trial of its search, or of one fold; with own texts, all of its rounds."""
        learner = with_values(self.recipe.learners[name], trial)
        folder = f"trials/{trial_name(trial)}" if trial else f"fold-{fold}" if fold is not None else ""
        if learner.own_texts is not None:
            return self._add_rounds(name, learner, trial, folder)
        inputs = self._training_inputs(name, learner, self.text, trial=trial) | self._initial(name)
        settings = self._training_settings(name, learner)
        settings += [] if fold is None else [{"fold": [fold, learner.folds]}]
        return self._add(
            "train", name, settings, inputs, folder, identities=self._matched(name), trial=trial, fold=fold
        )

    def _add_rounds(self, name: str, learner: Learner, trial: Mapping[str, Any], folder: str) -> str:
        """Add the trainings of a learner with own texts, each with what the model before it writes, and the choice of the best."""
        writer, trainings = self._initial(name), []
        for number in rounds_of(learner):
            part, text, place = of_round(learner, number), dict(self.text), f"{folder}/round-{number}".removeprefix("/")
            fields: dict[str, Any] = {"trial": trial, "round": number}
            if number > 0:
                model = {"questions": self.prepared} | ({"model": writer["initial"]} if writer else {})
                settings = [
                    *_writing(part, own_sampling(part), self.seed),
                    None if writer else self._untrained(name),
                    number,
                ]
                settings += [{"unlabelled": True}] if part.imitates_own_texts and self.recipe.task.unlabelled else []
                shards = self.shards.over(*_read_splits(part, SELF))
                text[SELF] = self._add("augment", name, settings, model, place, listed=False, shards=shards, **fields)
            inputs = self._training_inputs(name, part, text, **fields) | writer
            settings = [*self._training_settings(name, part), {"round": [number, share_of(learner, number)]}]
            stage = self._add("train", name, settings, inputs, place, identities=self._matched(name), **fields)
            trainings.append(stage)
            writer = {"initial": stage}
        inputs = {f"round/{number}": stage for number, stage in zip(rounds_of(learner), trainings, strict=True)}
        return self._add("rounds", name, None, inputs, folder, trial=trial)

    def _initial(self, name: str) -> dict[str, str]:
        """The training from whose weights a learner starts."""
        initial = self._links[name].initial
        return {"initial": self.trained[initial]} if initial in self.trained else {}

    def _matched(self, name: str) -> dict[str, int]:
        """The updates of an arm whose budget is finished, which stand for the budget in a fingerprint."""
        return {"budget": self.updates[name]} if name in self.updates else {}

    def _add_search(self, name: str) -> str:
        """Add a training for each trial of a learner, and the stage that chooses the best trial."""
        trials = trials_of(self.recipe.learners[name])
        inputs = {f"trial/{number}": self._add_training(name, trial) for number, trial in enumerate(trials)}
        return self._add("search", name, trials, inputs)

    def _add(
        self,
        kind: str,
        name: str,
        settings: Any,
        inputs: Mapping[str, str],
        subfolder: str = "",
        *,
        listed: bool = True,
        **fields: Any,
    ) -> str:
        """Add a stage of a learner; `listed`: the report reads it as the learner's own."""
        folder = "/".join(filter(None, [self._folder(name), subfolder]))
        fields |= {"learner": name, "seed": self.seed}
        stage = self.graph.add(kind, folder, settings, inputs, name=f"{folder}/{kind}", **fields)
        if listed:
            self.by_role[role(kind, name, self.seed)] = stage
        return stage

    def _folder(self, name: str) -> str:
        return f"learners/{name}/seed-{self.seed}"

    def _model(self, name: str) -> dict[str, str]:
        return {"questions": self.prepared, **({"model": self.trained[name]} if name in self.trained else {})}

    def _all_folds(self, name: str, role: str = "model") -> dict[str, str]:
        """The trainings of a learner: one, or one a fold."""
        stages = [self.trained[name], *self.further_folds[name]] if name in self.trained else []
        return {part_role(role, fold): stage for fold, stage in enumerate(stages)}

    def _untrained(self, name: str) -> Any:
        """What decides the weights of a model that is not trained: the model, and the seed if it is built from a config."""
        built = initial_model(self.recipe, name).from_config
        return None if name in self.trained else [self.models[name], self.seed if built else None]

    def _training_settings(self, name: str, learner: Learner) -> list[Any]:
        """A learner's settings that decide the trained weights. Its sources are inputs: their texts count, not their names."""
        elsewhere = {"model", "rationales", "soft_labels", "reads", "select", "sampling", "training", "search"}
        elsewhere |= {"own_texts", "folds", "resources"}
        own = learner.model_dump(exclude=elsewhere | unused_settings(learner.model_dump()).keys())
        for key in get_args(BySource):
            if key in own and (SELF in learner.rationales or isinstance(own[key], dict)):
                own[key] = _by_position(learner.by_source(key), learner.rationales)
        filters = {source: self.recipe.filter_of(name, source) for source in learner.rationales}
        if "chunks" in (
            forms := [soft_label_form(self.recipe, name, mentor, self.hub) for mentor in learner.mentor_weights]
        ):
            own["soft_label_store"] = forms
        frontier = [number for number, select in enumerate(filters.values()) if select.weight == "frontier"]
        return [
            self.models[name],
            later_training(learner.training.model_dump(exclude={"report_to"})),
            later_settings(own),
            learner.sampling.max_new_tokens,
            [_filters(self.recipe, select, self.hub) for select in filters.values()],
            list(learner.mentor_weights.values()),
            self.seed,
            *([{"frontier": frontier}] if frontier and SELF in learner.rationales else []),
            *_sampling_dtype(learner),  # validations choose the epoch
            *_limiting(self.recipe, name, learner.rationales, self.hub),
        ]

    def _training_inputs(self, name: str, learner: Learner, text: Mapping[str, str], **fields: Any) -> dict[str, str]:
        """What a training reads, by role; `fields` are those of its stage that its soft labels' stages have too."""
        inputs = {"questions": self.prepared}
        inputs |= {f"rationales/{source}": text[source] for source in learner.rationales}
        inputs |= self._limits(name, learner.rationales) | self._scorers(name)
        for mentor in learner.mentor_weights:
            inputs |= self._all_folds(mentor, f"model/{mentor}")
            if learner.soft_label_store != "online":
                for source in learner.rationales:
                    by_source = isinstance(learner.kd_weight, dict) or SELF in learner.rationales
                    unread = by_source and learner.kd_weight_of(source) == 0
                    if unread or (mentor == TEACHER and source != TEACHER):
                        continue
                    for fold in range(1 + len(self.further_folds.get(mentor, []))):
                        part = part_role(f"soft_labels/{mentor}/{source}", fold)
                        stages = self._add_score(name, learner, mentor, source, text[source], fold, **fields)
                        inputs |= {shard_role(part, number): stage for number, stage in enumerate(stages)}
        if self.budget and (learner.training.updates is None or self.recipe.match == "compute"):
            inputs["budget"] = self.budget
        return inputs

    def _limits(self, name: str, sources: Sequence[str]) -> dict[str, str]:
        """The texts of the sources to whose questions a learner's sources are limited."""
        limits = self._links[name].questions
        return {f"questions/{limits[source]}": self.text[limits[source]] for source in sources if source in limits}

    def _learnt_from(self, name: str) -> dict[str, str]:
        """The trainings of the mentors of a learner, and of the model from whose weights it starts."""
        inputs = {f"{role}/{name}": stage for role, stage in self._initial(name).items()}
        for mentor in self.recipe.learners[name].mentor_weights:
            inputs |= self._all_folds(mentor, f"model/{mentor}")
        return inputs

    def _scorers(self, name: str) -> dict[str, str]:
        """The trained learners whose likelihoods filter the rationales that a learner reads."""
        scorers = self._links[name].perplexity_models
        return {f"scorer/{scorer}": self.trained[scorer] for scorer in scorers if scorer in self.trained}

    def _add_score(
        self, name: str, learner: Learner, mentor: str, source: str, text: str, fold: int, **fields: Any
    ) -> list[str]:
        """Add a mentor's soft labels on a source's text, in one store a shard. Students that need the same labels in the same form
        share them."""
        kind = form = soft_label_form(self.recipe, name, mentor, self.hub)
        stage = [self.trained[mentor], *self.further_folds[mentor]][fold] if mentor in self.trained else None
        settings = [
            [learner.prompt, learner.target, learner.training.max_source_tokens, learner.training.max_target_tokens],
            _filters(self.recipe, self.recipe.filter_of(name, source).of_each(), self.hub),
            None if mentor == TEACHER else [self._untrained(mentor), self.recipe.learners[mentor].training.precision],
        ]
        if form == "top_k":
            form = f"top{learner.top_k}-tau{learner.temperature_of(source):g}"
            # Probabilities are kept for the vocabulary that student and mentors share.
            settings += [
                self.models[name],
                *(self.models[other] for other in learner.mentor_weights if other not in (mentor, TEACHER)),
            ]
        if form == "chunks":
            settings.append({"student": self.models[name]})
        if learner.mentor_reads != "question" and mentor != TEACHER:
            settings.append({"reads": learner.mentor_reads})
        if folds := self.further_folds.get(mentor):
            settings.append({"fold": [fold, 1 + len(folds)]})
        if source == SELF and learner.imitates_own_texts:
            settings.append({"imitated": True})
        owner = mentor if stage is None else self.graph.stages[stage].learner
        place = f"teacher/seed-{self.seed}" if mentor == TEACHER else self._folder(owner)
        author = self.graph.stages[text]
        writer = author.learner or source
        writer += "" if author.round is None else f".round-{author.round}"
        writer += f".{fingerprint(author.trial)[:8]}" if author.trial else ""
        store = f"{writer}.{form}-{learner.target}-{fingerprint(settings)[:8]}"
        return self.graph.add_parts(
            "score",
            f"{place}/soft_labels",
            [form, settings],
            {"questions": self.prepared, **({} if stage is None else {"model": stage}), f"rationales/{source}": text},
            name=f"{place}/score/{store}",
            shards=1 if mentor == TEACHER else self.shards.over(*_read_splits(learner, source)),
            learner=name,
            seed=self.seed,
            source=source,
            mentor=mentor,
            form=kind,
            fold=fold if folds else None,
            **fields,
        )


def _read_splits(learner: Learner, source: str) -> list[Split]:
    """The splits of the questions for whose texts of a source a learner is trained."""
    return ["train", "unlabelled"] if source == SELF and learner.imitates_own_texts else ["train"]


def _by_position(value: Any, sources: Sequence[str]) -> Any:
    """A setting by source, without the names of the sources: their texts count."""
    return [value[source] for source in sources] if isinstance(value, dict) else value


def _writing(learner: Learner, sampling: SamplingConfig, seed: int) -> list[Any]:
    """What decides the texts of a learner beside its weights."""
    return [later_sampling(sampling.model_dump(exclude={"test_samples"})), learner.prompt, learner.target, seed]


def _sampling_dtype(learner: Learner) -> list[Any]:
    """The type of weights that answer questions, where the recipe gives one."""
    return [] if learner.sampling.dtype == "auto" else [{"sampling_dtype": learner.sampling.dtype}]


def row_settings(recipe: Recipe, name: str, hub: HubModels = UNKNOWN) -> list[Any]:
    """Settings that decide a learner's training rows and the length of its epochs. Its model and its sources' texts do too."""
    learner = recipe.learners[name]
    form = learner.model_dump(include={"prompt", "target", "objective"})
    filters = [_filters(recipe, recipe.filter_of(name, source), hub) for source in other_sources(learner)]
    length = LENGTH | ({"split"} if learner.training.split == "packed" else set())  # parts are no other micro-batches
    training = later_training(learner.training.model_dump(include=length))
    return [form, training, filters, *_limiting(recipe, name, other_sources(learner), hub)]


def _limiting(recipe: Recipe, name: str, sources: Sequence[str], hub: HubModels) -> list[Any]:
    """The filters `questions` of a learner: which source has which one, of those that are named, and its filters. Empty without any."""
    named = [recipe.filter_of(name, source).questions for source in sources]
    others = list(dict.fromkeys(other for other in named if other is not None))
    filters = [_filters(recipe, recipe.filter_of(name, other).of_each(), hub) for other in others]
    limited = [None if other is None else others.index(other) for other in named]
    return [{"questions": [limited, filters]}] if others else []


def _filters(recipe: Recipe, select: SelectConfig, hub: HubModels) -> dict[str, Any]:
    """The filters of a source. Filters of later versions are named only where they are on, so that old runs stay finished."""
    first = {"correct", "deduplicate", "max_per_question", "question_ratio"}
    elsewhere = {"weight", "questions"}
    filters = select.model_dump(include=first) | select.model_dump(exclude=first | elsewhere, exclude_defaults=True)
    if (perplexity := select.perplexity) is not None:
        filters["perplexity"] = [perplexity.drop, _scorer_identity(recipe, perplexity.model, hub)]
    return birth_names(filters)


def _scorer_identity(recipe: Recipe, name: str, hub: HubModels) -> Any:
    """The prompt and target of a scorer, and its model unless a stage trains it: a trained scorer is an input."""
    scorer = recipe.learners.get(name)
    if scorer is None:
        return _model_identity(ModelConfig(name=name), hub)
    return [scorer.prompt, scorer.target, None if scorer.rationales else _model_identity(scorer.model, hub)]


def _model_identity(config: ModelConfig, hub: HubModels, models: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """A model's settings, with local folders and files replaced by the hash of their content, and hub names by name and commit.

    `models` has the identities of the learners from whose weights others start.
    """
    settings = config.model_dump()
    for part in ("name", "tokenizer"):
        if source := settings[part]:
            local = Path(source).exists()
            settings[part] = _digest(Path(source)) if local else hub.identity(source, config.revision)
    source = config.tokenizer or config.name
    chat = {} if source is None else _chat_identity(settings, source, config.revision, hub)
    drop_unset_later_keys(settings)
    return settings | chat | ({"learner": models[config.learner]} if config.learner else {})


def _digest(path: Path) -> str:
    """The hash of a local model, which several learners and later compilations need again."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(file, file.stat()) for file in files]
    return _digest_of(path, tuple((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats))


@cache
def _digest_of(path: Path, state: tuple[tuple[str, int, int], ...]) -> str:
    return digest_path(path)


def _teacher_identity(recipe: Recipe, hub: HubModels) -> list[Any]:
    """What decides a teacher's rationales, with the hub models that it runs by their commit."""
    identity = open_teacher(recipe).identity()
    if not recipe.teacher.model_keys:
        return identity
    settings, *others = identity
    for key in settings.keys() & set(recipe.teacher.model_keys):
        source, revision = getattr(recipe.teacher, key), settings.get("revision")
        if on_hub(source):
            settings[key] = hub.identity(source, revision)
        settings |= _chat_identity(settings, source, revision, hub)
    return [settings, *others]


def _chat_identity(settings: dict[str, Any], source: str, revision: str | None, hub: HubModels) -> dict[str, Any]:
    """Takes the chat settings out of `settings`, and gives those that decide the prompts: of a template that asks for today's
    date, the fixed date. Templates themselves are part of the model's content."""
    day, variables = settings.pop("chat_date", None), settings.pop("chat_template_kwargs", None)
    if day is None and hub.asks_for_date(source, revision):
        day = DATE
    return {name: value for name, value in {"chat_date": day, "chat_template_kwargs": variables}.items() if value}


def hub_models(recipe: Recipe) -> list[Named]:
    """The models and tokenizers that a recipe names on the hub, or in folders."""
    teacher = recipe.teacher.model_dump()
    named = [(teacher[key], teacher.get("revision")) for key in recipe.teacher.model_keys if teacher[key]]
    for name, learner in recipe.learners.items():
        model = initial_model(recipe, name)
        named += [(source, model.revision) for source in (model.name, model.tokenizer) if source]
        scorers = [recipe.filter_of(name, source).perplexity for source in learner.rationales]
        named += [(scorer.model, None) for scorer in scorers if scorer and scorer.model not in recipe.learners]
    return list(dict.fromkeys(named))
