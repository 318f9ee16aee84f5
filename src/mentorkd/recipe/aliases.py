"""Filters under the names that they had before: recipes and records that use them load, and fingerprints hash them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from mentorkd.recipe.learner import AUTO_ROWS
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.yaml import KeyPath, Places, mapping

log = logging.getLogger(__name__)

BIRTH_NAMES = {"arithmetic": "steps", "perplexity": "learnable"}
"""Renamed filters (of `select` and `reads`): the name today, and at birth. Fingerprints hash the latter, so runs stay finished."""

RECORDED_NAMES = {"steps_check": "arithmetic", "learnable": "perplexity"}
"""Renamed filters: the name in records of earlier versions, and the name today."""

LATER_KEYS = {
    "attn_implementation",
    "chat_date",
    "chat_template_kwargs",
    "columns",
    "gguf_file",
    "layers",
    "learner",
    "logprobs",
}
"""Keys of models and teachers that were added later: fingerprints hash them only where they are set, so runs stay finished."""

LATER_FILTERS = {"questions": None, "weight": "equal"}
"""Filters that were added later, with the values that change nothing: fingerprints leave these out."""

LATER_SETTINGS: Mapping[str, Any] = {
    "chunk_temperature": None,
    "mentor_reads": "question",
    "own_texts": None,
    "folds": 1,
    "shuffle_soft_labels": False,
    "label_smoothing": 0.0,
}
"""The same for settings of learners."""

LATER_SAMPLING = {"test_samples": 0, "tokens_per_batch": None, "dtype": "auto"}
"""The same for settings of a sampling."""

LATER_TRAINING = {"processes": 1, "sharding": "none", "patience": None, "cooldown": 0.0}
"""The same for settings of a training."""

EQUAL_TRAINING = {"split": {"none", "auto"}}
"""Values of a training's settings that differ in its rounding and in what dropout draws, and in nothing else: fingerprints leave them
out."""

OLD_DEFAULTS = {"training": {"split": "none"}}
"""By section, what a stored recipe means that is older than a key; in a new recipe the key's default means something else."""

LATER_TASK_KEYS = {"unlabelled", "limit_unlabelled", "grader"}
"""The same for the task, whose `columns` are as old as the task."""

_CURRENT_NAMES = {old: new for new, old in BIRTH_NAMES.items()}


def birth_names(filters: Mapping[str, Any]) -> dict[str, Any]:
    """The filters of a source with the names that fingerprints hash."""
    return {BIRTH_NAMES.get(name, name): value for name, value in filters.items()}


def canonical_dump(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON-like values with the names that fingerprints hash.

    Left out is where it runs: the places of its data and of its overlay, `resources`, and `shards`, whose number is in the fingerprints
    of the stages that are cut.
    """
    raw = recipe.model_dump(mode="json", exclude={"data": {"root"}, "resources": True, "shards": True})
    del raw["teacher"]["overlay"]  # its decisions count, which are in the fingerprint of the stage that applies them
    for learner in raw["learners"].values():
        del learner["resources"]
    for _, filters in filters_in(raw):
        for new, old in BIRTH_NAMES.items():
            filters[old] = filters.pop(new)
        for key, value in LATER_FILTERS.items():
            if filters[key] == value:
                del filters[key]
    raw["training"], raw["sampling"] = later_training(raw["training"]), later_sampling(raw["sampling"])
    raw["learners"] = {name: later_settings(learner) for name, learner in raw["learners"].items()}
    for part in (raw["teacher"], *(learner["model"] for learner in raw["learners"].values())):
        drop_unset_later_keys(part)
    if raw["compute"] is None:
        del raw["compute"]
    del raw["task"]["grader"]  # its source counts, which is in the fingerprint of the questions
    drop_unset_later_keys(raw["task"], LATER_TASK_KEYS)
    return raw


def drop_unset_later_keys(settings: dict[str, Any], later: Set[str] = LATER_KEYS) -> None:
    """Take out of a model's or teacher's settings the keys that earlier versions do not know, where they say nothing."""
    for key in later & settings.keys():
        if not settings[key]:
            del settings[key]
    if (lora := settings.get("lora")) and lora.get("bits") is None:
        lora.pop("bits", None)


def later_settings(learner: Mapping[str, Any]) -> dict[str, Any]:
    """A learner's settings as fingerprints hash them: without later ones that say nothing, and `auto` as the store it stands for."""
    settings = {
        key: value for key, value in learner.items() if key not in LATER_SETTINGS or value != LATER_SETTINGS[key]
    }
    if settings.get("soft_label_store") == "auto":
        settings["soft_label_store"] = "hidden"
    for key, later in (("training", later_training), ("sampling", later_sampling)):
        if key in settings:
            settings[key] = later(settings[key])
    return settings


def later_training(training: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training as fingerprints hash them: without later ones that say nothing, and without equal ones."""
    hashed = {key: value for key, value in training.items() if value not in EQUAL_TRAINING.get(key, ())}
    return {key: value for key, value in hashed.items() if key not in LATER_TRAINING or value != LATER_TRAINING[key]}


def later_sampling(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a sampling as fingerprints hash them: without later ones that say nothing, and `auto` as the rows it stands for."""
    settings = {
        key: value for key, value in sampling.items() if key not in LATER_SAMPLING or value != LATER_SAMPLING[key]
    }
    if settings.get("batch_size") == "auto":
        settings["batch_size"] = AUTO_ROWS
    return settings


def keep_old_defaults(raw: dict[str, Any]) -> None:
    """Give a stored recipe the values that its version had for keys that it lacks."""
    for section, values in OLD_DEFAULTS.items():
        if isinstance(given := raw.setdefault(section, {}), dict):
            raw[section] = values | given


def filters_in(raw: Mapping[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """All filters in a raw recipe (under `select` and `reads`), each with its place."""
    sources: dict[KeyPath, Any] = {("teacher",): raw.get("teacher")}
    sources |= {("learners", name): learner for name, learner in mapping(raw.get("learners")).items()}
    for place, source in sources.items():
        filters: dict[KeyPath, Any] = {("select",): mapping(source).get("select")}
        filters |= {("reads", author): select for author, select in mapping(mapping(source).get("reads")).items()}
        yield from (((*place, *key), select) for key, select in filters.items() if isinstance(select, dict))


def rename_old_keys(raw: Mapping[str, Any], places: Places, *, stored: bool = False) -> Iterator[tuple[KeyPath, str]]:
    """Give filters in a raw recipe and in its `places` the names of today; yield the faults of those given by both names.

    Each old name is warned of, but in a recipe that mentorkd `stored` only where the command line gives it.
    """
    for place, filters in filters_in(raw):
        for old, new in _CURRENT_NAMES.items():
            if old in filters:
                value = filters.pop(old)
                if new in filters:
                    yield (*place, old), f"`{old}` is the old name of `{new}`, and both are given; remove `{old}`"
                else:
                    if not stored or places.is_overridden((*place, old)):
                        warn_of_old_name(old)
                    filters[new] = value
                    places.rename((*place, old), (*place, new))


def current_key(path: Sequence[str]) -> list[str]:
    """The parts of a sweep's key (SOURCE.select.FILTER or LEARNER.reads.SOURCE.FILTER) with the filter's name of today."""
    depth = {"select": 2, "reads": 3}.get(path[1]) if len(path) > 1 else None
    return [_CURRENT_NAMES.get(part, part) if number == depth else part for number, part in enumerate(path)]


@functools.cache  # one warning a name
def warn_of_old_name(old: str) -> None:
    """Tell the user that a filter has another name now."""
    log.warning("recipe: the filter `%s` is now called `%s`; the old name still works", old, _CURRENT_NAMES[old])
