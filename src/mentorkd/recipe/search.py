"""A search: combinations of settings for a learner. Each is trained and validated, and none is tested."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

from mentorkd.recipe.checks import Finding, unused_settings, weight_faults
from mentorkd.recipe.graph import arms
from mentorkd.recipe.learner import Learner
from mentorkd.recipe.yaml import KeyPath, mapping
from mentorkd.records import SELF

_OF_TRAINING = ("learning_rate", "weight_decay")
"""Settings of `training`; the others are settings of the learner itself."""

_DRAW = 0
"""Seed of the draw: learners with equal `search` try the same combinations, whatever the seed of the training."""

_MOST_TRAININGS = 10_000
"""Trainings of a recipe: of all learners, with all trials and seeds."""


def trials_of(learner: Learner) -> list[dict[str, Any]]:
    """The values of each trial: the whole grid, or `trials` combinations drawn from it without repetition, in its order."""
    assert learner.search is not None
    values = learner.search.model_dump(exclude={"trials"}, exclude_none=True)
    size = prod(map(len, values.values()))
    count = min(learner.search.trials or size, size)
    return [_combination(values, number) for number in sorted(random.Random(_DRAW).sample(range(size), count))]


def _combination(values: Mapping[str, Sequence[Any]], number: int) -> dict[str, Any]:
    """One of all combinations, in the order of itertools.product. The whole grid may be too large for the memory."""
    places: dict[str, int] = {}
    for key in reversed(list(values)):
        number, places[key] = divmod(number, len(values[key]))
    return {key: choices[places[key]] for key, choices in values.items()}


def with_values(learner: Learner, values: Mapping[str, Any]) -> Learner:
    """The learner with the values of a trial."""
    of_training = {key: value for key, value in values.items() if key in _OF_TRAINING}
    training = learner.training.model_copy(update=of_training)
    return learner.model_copy(update={**values, "training": training} if of_training else dict(values))


def trial_name(values: Mapping[str, Any]) -> str:
    """`learning_rate=0.0001,kd_weight=0.3`: a name for a folder."""
    return ",".join(f"{key}={value:g}" for key, value in values.items())


def merge_search(raw: dict[str, Any]) -> set[KeyPath]:
    """Give every arm without a `search` the recipe's, less the settings that have no effect there; return the filled places."""
    common, learners = raw.get("search"), mapping(raw.get("learners"))
    filled: set[KeyPath] = set()
    for name in arms(raw) if isinstance(common, dict) else ():
        learner = learners[name]
        if learner.get("search") is None:
            unused = _unused(learner)
            learner["search"] = {key: values for key, values in mapping(common).items() if key not in unused}
            filled.add(("learners", name, "search"))
    return filled


def _unused(learner: Mapping[str, Any]) -> dict[str, str]:
    """Settings of a search that have no effect beside a learner's others, each with what it needs."""
    of_self = "a source besides `self`, whose weight is 1; remove it, or add a source"
    return ({"kd_weight": of_self} if learner.get("rationales") == [SELF] else {}) | unused_settings(learner)


def size_faults(raw: Mapping[str, Any]) -> Iterator[Finding]:
    """The fault of a recipe that asks for more trainings than a run folder is made for."""
    learners, seeds = mapping(raw.get("learners")), raw.get("seeds")
    trials = sum(_trials(mapping(mapping(learner).get("search"))) or 1 for learner in learners.values())
    count = trials * (len(seeds) if isinstance(seeds, list) else 1)
    if count > _MOST_TRAININGS:
        parts = "learners, trials of their `search`, and seeds"
        yield ("learners",), f"makes {count:,} trainings ({parts}); expected at most {_MOST_TRAININGS:,}"


def search_faults(raw: Mapping[str, Any]) -> Iterator[Finding]:
    """The faults of the searches in a recipe whose defaults are merged; pydantic reports wrong types."""
    learners = mapping(raw.get("learners"))
    searched = [name for name, each in learners.items() if mapping(mapping(each).get("search"))]
    for name in searched:
        yield from _faults(name, learners[name], raw)
    if not searched or raw.get("protocol") == "paper":
        return
    counts = {name: _trials(mapping(learners[name].get("search"))) for name in arms(raw)}
    if len(set(counts.values())) > 1 and None not in counts.values():
        trials = ", ".join(f"{name} {count}" for name, count in counts.items())
        why = f"unequal numbers of trials ({trials}), and an arm with more trials has an advantage"
        least = min(count for count in counts.values() if count is not None)
        limit = f"; or set `search.trials: {least}`" if least > 1 else ""
        yield ("search",), f"{why}; give each arm a `search` with equally many{limit}"


def _faults(name: str, learner: Mapping[str, Any], raw: Mapping[str, Any]) -> Iterator[Finding]:
    place: KeyPath = ("learners", name, "search")
    lists = {key: values for key, values in learner["search"].items() if isinstance(values, list)}
    unused = _unused(learner)
    swept = {key.rpartition(".")[2] for key in mapping(mapping(raw.get("variants")).get(name)).get("values", {})}
    for key, values in lists.items():
        if key in unused:
            yield (*place, key), f"has no effect without {unused[key]}"
        elif isinstance(learner.get(key), dict):
            yield (
                (*place, key),
                f"would replace the `{key}` of each source by one for all; give `{key}` one value, or remove this",
            )
        if key in swept:
            yield (*place, key), "is swept too; remove it from `sweep` or from `search`"
        if key == "objective_weight":
            for value in values:
                yield from weight_faults((*place, key), learner, value)
        if any(value in values[:number] for number, value in enumerate(values)):
            yield (*place, key), "a value is given twice"
    if not lists:
        yield place, "names no setting; give values to try, e.g. {learning_rate: [1e-4, 3e-4]}"
    chosen_on = mapping(learner.get("training")).get("select_on", "validation")
    if learner.get("rationales") == []:
        yield place, "has no effect with `rationales: []`; this learner is not trained"
    elif chosen_on != "validation":
        why = f"needs validation to choose the best trial, and `select_on` is {chosen_on}"
        yield place, f"{why}; set `select_on: validation`"


def _trials(search: Mapping[str, Any]) -> int | None:
    """The number of trials of a search; 1 for an empty one, None for a malformed one."""
    lists = [values for key, values in search.items() if key != "trials" and values is not None]
    if not all(isinstance(values, list) for values in lists):
        return None
    count, most = prod(map(len, lists)), search.get("trials")
    return count if most is None else min(count, most) if isinstance(most, int) else None
