"""Fill in what a raw recipe leaves out: recipe-level defaults, filters of sources, files of the paper's tasks, its protocol."""

from __future__ import annotations

from typing import Any

from mentorkd.paper.tasks import find_task
from mentorkd.recipe.checks import unused_settings
from mentorkd.recipe.yaml import KeyPath, mapping
from mentorkd.records import SELF, TEACHER

SHARED = ("training", "sampling")
"""Sections of a recipe that hold for all of its learners."""


def merge_defaults(raw: dict[str, Any]) -> set[KeyPath]:
    """Fill learners' `training` and `sampling` from the recipe's, `reads` from the filters of sources; return the filled places."""
    inherited: set[KeyPath] = set()

    def merge(inside: dict[str, Any], key: str, defaults: Any, place: KeyPath) -> None:
        own = inside.get(key, {})
        if isinstance(defaults, dict) and isinstance(own, dict):
            inside[key] = {**defaults, **own}
            inherited.update((*place, key, each) for each in defaults.keys() - own.keys())

    learners = mapping(raw.get("learners"))
    for name, learner in learners.items():
        if not isinstance(learner, dict):
            continue
        for section in SHARED:
            merge(learner, section, raw.get(section), ("learners", name))
        fill_own_texts(learner)
        reads = mapping(learner.get("reads"))
        for source in reads:
            author = raw.get("teacher") if source == TEACHER else learners.get(source)
            merge(reads, source, mapping(author).get("select"), ("learners", name, "reads"))
    return inherited


def fill_own_texts(learner: dict[str, Any]) -> None:
    """Give a learner that reads its own texts its rounds, and the filters of these texts.

    With soft labels every own text is read, repeated ones too, since together they are the learner's distribution. Without,
    they are training text like any other.
    """
    sources = learner.get("rationales")
    if isinstance(sources, list) and SELF in sources:
        if learner.get("own_texts") is None:
            learner["own_texts"] = {}
        imitated = learner.get("soft_labels") is not None
        reads = learner.setdefault("reads", {})
        own = mapping(reads).setdefault(SELF, {}) if isinstance(reads, dict) else {}
        if imitated and isinstance(own, dict):
            own |= {"correct": False, "deduplicate": False} | own


def fill_known_task(raw: dict[str, Any]) -> None:
    """Give a task of the paper its answer kind, and, if the recipe names no questions, the files of `mentorkd data paper`."""
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


_PAPER_TRAINING = {"select_on": "test", "max_grad_norm": 0.0}
"""Where the paper's code differs from our defaults: it chooses the epoch on the test set, and it clips no gradient."""


def fill_protocol(raw: dict[str, Any]) -> None:
    """With `protocol: paper`, fill every value that the recipe leaves out as the paper and its code have it.

    Arms are trained for equal epochs, not updates, and validated after each (`validate_every: auto` is 1). No question is held out for
    validation, unless a learner is selected by validation. The divergence is not multiplied by tau^2. Repeated rationales stay in
    training. Texts are sampled from the 50 likeliest tokens: the published script names no `top_k`, so it has the default of
    transformers.
    """
    if raw.get("protocol") != "paper":
        return
    raw.setdefault("match", "epochs")
    if isinstance(training := raw.setdefault("training", {}), dict):
        raw["training"] = training = _PAPER_TRAINING | training
    if isinstance(sampling := raw.setdefault("sampling", {}), dict):
        sampling.setdefault("top_k", 50)
    learners = [learner for learner in mapping(raw.get("learners")).values() if isinstance(learner, dict)]
    for part in (raw, *learners):
        if (own := mapping(part.get("training"))).get("validate_every") == "auto":
            own["validate_every"] = 1
    default = mapping(training).get("select_on")
    chosen_on = {mapping(each.get("training")).get("select_on", default) for each in learners}
    task = mapping(raw.get("task"))
    if task.get("validation") is None and "validation" not in chosen_on:
        task.setdefault("validation_share", 0.0)
    for source in [mapping(raw.get("teacher")), *learners]:
        if isinstance(select := source.setdefault("select", {}), dict):
            select.setdefault("deduplicate", False)
    for learner in learners:
        if "tau_squared" not in unused_settings(learner):
            learner.setdefault("tau_squared", False)
