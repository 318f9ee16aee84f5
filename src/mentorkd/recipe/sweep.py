"""A sweep: one variant of every learner that its keys reach, for each combination of their values.

It works on raw values, before defaults are merged. The result is a plain graph of learners: a variant learns from the
variants of its mentors, and a learner that no key reaches stays as it is, one for all variants.

| key | reaches |
|---|---|
| `student.kd_weight`, `mentor.model`, `mentor.sampling.samples` | that learner |
| `teacher.select.question_ratio`, `mentor.select.correct` | the learners that read that source, by their `reads` |
| `training.learning_rate`, `sampling.samples` | the learners without a value of their own |

A key also reaches every learner that learns from a learner that it reaches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import Any, get_args

from mentorkd.files import fingerprint
from mentorkd.recipe.aliases import current_key, warn_of_old_name
from mentorkd.recipe.checks import Finding
from mentorkd.recipe.defaults import SHARED
from mentorkd.recipe.graph import Links, links_of
from mentorkd.recipe.learner import BySource, Learner
from mentorkd.recipe.yaml import mapping, suggestion
from mentorkd.records import TEACHER

_NOT_SWEPT = {"search", "select"}
_LONGEST_NAME = 100
_MOST_POINTS = 1000
"""Combinations of a sweep's values."""


@dataclass(frozen=True)
class _Key:
    """A key of a sweep with its values."""

    text: str
    """As the recipe gives it: the names of variants, and so the places of finished stages, do not change with a filter's name."""
    values: Sequence[Any]
    name: str
    """The key in the names of variants."""

    @cached_property
    def labels(self) -> list[str]:
        """A word for each value in the names of variants; equal words are numbered."""
        labels = [_label(value) for value in self.values]
        before = [labels[:number].count(label) for number, label in enumerate(labels)]
        return [f"{label}-{count + 1}" if count else label for label, count in zip(labels, before, strict=True)]

    @property
    def parts(self) -> list[str]:
        return current_key(self.text.split("."))

    @property
    def of_source(self) -> bool:
        return len(self.parts) == 3 and self.parts[1] == "select"

    def put(self, learners: Mapping[str, dict[str, Any]], value: Any) -> Iterator[str]:
        """Give `value` to the learners that the key itself reaches, and yield their names."""
        head, *path = self.parts
        links = links_of({"learners": learners}) if self.of_source else {}
        for name, learner in learners.items():
            if head in SHARED:
                own = mapping(learner.get(head))
                if path[0] not in own and not (head == "training" and learner.get("rationales") == []):
                    learner[head] = {**own, path[0]: value}
                    yield name
            elif self.of_source:
                reads = mapping(learner.get("reads"))
                own = mapping(reads.get(head))
                if head in links[name].rationales and path[1] not in own:
                    learner["reads"] = {**reads, head: {**own, path[1]: value}}
                    yield name
            elif name == head:
                _put(learner, path, value)
                yield name


def expand_sweep(raw: dict[str, Any]) -> list[Finding]:
    """Replace a recipe's learners by their variants, and list these in `variants`.

    Returns the faults of the sweep. A recipe with a faulty sweep, or with one that was expanded before, stays as it is.
    """
    swept = list(_flat(mapping(raw.get("sweep"))))
    last = [text.rpartition(".")[2] for text, _ in swept]
    names = [text if last.count(short) > 1 else short for (text, _), short in zip(swept, last, strict=True)]
    keys = [_Key(text, values, name) for (text, values), name in zip(swept, names, strict=True)]
    learners = {name: each for name, each in mapping(raw.get("learners")).items() if isinstance(each, dict)}
    if not keys or raw.get("variants") or not all(isinstance(key.values, list) and key.values for key in keys):
        return []  # nothing to do, or values of a wrong shape, which pydantic reports
    points = prod(len(key.values) for key in keys)
    if points > _MOST_POINTS:
        return [(("sweep",), f"makes {points:,} combinations; expected at most {_MOST_POINTS:,}")]
    faults: list[Finding] = [(("sweep", key.text), what) for key in keys for what in _faults(key, keys, learners)]
    if faults:
        return faults
    for key in keys:
        for old in set(key.text.split(".")) - set(key.parts):
            warn_of_old_name(old)
    raw["sweep"] = {key.text: key.values for key in keys}
    variants: dict[str, dict[str, Any]] = {name: {} for name in learners}
    values: dict[str, Any] = {}
    reached: set[str] = set()
    for point in product(*([(key, *pair) for pair in zip(key.labels, key.values, strict=True)] for key in keys)):
        reached |= _add_point(variants, values, raw | {"learners": deepcopy(learners)}, point)
    unused = [key.text for key in keys if key.text not in reached]
    if unused:
        return [(("sweep", key), "reaches no learner, since each has a value of its own; remove it") for key in unused]
    others = {name: {name: each} for name, each in raw["learners"].items() if name not in learners}
    variants |= others
    raw["learners"] = {variant: each for name in raw["learners"] for variant, each in variants[name].items()}
    raw["variants"] = values
    return []


def attribute_to_sweep(faults: Sequence[Finding], raw: Mapping[str, Any]) -> list[Finding]:
    """The faults with those of variants at the key of the sweep that caused them, or else at the learner that was swept."""
    variants = mapping(raw.get("variants"))
    attributed: dict[Finding, None] = {}
    for place, message in faults:
        if place[:1] == ("learners",) and str((*place, "")[1]) in variants:
            variant = mapping(variants[str(place[1])])
            # A variant's name without what follows the `@` is its learner's name.
            inner = tuple(part.partition("@")[0] if isinstance(part, str) else part for part in place[2:])
            places = {key: _place(key, variant["of"]) for key in variant["values"]}
            swept = [key for key, own in places.items() if own and inner[: len(own)] == own]
            place = ("sweep", swept[0]) if swept else ("learners", variant["of"], *place[2:])
        attributed[place, message] = None
    return list(attributed)


def _add_point(
    variants: dict[str, dict[str, Any]],
    values: dict[str, Any],
    raw: dict[str, Any],
    point: Sequence[tuple[_Key, str, Any]],
) -> set[str]:
    """Add the variants of a point (each key with the label and the value that it takes there) and their `values`.

    `raw` is a copy of the recipe to work on. Returns the keys that reach a learner.
    """
    graph: dict[str, dict[str, Any]] = raw["learners"]
    direct: dict[str, set[str]] = {name: set() for name in graph}
    for key, _, value in point:
        for name in key.put(graph, deepcopy(value)):
            direct[name].add(key.text)
    links = links_of(raw)  # read before learners are renamed
    reach = {name: _reach(name, links, direct) for name in graph}
    names = {}
    for name in graph:
        swept = [each for each in point if each[0].text in reach[name]]
        names[name] = _variant_name(name, [f"{key.name}={label}" for key, label, _ in swept])
        if swept:
            own = {key.text: value for key, _, value in swept}
            values.setdefault(names[name], {"of": name, "values": own})
    for name, learner in graph.items():
        variants[name].setdefault(names[name], _renamed(learner, names, links[name]))
    return set().union(*reach.values())


def _reach(name: str, links: Mapping[str, Links], direct: Mapping[str, set[str]]) -> set[str]:
    """The keys that reach a learner or any learner that it learns from, directly or not."""
    learners = [name]
    for learner in learners:  # the list grows
        learners += [other for other in links[learner].learners if other in links and other not in learners]
    return set().union(*(direct[learner] for learner in learners))


def _renamed(learner: dict[str, Any], names: Mapping[str, str], links: Links) -> dict[str, Any]:
    """The learner with the new names of the learners that it learns from, and of those whose weights it or a filter takes."""

    def new(name: Any) -> Any:
        return names.get(name, name) if isinstance(name, str) else name

    for source, perplexity in links.perplexity.items():
        if (model := new(perplexity["model"])) != perplexity["model"]:
            reads = mapping(learner.get("reads"))
            filters = {**mapping(reads.get(source)), "perplexity": {**perplexity, "model": model}}
            learner["reads"] = {**reads, source: filters}
    for author, source in links.questions.items():
        if new(source) != source:
            reads = mapping(learner.get("reads"))
            learner["reads"] = {**reads, author: {**mapping(reads.get(author)), "questions": new(source)}}
    if isinstance(learner.get("rationales"), list):
        learner["rationales"] = [new(name) for name in learner["rationales"]]
    soft = learner.get("soft_labels")
    if soft is not None:
        learner["soft_labels"] = {new(k): v for k, v in soft.items()} if isinstance(soft, dict) else new(soft)
    if isinstance(learner.get("reads"), dict):
        learner["reads"] = {new(name): select for name, select in learner["reads"].items()}
    for key in get_args(BySource):
        if isinstance(learner.get(key), dict):
            learner[key] = {new(source): value for source, value in learner[key].items()}
    if links.initial is not None:
        learner["model"] = {**learner["model"], "learner": new(links.initial)}
    return learner


def _flat(inside: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values; `sweep.student.kd_weight=[0, 1]` on the command line makes nested mappings."""
    for key, value in inside.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _faults(key: _Key, keys: Sequence[_Key], learners: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    head, *path = key.parts
    if any(value in key.values[:number] for number, value in enumerate(key.values)):
        yield "a value is given twice"
    one_of_all = head in SHARED and len(path) == 1
    of_source = key.of_source and (head == TEACHER or head in learners)
    of_learner = head in learners and path and path[0] in Learner.model_fields and path[0] not in _NOT_SWEPT
    if not (one_of_all or of_source or of_learner):
        kinds = "a learner's key (student.kd_weight), a source's filter (teacher.select.question_ratio)"
        near = suggestion(head, [*learners, TEACHER, *SHARED]) if head not in learners else ""
        if head in learners and path:
            near = suggestion(path[0], Learner.model_fields)
        yield f"cannot be swept; expected {kinds}, or training.* or sampling.*{near}"
    elif of_learner:
        yield from _scalar_faults(key, keys, learners[head])


def _scalar_faults(key: _Key, keys: Sequence[_Key], learner: Mapping[str, Any]) -> Iterator[str]:
    """The fault of a key in a value that is no mapping: the value would be lost, as 0.7 in `kd_weight: 0.7` for the other sources."""
    inside: Any = learner
    for length, part in enumerate(key.parts[1:-1], 2):
        inside = mapping(inside).get(part)
        swept = [value for other in keys if other.parts == key.parts[:length] for value in other.values]
        for value in (inside, *swept):
            if not (value is None or isinstance(value, dict) or (part == "model" and isinstance(value, str))):
                place = ".".join(key.parts[:length])
                yield f"`{place}` is `{value}` and no mapping; write the mapping there, with every source"
                return


def _label(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, list | dict):
        parts = value if isinstance(value, list) else [f"{k}-{_label(v)}" for k, v in value.items()]
        return "+".join(map(_label, parts)) or "none"
    text = str(value).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.") or "empty"


def _variant_name(name: str, settings: Sequence[str]) -> str:
    """`student@kd_weight=0.3`; a name that is too long for a folder is cut and ends in a hash of the whole."""
    text = f"{name}@{','.join(settings)}" if settings else name
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}-{fingerprint(text)[:8]}"


def _put(inside: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        inner = inside.get(part)
        if isinstance(inner, str) and part == "model":
            inner = {"name": inner}
        inside[part] = inner = dict(mapping(inner))
        inside = inner
    inside[path[-1]] = value


def _place(key: str, learner: str) -> tuple[str, ...]:
    """The place of a key's value in a learner; empty if the key belongs to another learner, which this one learns from."""
    head, *path = current_key(key.split("."))
    if head in SHARED:
        return (head, *path)
    if len(path) == 2 and path[0] == "select":
        return ("reads", head, path[1])
    return tuple(path) if head == learner else ()
