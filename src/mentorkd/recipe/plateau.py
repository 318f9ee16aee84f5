"""The faults of how arms are matched: at their plateaus, or by compute; and of trainings that end at a plateau."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mentorkd.recipe.checks import Finding
from mentorkd.recipe.graph import arms
from mentorkd.recipe.yaml import KeyPath, mapping
from mentorkd.records import SELF


def plateau_faults(raw: Mapping[str, Any]) -> Iterator[Finding]:
    """The faults of `patience`, `cooldown`, `match: plateau` and `match: compute` in a recipe whose defaults are merged."""
    learners = {name: mapping(learner) for name, learner in mapping(raw.get("learners")).items()}
    for name in [name for name, learner in learners.items() if learner.get("rationales") != []]:
        yield from _training_faults(("learners", name, "training"), learners[name], raw.get("protocol"))
    yield from _compute_faults(raw, learners)
    if raw.get("match") == "plateau":
        yield from _match_faults({name: mapping(learners[name].get("training")) for name in arms(raw)})


def _training_faults(place: KeyPath, learner: Mapping[str, Any], protocol: Any) -> Iterator[Finding]:
    training = mapping(learner.get("training"))
    given = [key for key in ("patience", "cooldown") if training.get(key)]
    if "patience" in given and protocol == "paper":
        yield (*place, "patience"), "the paper's protocol trains to the end; remove `patience`, or `protocol: paper`"
    elif "patience" in given and (chosen_on := training.get("select_on", "validation")) != "validation":
        why = f"needs validation to find the plateau, and `select_on` is {chosen_on}"
        yield (*place, "patience"), f"{why}; set `select_on: validation`"
    if "cooldown" in given and (schedule := training.get("schedule", "constant")) != "constant":
        why = f"`schedule: {schedule}` changes the rate before the cool-down"
        yield (*place, "cooldown"), f"{why}; set `schedule: constant`, or remove `cooldown`"
    if given and SELF in (learner.get("rationales") or ()):
        why = f"each training of a learner with `{SELF}` has a fixed share of the updates"
        yield (*place, given[0]), f"{why}; remove {' and '.join(f'`{key}`' for key in given)}, or `{SELF}`"


def _compute_faults(raw: Mapping[str, Any], learners: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    if raw.get("match") != "compute":
        if raw.get("compute") is not None:
            yield (
                ("compute",),
                f"`match: {raw.get('match', 'updates')}` does not read it; set `match: compute`, or remove it",
            )
        return
    for name in [name for name, learner in learners.items() if learner.get("soft_label_store") == "online"]:
        why = "`match: compute` counts the scoring of stored soft labels"
        yield ("learners", name, "soft_label_store"), f"{why}; remove `online`, or match something else"


def _match_faults(trainings: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    for key, what in (("patience", "a share, e.g. 0.25"), ("updates", "a limit, the same for all arms")):
        for name in [name for name, training in trainings.items() if training.get(key) is None]:
            yield ("learners", name, "training", key), f"missing: `match: plateau` needs it of every arm; give {what}"
    limits = {name: training["updates"] for name, training in trainings.items() if training.get("updates") is not None}
    if len(set(limits.values())) > 1:
        numbers = ", ".join(f"{name} {limit}" for name, limit in limits.items())
        yield ("match",), f"`plateau` needs one limit for all arms, got `training.updates` {numbers}; give one number"
