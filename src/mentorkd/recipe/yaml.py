"""YAML text to plain values that remember their lines, and `key.path=value` overrides.

PyYAML on its own takes the last of two equal keys in silence, reads `2e-4` as text, and shares one object between all
uses of an anchor; here duplicates are faults, `2e-4` is a number, and every use is a copy of its own.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from mentorkd.errors import Fault, RecipeError

__all__ = ["KeyPath", "Places", "dotted", "dump_yaml", "read_yaml", "set_override", "suggestion"]

KeyPath = tuple[str | int, ...]

_FLOAT = re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


@dataclass
class Places:
    """Where keys of a recipe stand: their lines (from 1), and which were given on the command line."""

    lines: dict[KeyPath, int] = field(default_factory=dict)
    overridden: list[KeyPath] = field(default_factory=list)

    def is_overridden(self, path: KeyPath) -> bool:
        return any(path[: len(given)] == given for given in self.overridden)

    def fault(self, path: KeyPath, message: str) -> Fault:
        """A Fault at `path`; a key without a line of its own has that of the nearest key around it."""
        if self.is_overridden(path):
            return Fault(dotted(path), f"{message} (given on the command line)")
        around = (self.lines.get(path[:length]) for length in range(len(path), 0, -1))
        return Fault(dotted(path), message, next((line for line in around if line is not None), None))


def dotted(path: KeyPath) -> str:
    """`learners.student.rationales[1]` for ("learners", "student", "rationales", 1)."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` for a close match among `known`, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def read_yaml(text: str) -> tuple[Any, Places, list[Fault]]:
    """The value of a YAML document, the places of its keys, and its faults (duplicate keys, keys that are not text).

    Raises RecipeError (without a source name) if the text is not YAML at all.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, Places(), []
        faults: list[Fault] = []
        _check_keys(node, (), faults, ())
        if any(fault.message.startswith("refers to itself") for fault in faults):
            raise RecipeError("", faults)
        value = _unshared(loader.construct_document(node))
        places = Places()
        _note_lines(node, (), places.lines)
        return value, places, faults
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise _not_yaml(what, mark.line + 1 if mark else None) from None
    except yaml.reader.ReaderError as error:
        raise _not_yaml(
            f"character {chr(error.character)!r} is not allowed", text.count("\n", 0, error.position) + 1
        ) from None
    except ValueError as error:  # an unquoted 2024-13-45, say, which has the form of a date
        raise _not_yaml(f"{error}; put text that looks like a date or a number in quotes", None) from None
    finally:
        if loader is not None:
            loader.dispose()


def dump_yaml(value: Any) -> str:
    """YAML text that `read_yaml` reads back to an equal value, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def set_override(raw: MutableMapping[Any, Any], assignment: str) -> KeyPath:
    """Put `key.path=value` into `raw` and return the path; the value is read as YAML.

    Missing mappings on the way are created, and a learner's `model: NAME` becomes `{name: NAME}` where a key inside it
    is set. Raises RecipeError if `assignment` has no `=`, an empty key, a value that is not YAML, or a path through
    something that is not a mapping.
    """
    key, equals, text = assignment.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise _refused(assignment, f"got `{assignment}`; expected `key.path=value`")
    try:
        value, _, faults = read_yaml(text)
    except RecipeError as error:
        raise _refused(key, f"{error.faults[0].message} (in the value given on the command line)") from None
    if faults:
        raise _refused(key, f"{faults[0].message} (in the value given on the command line)")
    here = raw
    for depth, part in enumerate(parts[:-1]):
        inner = here.get(part)
        if inner is None:
            inner = {}
        elif isinstance(inner, str) and part == "model" and parts[0] == "learners":
            inner = {"name": inner}
        elif not isinstance(inner, MutableMapping):
            passed = ".".join(parts[: depth + 1])
            got = f"`{passed}` is {inner!r}, not a mapping"
            raise _refused(key, f"{got}; set it as a whole (given on the command line)")
        here[part] = inner
        here = inner
    here[parts[-1]] = value
    return tuple(parts)


def _not_yaml(what: str, line: int | None) -> RecipeError:
    return RecipeError("", [Fault("", f"not valid YAML: {what}", line)])


def _refused(key: str, message: str) -> RecipeError:
    return RecipeError("command line", [Fault(key.strip(), message)])


def _check_keys(node: yaml.Node, path: KeyPath, faults: list[Fault], above: Collection[yaml.Node]) -> None:
    if node in above:
        faults.append(Fault(dotted(path), "refers to itself by an anchor", node.start_mark.line + 1))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _check_keys(item, (*path, index), faults, (*above, node))
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
            here = (*path, name)
            numbered = path[-1:] == ("layers",) and key.tag == "tag:yaml.org,2002:int"
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge") and not numbered:
                faults.append(Fault(dotted(here), "a key must be text; put it in quotes", line))
            elif name in first:
                faults.append(Fault(dotted(here), f"given twice; the first is on line {first[name]}", line))
            first.setdefault(name, line)
            _check_keys(value, here, faults, (*above, node))


def _note_lines(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            _note_lines(item, (*path, index), lines)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            lines[here] = key.start_mark.line + 1
            _note_lines(value, here, lines)


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _unshared(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_unshared(inner) for inner in value]
    return value
