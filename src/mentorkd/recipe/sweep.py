"""A sweep: every learner that its keys reach, once for each combination of their values.

It works on raw values, before defaults are merged. What comes out is a plain graph of learners: whom a variant learns from
are the variants of its mentors, and learners that no key reaches stay as they are, one for all.

| key | reaches |
|---|---|
| `student.kd_weight`, `mentor.model`, `mentor.sampling.samples` | that learner |
| `teacher.select.question_ratio`, `mentor.select.correct` | those who read that source, by their `reads` |
| `training.learning_rate`, `sampling.samples` | those that have none of their own |

and with each of them those who learn from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from mentorkd.files import fingerprint
from mentorkd.recipe.checks import Finding
from mentorkd.recipe.defaults import SHARED
from mentorkd.recipe.graph import judged_in, links_in
from mentorkd.recipe.learner import Learner
from mentorkd.recipe.yaml import mapping, suggestion
from mentorkd.records import TEACHER

__all__ = ["attribute_to_sweep", "expand_sweep"]

_NOT_SWEPT = {"search", "select"}
_LONGEST_NAME = 100


@dataclass(frozen=True)
class _Key:
    """A key of a sweep with its values, and what stands for them in names."""

    text: str
    values: Sequence[Any]
    name: str = ""
    labels: Sequence[str] = ()

    @property
    def parts(self) -> list[str]:
        return self.text.split(".")

    @property
    def of_source(self) -> bool:
        return len(self.parts) == 3 and self.parts[1] == "select"

    def put(self, learners: Mapping[str, dict[str, Any]], value: Any) -> Iterator[str]:
        """Give `value` to the learners that the key itself reaches, and tell them."""
        head, *path = self.parts
        for name, learner in learners.items():
            if head in SHARED:
                own = mapping(learner.get(head))
                if path[0] not in own and not (head == "training" and learner.get("rationales") == []):
                    learner[head] = {**own, path[0]: value}
                    yield name
            elif self.of_source:
                reads = mapping(learner.get("reads"))
                own = mapping(reads.get(head))
                if head in links_in(learner).rationales and path[1] not in own:
                    learner["reads"] = {**reads, head: {**own, path[1]: value}}
                    yield name
            elif name == head:
                _put(learner, path, value)
                yield name


@dataclass
class _Variants:
    """The learners that a sweep makes, and what of each of them was swept."""

    learners: dict[str, dict[str, dict[str, Any]]]
    values: dict[str, dict[str, Any]] = field(default_factory=dict)


def expand_sweep(raw: dict[str, Any]) -> list[Finding]:
    """Put the variants of a recipe's learners in the learners' places, and tell of them in `variants`.

    Returns what is wrong with the sweep; the recipe is then left as it is. So is one that was expanded before.
    """
    keys = [_Key(text, values) for text, values in _flat(mapping(raw.get("sweep")))]
    learners = {name: each for name, each in mapping(raw.get("learners")).items() if isinstance(each, dict)}
    if not keys or raw.get("variants") or not all(isinstance(key.values, list) and key.values for key in keys):
        return []  # nothing to do; or of a wrong shape, which is told elsewhere
    faults: list[Finding] = [(("sweep", key.text), what) for key in keys for what in _faults(key, learners)]
    if faults:
        return faults
    raw["sweep"] = {key.text: key.values for key in keys}
    keys = _named(keys)
    made = _Variants({name: {} for name in learners})
    reached: set[str] = set()
    for numbers in product(*(range(len(key.values)) for key in keys)):
        reached |= _add_point(made, raw | {"learners": deepcopy(learners)}, keys, numbers)
    idle = [key.text for key in keys if key.text not in reached]
    if idle:
        return [(("sweep", key), "reaches no learner: each has a setting of its own") for key in idle]
    others = {name: {name: each} for name, each in raw["learners"].items() if name not in learners}
    raw["learners"] = {
        variant: each for name in raw["learners"] for variant, each in (made.learners | others)[name].items()
    }
    raw["variants"] = made.values
    return []


def attribute_to_sweep(found: Sequence[Finding], raw: Mapping[str, Any]) -> list[Finding]:
    """Tell faults of variants at the key of the sweep that made them, or else at the learner they are variants of."""
    variants = mapping(raw.get("variants"))
    told: dict[Finding, None] = {}
    for where, what in found:
        if where[:1] == ("learners",) and str((*where, "")[1]) in variants:
            made, place = mapping(variants[str(where[1])]), tuple(map(_base, where[2:]))
            swept = [key for key in made["values"] if (own := _place(key, made["of"])) and place[: len(own)] == own]
            where = ("sweep", swept[0]) if swept else ("learners", made["of"], *where[2:])
        told[where, what] = None
    return list(told)


def _base(part: str | int) -> str | int:
    """The learner that a variant's name begins with; another key as it is."""
    return part.partition("@")[0] if isinstance(part, str) else part


def _add_point(made: _Variants, raw: dict[str, Any], keys: Sequence[_Key], numbers: Sequence[int]) -> set[str]:
    """Add the variants of one combination of values to a copy of the recipe; return the keys that reach a learner there."""
    graph: dict[str, dict[str, Any]] = raw["learners"]
    direct: dict[str, set[str]] = {name: set() for name in graph}
    for key, number in zip(keys, numbers, strict=True):
        for name in key.put(graph, deepcopy(key.values[number])):
            direct[name].add(key.text)
    judged = {name: judged_in(raw, name) for name in graph}  # read before anyone is called by a new name
    needs = {
        name: [*links_in(each).learners, *(f["model"] for f in judged[name].values())] for name, each in graph.items()
    }
    reach = {name: _reach(name, needs, direct) for name in graph}
    names = {}
    for name in graph:
        swept = [(key, number) for key, number in zip(keys, numbers, strict=True) if key.text in reach[name]]
        names[name] = _variant_name(name, [f"{key.name}={key.labels[number]}" for key, number in swept])
        if swept:
            values = {key.text: key.values[number] for key, number in swept}
            made.values.setdefault(names[name], {"of": name, "values": values})
    for name, learner in graph.items():
        made.learners[name].setdefault(names[name], _renamed(learner, names, judged[name]))
    return set().union(*reach.values())


def _reach(name: str, needs: Mapping[str, Sequence[str]], direct: Mapping[str, set[str]]) -> set[str]:
    """The keys that reach a learner or any of those it learns from."""
    found: set[str] = set()
    waiting, seen = [name], set()
    while waiting:
        here = waiting.pop()
        if here in needs and here not in seen:
            seen.add(here)
            found |= direct[here]
            waiting += needs[here]
    return found


def _renamed(
    learner: dict[str, Any], names: Mapping[str, str], judged: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The learner with those it learns from, and those that judge it, called by their new names."""

    def new(name: Any) -> Any:
        return names.get(name, name) if isinstance(name, str) else name

    for source, learnable in judged.items():
        if (judge := new(learnable["model"])) != learnable["model"]:
            reads = mapping(learner.get("reads"))
            read = {**mapping(reads.get(source)), "learnable": {**learnable, "model": judge}}
            learner["reads"] = {**reads, source: read}
    if isinstance(learner.get("rationales"), list):
        learner["rationales"] = [new(name) for name in learner["rationales"]]
    soft = learner.get("soft_labels")
    if soft is not None:
        learner["soft_labels"] = {new(k): v for k, v in soft.items()} if isinstance(soft, dict) else new(soft)
    if isinstance(learner.get("reads"), dict):
        learner["reads"] = {new(name): select for name, select in learner["reads"].items()}
    return learner


def _flat(inside: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys; `sweep.student.kd_weight=[0, 1]` on the command line makes nested ones."""
    for key, value in inside.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _faults(key: _Key, learners: Mapping[str, dict[str, Any]]) -> Iterator[str]:
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


def _named(keys: Sequence[_Key]) -> list[_Key]:
    last = [key.parts[-1] for key in keys]
    return [
        _Key(key.text, key.values, key.text if last.count(short) > 1 else short, _labels(key.values))
        for key, short in zip(keys, last, strict=True)
    ]


def _labels(values: Sequence[Any]) -> list[str]:
    """What stands for values in names of folders; equal ones are numbered."""
    labels = [_label(value) for value in values]
    before = [labels[:number].count(label) for number, label in enumerate(labels)]
    return [f"{label}-{count + 1}" if count else label for label, count in zip(labels, before, strict=True)]


def _label(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, list | dict):
        parts = value if isinstance(value, list) else [f"{k}-{_label(v)}" for k, v in value.items()]
        return "+".join(map(_label, parts)) or "none"
    text = str(value).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.") or "empty"


def _variant_name(name: str, settings: Sequence[str]) -> str:
    """`student@kd_weight=0.3`; a name too long for a folder ends in a hash of the rest."""
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
    """Where a key's value stands in a learner; nowhere, if it belongs to one that the learner learns from."""
    head, *path = key.split(".")
    if head in SHARED:
        return (head, *path)
    if len(path) == 2 and path[0] == "select":
        return ("reads", head, path[1])
    return tuple(path) if head == learner else ()
