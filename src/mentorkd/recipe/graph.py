"""The graph of learners: its faults, its order, and who is whose mentor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mentorkd.errors import Fault, RecipeError
from mentorkd.recipe.learner import Learner, SelectConfig, Strict
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.yaml import mapping
from mentorkd.records import GOLD, TEACHER

__all__ = [
    "Links",
    "arms",
    "cycles",
    "learning_order",
    "links_of",
    "matched_arms",
    "mentors",
    "scorers",
    "topological_order",
    "writers",
]


@dataclass(frozen=True)
class Links:
    """Whom a learner learns from."""

    rationales: Sequence[str]
    """The authors of its text."""
    soft_labels: Sequence[str]
    """The mentors whose distributions it imitates."""
    perplexity: Mapping[str, Any]
    """By author, the `perplexity` filter of its text, where the filter's model is a learner of the recipe."""

    @property
    def perplexity_models(self) -> list[str]:
        """The learners whose perplexity filters its text, each once."""
        return list(dict.fromkeys(_part(each, "model") for each in self.perplexity.values()))

    @property
    def learners(self) -> list[str]:
        """The other learners that must be trained before this one, each once."""
        names = dict.fromkeys([*self.rationales, *self.soft_labels, *self.perplexity_models])
        return [name for name in names if name not in (TEACHER, GOLD)]


def links_of(recipe: Recipe | Mapping[str, Any]) -> dict[str, Links]:
    """The links of every learner of a checked or raw recipe, in recipe order; parts of the wrong shape name nobody."""
    learners = mapping(_part(recipe, "learners"))
    return {name: _links(learner, learners, _part(recipe, "teacher")) for name, learner in learners.items()}


def _links(learner: Any, learners: Mapping[str, Any], teacher: Any) -> Links:
    named, soft = _part(learner, "rationales"), _part(learner, "soft_labels")
    authors = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    if named is None:
        authors = [TEACHER]
    perplexity = {}
    for author in authors:
        own = mapping(_part(learner, "reads")).get(author)
        shared = _part(teacher if author == TEACHER else learners.get(author), "select")
        chosen = own if isinstance(own, SelectConfig) or "perplexity" in mapping(own) else shared
        each = _part(chosen, "perplexity")
        if isinstance(model := _part(each, "model"), str) and model in learners:
            perplexity[author] = each
    return Links(authors, [soft] if isinstance(soft, str) else list(mapping(soft)), perplexity)


def _part(whole: Any, key: str) -> Any:
    """The value of a key of a checked or raw part of a recipe; None where there is none."""
    return (
        whole.get(key) if isinstance(whole, dict) else getattr(whole, key, None) if isinstance(whole, Strict) else None
    )


def learning_order(recipe: Recipe) -> list[str]:
    """All learners, each after those it learns from; recipe order wherever that leaves a choice.

    Raises RecipeError if the learners form a cycle or name a learner that is not there.
    """
    return topological_order({name: links.learners for name, links in links_of(recipe).items()})


def writers(recipe: Recipe) -> set[str]:
    """Learners that another one names under `rationales`: they write text for every training question."""
    return {name for links in links_of(recipe).values() for name in links.rationales} - {TEACHER, GOLD}


def scorers(recipe: Recipe) -> set[str]:
    """Learners that another one names under `soft_labels`: they score its training text."""
    return {name for links in links_of(recipe).values() for name in links.soft_labels}


def mentors(recipe: Recipe | Mapping[str, Any]) -> set[str]:
    """Learners that another one names at all."""
    return {name for links in links_of(recipe).values() for name in links.learners}


def arms(recipe: Recipe | Mapping[str, Any]) -> list[str]:
    """The trained learners of a checked or raw recipe that no other one names, in recipe order: what a recipe compares."""
    named, learners = mentors(recipe), mapping(_part(recipe, "learners"))
    trained = [name for name, each in learners.items() if _is_learner(each) and _part(each, "rationales") != []]
    return [name for name in trained if name not in named]


def _is_learner(value: Any) -> bool:
    return isinstance(value, dict | Learner)


def matched_arms(recipe: Recipe) -> list[str]:
    """The arms, where some of them are to be given a number of updates that must be found first."""
    named = arms(recipe)
    open_ended = any(recipe.learners[name].training.updates is None for name in named)
    return named if open_ended and recipe.match != "epochs" else []


def topological_order(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """The keys of `needs`, each after the names it needs; otherwise in the order of `needs`."""
    waiting = {name: set(needed) for name, needed in needs.items()}
    order: list[str] = []
    while waiting:
        ready = next((name for name, needed in waiting.items() if needed.issubset(order)), None)
        if ready is None:
            fault = Fault("learners", f"no order to train in: {', '.join(waiting)} wait for each other")
            raise RecipeError("recipe", [fault])
        order.append(ready)
        del waiting[ready]
    return order


def cycles(needs: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Cycles among the keys of `needs`, each as its names in order; a graph with any cycle gives at least one.

    A name that needs itself is no cycle here, and neither is one that is not a key.
    """
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        for needed in needs[name]:
            if needed in trail:
                found.append([*trail[trail.index(needed) :], name])
            elif needed in needs and needed not in done and needed != name:
                visit(needed, [*trail, name])
        done.add(name)

    for name in needs:
        if name not in done:
            visit(name, [])
    return found
