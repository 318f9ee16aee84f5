"""What a recipe leaves to be filled in: recipe-level defaults, filters of sources, what is known of the paper's tasks.

All of it works on raw values, before they are checked, and tells the places that it filled.
"""

from __future__ import annotations

from typing import Any

from mentorkd.recipe import TEACHER
from mentorkd.recipe_checks import mapping
from mentorkd.recipe_yaml import KeyPath
from mentorkd.tasks import find_task

__all__ = ["fill_known_task", "merge_defaults"]

SHARED = ("training", "sampling")
"""Sections that a recipe gives for all of its learners."""


def merge_defaults(raw: dict[str, Any]) -> set[KeyPath]:
    """Put recipe-level training and sampling under each learner's own, and the filters of sources under its `reads`;
    return the places that were filled so.
    """
    inherited: set[KeyPath] = set()

    def merge(inside: dict[str, Any], key: str, defaults: Any, place: KeyPath) -> None:
        own = inside.get(key, {})
        if isinstance(defaults, dict) and isinstance(own, dict):
            inside[key] = {**defaults, **own}
            inherited.update((*place, key, given) for given in defaults.keys() - own.keys())

    learners = mapping(raw.get("learners"))
    for name, learner in learners.items():
        if not isinstance(learner, dict):
            continue
        for section in SHARED:
            merge(learner, section, raw.get(section), ("learners", name))
        reads = mapping(learner.get("reads"))
        for source in reads:
            author = raw.get("teacher") if source == TEACHER else learners.get(source)
            merge(reads, source, mapping(author).get("select"), ("learners", name, "reads"))
    return inherited


def fill_known_task(raw: dict[str, Any]) -> None:
    """Give a task of the paper its answer kind and, where no file of questions is named, its files as `mentorkd data paper`
    lays them, the recorded teacher's among them.
    """
    task = mapping(raw.get("task"))
    known = find_task(task["name"]) if isinstance(task.get("name"), str) else None
    if known is None:
        return
    if task.get("answer") is None:
        task["answer"] = known.answer
    if task.get("train") is None and task.get("test") is None:
        task |= {"train": known.train, "test": known.test}
        teacher = mapping(raw.setdefault("teacher", {}))
        if {key: value for key, value in teacher.items() if key != "select"} in ({}, {"kind": "recorded"}):
            teacher |= {"kind": "recorded", "rationales": known.teacher}
