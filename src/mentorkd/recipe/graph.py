"""The graph of learners: its faults, its order, and who is whose mentor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mentorkd.errors import Fault, RecipeError
from mentorkd.recipe.schema import Recipe
from mentorkd.records import GOLD, TEACHER

__all__ = [
    "Links",
    "arms",
    "arms_in",
    "cycles",
    "judged_in",
    "judges_of",
    "learning_order",
    "links_in",
    "links_of",
    "matched_arms",
    "mentors",
    "scorers",
    "topological_order",
    "writers",
]


@dataclass(frozen=True)
class Links:
    """Whom a learner learns from: authors of text, the mentors whose distributions it imitates, and the learners that judge
    which of the text is `learnable`."""

    rationales: Sequence[str]
    soft_labels: Sequence[str] = ()
    judges: Sequence[str] = ()

    @property
    def learners(self) -> list[str]:
        """The other learners that must be trained before this one, each once."""
        named = dict.fromkeys([*self.rationales, *self.soft_labels, *self.judges])
        return [name for name in named if name not in (TEACHER, GOLD)]


def links_in(learner: Mapping[str, Any]) -> Links:
    """The links of a learner in raw values; parts of the wrong shape name nobody."""
    authors, soft = learner.get("rationales", [TEACHER]), learner.get("soft_labels")
    names = [name for name in authors if isinstance(name, str)] if isinstance(authors, list) else []
    return Links(names, [soft] if isinstance(soft, str) else list(soft) if isinstance(soft, dict) else [])


def judged_in(raw: Mapping[str, Any], name: str) -> dict[str, Mapping[str, Any]]:
    """By source, the `learnable` filter through which a learner of a raw recipe reads it, where another learner judges."""
    learners, judged = _mapping(raw.get("learners")), {}
    for source in links_in(_mapping(learners[name])).rationales:
        author = raw.get("teacher") if source == TEACHER else learners.get(source)
        own = _mapping(_mapping(_mapping(learners[name]).get("reads")).get(source))
        learnable = _mapping(own.get("learnable", _mapping(_mapping(author).get("select")).get("learnable")))
        if isinstance(judge := learnable.get("model"), str) and judge in learners:
            judged[source] = learnable
    return judged


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def links_of(recipe: Recipe) -> dict[str, Links]:
    """The links of every learner, in recipe order."""
    return {
        name: Links(learner.rationales, list(learner.mentor_weights), judges_of(recipe, name))
        for name, learner in recipe.learners.items()
    }


def judges_of(recipe: Recipe, name: str) -> list[str]:
    """The learners that judge what another one reads, each once."""
    filters = [recipe.filter_of(name, source).learnable for source in recipe.learners[name].rationales]
    judges = dict.fromkeys(each.model for each in filters if each is not None)
    return [judge for judge in judges if judge in recipe.learners]


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


def mentors(recipe: Recipe) -> set[str]:
    """Learners that another one names at all."""
    judges = {name for links in links_of(recipe).values() for name in links.judges}
    return writers(recipe) | scorers(recipe) | judges


def arms(recipe: Recipe) -> list[str]:
    """The trained learners that no other one names, in recipe order: what a recipe compares."""
    named = mentors(recipe)
    return [name for name, learner in recipe.learners.items() if learner.rationales and name not in named]


def arms_in(raw: Mapping[str, Any]) -> list[str]:
    """Likewise of a raw recipe; learners of the wrong shape are none."""
    learners = {name: each for name, each in _mapping(raw.get("learners")).items() if isinstance(each, dict)}
    named = {other for each in learners.values() for other in links_in(each).learners}
    named |= {learnable["model"] for name in learners for learnable in judged_in(raw, name).values()}
    return [name for name, learner in learners.items() if learner.get("rationales") != [] and name not in named]


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
