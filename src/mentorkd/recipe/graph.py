"""The graph of learners, checked or raw: its links, its order, its cycles, its arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from mentorkd.errors import Fault, RecipeError
from mentorkd.recipe.learner import Learner, ModelConfig, SelectConfig
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.yaml import mapping
from mentorkd.records import GOLD, SELF, TEACHER

_NOT_LEARNERS = {TEACHER, GOLD, SELF}
"""Sources of text that are no learners of their own."""


@dataclass(frozen=True)
class Links:
    """The learners and other sources that a learner learns from."""

    rationales: Sequence[str]
    """The authors of its text."""
    soft_labels: Sequence[str]
    """The mentors of its soft labels."""
    perplexity: Mapping[str, Any]
    """By author, the `perplexity` filter of the author's text, if the filter's model is a learner of the recipe."""
    questions: Mapping[str, str] = field(default_factory=dict)
    """By author, the source to whose questions the author's text is limited."""
    initial: str | None = None
    """The learner whose trained weights are its initial ones."""

    @property
    def perplexity_models(self) -> list[str]:
        """The learners whose perplexity filters its text, each once."""
        return list(dict.fromkeys(_part(each, "model") for each in self.perplexity.values()))

    @property
    def learners(self) -> list[str]:
        """The other learners that must be trained before this one, each once."""
        initial = [] if self.initial is None else [self.initial]
        filters = [*self.perplexity_models, *self.questions.values()]
        names = dict.fromkeys([*self.rationales, *self.soft_labels, *filters, *initial])
        return [name for name in names if name not in _NOT_LEARNERS]


def links_of(recipe: Recipe | Mapping[str, Any]) -> dict[str, Links]:
    """The links of every learner of a checked or raw recipe, in recipe order; a part of the wrong shape gives no link."""
    learners = mapping(_part(recipe, "learners"))
    return {name: _links(learner, learners, _part(recipe, "teacher")) for name, learner in learners.items()}


def _links(learner: Any, learners: Mapping[str, Any], teacher: Any) -> Links:
    rationales, soft = _part(learner, "rationales"), _part(learner, "soft_labels")
    rationales = [TEACHER] if rationales is None else rationales if isinstance(rationales, list) else []
    authors = [name for name in rationales if isinstance(name, str)]
    perplexity, questions = {}, {}
    for author in authors:
        own = mapping(_part(learner, "reads")).get(author)
        shared = _part(teacher if author == TEACHER else learners.get(author), "select")

        def filter_of(key: str, own: Any = own, shared: Any = shared) -> Any:
            return _part(own if isinstance(own, SelectConfig) or key in mapping(own) else shared, key)

        perplexity_filter = filter_of("perplexity")
        if isinstance(model := _part(perplexity_filter, "model"), str) and model in learners:
            perplexity[author] = perplexity_filter
        if isinstance(source := filter_of("questions"), str):
            questions[author] = source
    initial = _part(_part(learner, "model"), "learner")
    mentors = [soft] if isinstance(soft, str) else list(mapping(soft))
    return Links(authors, mentors, perplexity, questions, initial if isinstance(initial, str) else None)


def _part(whole: Any, key: str) -> Any:
    """The value of a key in a checked or raw part of a recipe; None if it has no such key."""
    return getattr(whole, key, None) if isinstance(whole, BaseModel) else mapping(whole).get(key)


def learning_order(recipe: Recipe) -> list[str]:
    """All learners in recipe order, but each after those that it learns from. Raises RecipeError for a cycle or an unknown name."""
    waiting = {name: set(links.learners) for name, links in links_of(recipe).items()}
    order: list[str] = []
    while waiting:
        ready = next((name for name, others in waiting.items() if others.issubset(order)), None)
        if ready is None:
            what = f"no order to train in: {', '.join(waiting)} wait for each other"
            raise RecipeError("recipe", [Fault("learners", what)])
        order.append(ready)
        del waiting[ready]
    return order


def writers(recipe: Recipe) -> set[str]:
    """Learners whose text another learner reads, or to whose questions it is limited: they write for every training question."""
    links = links_of(recipe).values()
    return {name for own in links for name in (*own.rationales, *own.questions.values())} - _NOT_LEARNERS


def initial_model(recipe: Recipe, name: str) -> ModelConfig:
    """The model that a learner, or the learner whose weights it starts from, begins with: a pretrained or a built one."""
    own = model = recipe.learners[name].model
    while model.learner is not None:
        model = recipe.learners[model.learner].model
    own_settings = {key: getattr(own, key) for key in ("lora", "dtype", "attn_implementation")}
    return model.model_copy(update=own_settings)


def imitates_teacher(recipe: Recipe) -> bool:
    """Whether the teacher's log-probabilities are soft labels of a learner."""
    return any(TEACHER in links.soft_labels for links in links_of(recipe).values())


def arms(recipe: Recipe | Mapping[str, Any]) -> list[str]:
    """The trained learners that no other learner names, in recipe order: the learners that a recipe compares."""
    mentors = {name for links in links_of(recipe).values() for name in links.learners}
    learners = {name: each for name, each in mapping(_part(recipe, "learners")).items() if name not in mentors}
    trained = [name for name, each in learners.items() if _part(each, "rationales") != []]
    return [name for name in trained if isinstance(learners[name], dict | Learner)]  # a raw one may have any shape


def headline_student(recipe: Recipe) -> str:
    """The arm that learns most from mentors, by text and by soft labels; the first of equals. Without arms, the last learner."""
    links = links_of(recipe)

    def ways(name: str) -> int:
        return bool(links[name].soft_labels) + any(source not in _NOT_LEARNERS for source in links[name].rationales)

    return max(arms(recipe), key=ways, default=list(recipe.learners)[-1])


def matched_arms(recipe: Recipe) -> list[str]:
    """The arms, if the number of updates of any of them depends on the others; else none.

    With `match: compute` all do: `training.updates` is then an arm's own length, as its epochs are.
    """
    names = arms(recipe)
    if recipe.match == "compute":
        return names
    open_ended = any(recipe.learners[name].training.updates is None for name in names)
    return names if open_ended and recipe.match in ("updates", "tokens") else []


def cycles(needs: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Cycles among the keys of `needs`, each as a list of names; a graph with a cycle gives at least one.

    A name that needs itself makes no cycle here, and neither does a name that is not a key.
    """
    closed: list[list[str]] = []
    done: set[str] = set()
    trail: list[str] = []
    waiting = [iter(needs)]  # a stack and no recursion: a chain of learners may be long
    while waiting:
        name = next(waiting[-1], None)
        if name is None:
            waiting.pop()
            if trail:
                done.add(trail.pop())
        elif name in trail:
            closed.append(trail[trail.index(name) :])
        elif name in needs and name not in done:
            others = [needed for needed in needs[name] if needed != name]
            trail.append(name)
            waiting.append(iter(others))
    return closed
