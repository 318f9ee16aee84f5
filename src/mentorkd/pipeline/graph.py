"""A recipe compiled to stages: what each stage reads, and a fingerprint of everything that decides its outputs.

A fingerprint covers the stage's part of the recipe, the identity of its inputs and its code version. It covers no names.
Stages of one kind with equal fingerprints are one stage, so learners that differ only in a later stage share the earlier ones. A
stage finds its inputs by their roles, in whatever folder they are. The identity of an input is its fingerprint. There is one
exception: a finished budget's identity is the number of updates that it gave the arm, so an arm stays finished when another
arm changes and this number does not.

| kind | reads, by role |
|---|---|
| prepare | nothing |
| annotate | `questions` |
| score | `questions`, `rationales/SOURCE`, `model` |
| budget | `questions`, `rationales/SOURCE` and `scorer/LEARNER` of all arms |
| train | `questions`, `rationales/SOURCE`, `scorer/LEARNER`; with a mentor `soft_labels/MENTOR/SOURCE`, `model/MENTOR`; an arm `budget` |
| search | `trial/NUMBER` |
| augment, evaluate | `questions`, `model` (if the learner is trained) |
| report | `KIND/LEARNER/SEED` of every learner, and every other stage |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mentorkd.chat import DATE
from mentorkd.data.sources import source_identity
from mentorkd.files import digest_path, fingerprint
from mentorkd.hub import UNKNOWN, HubModels, Named, on_hub
from mentorkd.pipeline.records import BudgetRecord, StageRecord
from mentorkd.pipeline.run_folder import Stage, role
from mentorkd.recipe.aliases import birth_names, canonical_dump, drop_unset_later_keys
from mentorkd.recipe.checks import unused_settings
from mentorkd.recipe.graph import Links, arms, learning_order, links_of, matched_arms, writers
from mentorkd.recipe.learner import Learner, ModelConfig, SelectConfig
from mentorkd.recipe.load import data_path
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.search import trial_name, trials_of, with_values
from mentorkd.records import GOLD, TEACHER
from mentorkd.teachers.annotate import open_teacher

# Raised when a stage's code makes other outputs from the same inputs.
CODE_VERSIONS = {
    "prepare": 1,
    "annotate": 1,
    "score": 3,
    "budget": 1,
    "train": 3,
    "search": 1,
    "augment": 2,
    "evaluate": 3,
    "report": 8,
}

Finished = Callable[[Stage], StageRecord | None]
"""Gives the record of a finished stage; None for one that is not finished."""

LENGTH = {"epochs", "updates", "batch_size", "tokens_per_batch", "gradient_accumulation", "length_window"}
LENGTH |= {"max_source_tokens", "max_target_tokens"}
"""Settings of a training that decide how many updates its epochs take."""


def compile_stages(recipe: Recipe, finished: Finished = lambda stage: None, hub: HubModels = UNKNOWN) -> list[Stage]:
    """All stages of a recipe, each after the stages that it needs. Reads data files and local models to hash them.

    A model on the hub is hashed by its name and commit: `hub` tells the commits that the run used before. `finished` decides the
    fingerprints of arms: until their budget is finished, they contain the budget's own fingerprint.
    """
    graph = _Graph()
    task = recipe.task.model_dump()
    files = {
        part: source_identity(data_path(recipe, task[part])) for part in ("train", "test", "validation") if task[part]
    }
    prepared = graph.add("prepare", "data", [task, files, recipe.data.strict], {})
    annotated = graph.add("annotate", "teacher", _teacher_identity(recipe, hub), {"questions": prepared})
    models = {name: _model_identity(learner.model, hub) for name, learner in recipe.learners.items()}
    matched, order = matched_arms(recipe), learning_order(recipe)
    by_role: dict[str, str] = {}
    for seed in recipe.seeds:
        learners = _Seed(recipe, seed, graph, hub, models, prepared, {TEACHER: annotated, GOLD: prepared})
        for name in sorted(order, key=matched.__contains__):  # the budget needs the texts of all sources of its arms
            if name in matched and learners.budget is None:
                learners.add_budget(finished)
            learners.add_learner(name)
        by_role |= learners.by_role
    graph.add("report", "report", canonical_dump(recipe), {**{name: name for name in graph.stages}, **by_role})
    return list(graph.stages.values())


@dataclass
class _Graph:
    """Stages by name. A stage that is already there under another name is not added again."""

    stages: dict[str, Stage] = field(default_factory=dict)
    known: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(
        self,
        kind: str,
        target: str,
        settings: Any,
        inputs: Mapping[str, str],
        *,
        name: str = "",
        identities: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> str:
        """Add a stage, named by its kind if no `name` is given; return the name of the stage that does the work.

        `identities` replaces the fingerprints of inputs, by role. `fields` are further fields of the stage.
        """
        needs = {role: self.stages[need].fingerprint for role, need in inputs.items()} | dict(identities or {})
        mark = fingerprint([kind, CODE_VERSIONS[kind], settings, list(needs.values())])
        if (kind, mark) not in self.known:
            stage = Stage(name or kind, kind, target, dict(inputs), mark, **fields)
            assert stage.name not in self.stages, f"two stages are called {stage.name}"
            self.stages[stage.name] = stage
            self.known[kind, mark] = stage.name
        return self.known[kind, mark]


@dataclass
class _Seed:
    """The stages of one seed's learners. Learners are added one after the other, each after those it learns from."""

    recipe: Recipe
    seed: int
    graph: _Graph
    hub: HubModels
    models: Mapping[str, Any]
    prepared: str
    text: dict[str, str]
    """The stage that writes a source's text, by source."""
    trained: dict[str, str] = field(default_factory=dict)
    """The stage that trains a learner, by learner."""
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
            self.trained[name] = self._add_search(name) if learner.search else self._add_training(name, {})
        model = self._model(name)
        if name in self._writers:
            sampling = [learner.sampling.model_dump(), learner.prompt, learner.target, self.seed]
            self.text[name] = self._add("augment", name, [*sampling, self._untrained(name)], model)
        answering = [learner.sampling.max_new_tokens, learner.sampling.engine, learner.eval_prompt]
        self._add("evaluate", name, [*answering, self._untrained(name)], model)

    def add_budget(self, finished: Finished) -> None:
        """Add the stage that decides how many updates every arm gets. The stages of all their sources must be there."""
        learners = {name: self.recipe.learners[name] for name in arms(self.recipe)}
        inputs, settings = {"questions": self.prepared}, []
        for name, learner in learners.items():
            inputs |= {f"rationales/{source}": self.text[source] for source in learner.rationales} | self._scorers(name)
            settings.append([name, self.models[name], learner.rationales, row_settings(self.recipe, name, self.hub)])
        place, matching = f"budget/seed-{self.seed}", [self.recipe.match, self.seed, settings]
        self.budget = self.graph.add("budget", place, matching, inputs, name=place, seed=self.seed)
        if isinstance(record := finished(self.graph.stages[self.budget]), BudgetRecord):
            self.updates = {name: arm.updates for name, arm in record.arms.items()}

    def _add_training(self, name: str, trial: Mapping[str, Any]) -> str:
        """Add the training of a learner, or of one trial of its search."""
        learner = with_values(self.recipe.learners[name], trial)
        folder = f"trials/{trial_name(trial)}" if trial else ""
        updates = {"budget": self.updates[name]} if name in self.updates else {}
        inputs, settings = self._training_inputs(name, learner, trial), self._training_settings(name, learner)
        return self._add("train", name, settings, inputs, folder, identities=updates, trial=trial)

    def _add_search(self, name: str) -> str:
        """Add a training for each trial of a learner, and the stage that chooses the best trial."""
        trials = trials_of(self.recipe.learners[name])
        inputs = {f"trial/{number}": self._add_training(name, trial) for number, trial in enumerate(trials)}
        search = self._add("search", name, trials, inputs)
        self.by_role[role("train", name, self.seed)] = search
        return search

    def _add(
        self, kind: str, name: str, settings: Any, inputs: Mapping[str, str], subfolder: str = "", **fields: Any
    ) -> str:
        folder = "/".join(filter(None, [self._folder(name), subfolder]))
        fields |= {"learner": name, "seed": self.seed}
        stage = self.graph.add(kind, folder, settings, inputs, name=f"{folder}/{kind}", **fields)
        self.by_role[role(kind, name, self.seed)] = stage
        return stage

    def _folder(self, name: str) -> str:
        return f"learners/{name}/seed-{self.seed}"

    def _model(self, name: str) -> dict[str, str]:
        return {"questions": self.prepared, **({"model": self.trained[name]} if name in self.trained else {})}

    def _untrained(self, name: str) -> Any:
        """What decides the weights of a model that is not trained: the model, and the seed if it is built from a config."""
        config = self.recipe.learners[name].model
        return None if name in self.trained else [self.models[name], self.seed if config.from_config else None]

    def _training_settings(self, name: str, learner: Learner) -> list[Any]:
        """A learner's settings that decide the trained weights. Its sources are inputs: their texts count, not their names."""
        elsewhere = {"model", "rationales", "soft_labels", "reads", "select", "sampling", "training", "search"}
        own = learner.model_dump(exclude=elsewhere | unused_settings(learner.model_dump()).keys())
        return [
            self.models[name],
            learner.training.model_dump(exclude={"report_to"}),
            own,
            learner.sampling.max_new_tokens,
            [_filters(self.recipe, self.recipe.filter_of(name, source), self.hub) for source in learner.rationales],
            list(learner.mentor_weights.values()),
            self.seed,
        ]

    def _training_inputs(self, name: str, learner: Learner, trial: Mapping[str, Any]) -> dict[str, str]:
        inputs = {"questions": self.prepared}
        inputs |= {f"rationales/{source}": self.text[source] for source in learner.rationales} | self._scorers(name)
        for mentor in learner.mentor_weights:
            if mentor in self.trained:
                inputs[f"model/{mentor}"] = self.trained[mentor]
            if learner.soft_label_store != "online":
                for source in learner.rationales:
                    inputs[f"soft_labels/{mentor}/{source}"] = self._add_score(name, learner, mentor, source, trial)
        if self.budget and learner.training.updates is None:
            inputs["budget"] = self.budget
        return inputs

    def _scorers(self, name: str) -> dict[str, str]:
        """The trained learners whose likelihoods filter the rationales that a learner reads."""
        scorers = self._links[name].perplexity_models
        return {f"scorer/{scorer}": self.trained[scorer] for scorer in scorers if scorer in self.trained}

    def _add_score(self, name: str, learner: Learner, mentor: str, source: str, trial: Mapping[str, Any]) -> str:
        """Add a mentor's soft labels on a source's text. Students that need the same labels in the same form share them."""
        form: str = learner.soft_label_store
        settings = [
            [learner.prompt, learner.target, learner.training.max_source_tokens, learner.training.max_target_tokens],
            _filters(self.recipe, self.recipe.filter_of(name, source).of_each(), self.hub),
            [self._untrained(mentor), self.recipe.learners[mentor].training.precision],
        ]
        if form == "top_k":
            form = f"top{learner.top_k}-tau{learner.temperature:g}"
            # Probabilities are kept for the vocabulary that student and mentors share.
            settings += [
                self.models[name],
                *(self.models[other] for other in learner.mentor_weights if other != mentor),
            ]
        owner = self.graph.stages[self.trained[mentor]].learner if mentor in self.trained else mentor
        writer = self.graph.stages[self.text[source]].learner or source
        store = f"{writer}.{form}-{learner.target}-{fingerprint(settings)[:8]}"
        return self.graph.add(
            "score",
            f"{self._folder(owner)}/soft_labels",
            [form, settings],
            {**self._model(mentor), f"rationales/{source}": self.text[source]},
            name=f"{self._folder(owner)}/score/{store}",
            learner=name,
            seed=self.seed,
            source=source,
            mentor=mentor,
            trial=trial,
        )


def row_settings(recipe: Recipe, name: str, hub: HubModels = UNKNOWN) -> list[Any]:
    """Settings that decide a learner's training rows and the length of its epochs. Its model and its sources' texts do too."""
    learner = recipe.learners[name]
    form = learner.model_dump(include={"prompt", "target", "objective"})
    filters = [_filters(recipe, recipe.filter_of(name, source), hub) for source in learner.rationales]
    return [form, learner.training.model_dump(include=LENGTH), filters]


def _filters(recipe: Recipe, select: SelectConfig, hub: HubModels) -> dict[str, Any]:
    """The filters of a source. Filters of later versions are named only where they are on, so that old runs stay finished."""
    first = {"correct", "deduplicate", "max_per_question", "question_ratio"}
    filters = select.model_dump(include=first) | select.model_dump(exclude=first, exclude_defaults=True)
    if (perplexity := select.perplexity) is not None:
        filters["perplexity"] = [perplexity.drop, _scorer_identity(recipe, perplexity.model, hub)]
    return birth_names(filters)


def _scorer_identity(recipe: Recipe, name: str, hub: HubModels) -> Any:
    """The prompt and target of a scorer, and its model unless a stage trains it: a trained scorer is an input."""
    scorer = recipe.learners.get(name)
    if scorer is None:
        return _model_identity(ModelConfig(name=name), hub)
    return [scorer.prompt, scorer.target, None if scorer.rationales else _model_identity(scorer.model, hub)]


def _model_identity(config: ModelConfig, hub: HubModels) -> Any:
    """A model's settings, with local folders and files replaced by the hash of their content, and hub names by name and commit."""
    settings = config.model_dump()
    for part in ("name", "tokenizer"):
        if source := settings[part]:
            local = Path(source).exists()
            settings[part] = digest_path(Path(source)) if local else hub.identity(source, config.revision)
    source = config.tokenizer or config.name
    assert source is not None, "a config without a name has a tokenizer"
    drop_unset_later_keys(settings)
    return settings | _chat_identity(settings, source, config.revision, hub)


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
        model = learner.model
        named += [(source, model.revision) for source in (model.name, model.tokenizer) if source]
        scorers = [recipe.filter_of(name, source).perplexity for source in learner.rationales]
        named += [(scorer.model, None) for scorer in scorers if scorer and scorer.model not in recipe.learners]
    return list(dict.fromkeys(named))
