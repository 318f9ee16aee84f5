"""YAML text to plain values with the lines of their keys, and `key.path=value` overrides.

`ruamel.yaml` reads YAML 1.2, where `2e-4` is a number. Its `compose` gives nodes with line numbers, so all duplicate keys
are found at once. Nesting and aliases are bounded before any value is made, and every alias becomes a copy of its own.
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.representer import SafeRepresenter

from mentorkd.errors import Fault, RecipeError

KeyPath = tuple[str | int, ...]

MAX_DEPTH = 50
"""Levels of nesting in a recipe, with aliases written out."""
MAX_ALIASED = 100_000
"""Values that aliases may add to a recipe."""

_TWO_MEANINGS = re.compile(
    r"yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF"  # booleans of YAML 1.1, text in 1.2
    r"|[-+]?0o?[0-9][0-9_]*"  # octal in one version, decimal or text in the other
    r"|[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"  # base 60 in 1.1, text in 1.2
)


class _Representer(SafeRepresenter):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, data: str) -> ScalarNode:
        style = "'" if _TWO_MEANINGS.fullmatch(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    def represent_float(self, data: float) -> ScalarNode:
        node = super().represent_float(data)
        if "." not in node.value:
            node.value = node.value.replace("e", ".0e")  # YAML 1.1 reads 1.0e-05 as a number, but 1e-05 as text
        return node


_Representer.add_representer(str, _Representer.represent_text)
_Representer.add_representer(float, _Representer.represent_float)


@dataclass
class Places:
    """The lines (from 1) of a recipe's keys, and the keys given on the command line."""

    lines: dict[KeyPath, int] = field(default_factory=dict)
    overridden: list[KeyPath] = field(default_factory=list)

    def is_overridden(self, path: KeyPath) -> bool:
        return any(path[: len(key)] == key for key in self.overridden)

    def rename(self, old: KeyPath, new: KeyPath) -> None:
        """Let the key `new` stand where `old` stands."""
        self.lines |= {(*new, *path[len(old) :]): line for path, line in self.lines.items() if path[: len(old)] == old}
        self.overridden += [(*new, *path[len(old) :]) for path in self.overridden if path[: len(old)] == old]

    def fault(self, path: KeyPath, message: str) -> Fault:
        """A Fault at `path`; a key without a line of its own gets the line of the nearest key around it."""
        if self.is_overridden(path):
            return Fault(_dotted(path), f"{message} (given on the command line)")
        around = (self.lines.get(path[:length]) for length in range(len(path), 0, -1))
        return Fault(_dotted(path), message, next((line for line in around if line is not None), None))


def mapping(value: Any) -> dict[str, Any]:
    """`value` if it is a mapping, else an empty one: for looking into raw values of any shape."""
    return value if isinstance(value, dict) else {}


def _dotted(path: KeyPath) -> str:
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
    """The value of a YAML document, the places of its keys, and the faults of its keys and of values with two meanings.

    Raises RecipeError (without a source name) if the text is not YAML, contains itself, or exceeds MAX_DEPTH or MAX_ALIASED.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = MAX_DEPTH
    yaml.allow_duplicate_keys = True  # `_check` reports them, all at once
    yaml.composer.warn_double_anchors = False
    places, faults = Places(), list[Fault]()
    try:
        node = yaml.compose(text)
        if node is None:
            return None, places, faults
        sizes: dict[Node, tuple[int, int]] = {}
        if _measure(node, (), sizes)[0] - len(sizes) > MAX_ALIASED:
            raise _refusal(f"aliases add more than {MAX_ALIASED:,} values; write fewer of them")
        _check(node, (), places.lines, faults)
        return _unshared(yaml.constructor.construct_document(node)), places, faults
    except MaxDepthExceededError as error:
        raise _too_deep((), error.problem_mark.line + 1) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise _refusal(f"not valid YAML: {what}", line=mark.line + 1 if mark else None) from None
    except ReaderError as error:
        what = f"not valid YAML: character {chr(error.character)!r} is not allowed"
        raise _refusal(what, line=text.count("\n", 0, error.position) + 1) from None
    except ValueError as error:  # an unquoted 2024-13-45, say, which has the form of a date
        what = f"not valid YAML: {error}; put text that looks like a date or a number in quotes"
        raise _refusal(what) from None


def dump_yaml(value: Any) -> str:
    """YAML text that `read_yaml` reads back to an equal value, keys in their order."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.representer.sort_base_mapping_type_on_output = False
    yaml.width = 120
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


def set_override(raw: MutableMapping[Any, Any], assignment: str) -> KeyPath:
    """Put `key.path=value` into `raw` and return the path; the value is read as YAML.

    Missing mappings on the way are created. A learner's `model: NAME` becomes `{name: NAME}` if a key inside it is set.
    Raises RecipeError if `assignment` has no `=`, an empty key, a value that is not YAML, or a path through something that
    is not a mapping, or nesting of more than MAX_DEPTH levels.
    """
    key, equals, text = assignment.partition("=")
    key = key.strip()
    parts = key.split(".")
    if not equals or not all(parts):
        raise _refusal(f"got `{assignment}`; expected `key.path=value`", (assignment.strip(),))
    try:
        value, _, faults = read_yaml(text)
    except RecipeError as error:
        faults = list(error.faults)
    if not faults and len(parts) + _depth(value) > MAX_DEPTH:
        faults = list(_too_deep((), 0).faults)
    if faults:
        raise _refusal(f"{faults[0].message} (in the value given on the command line)", (key,))
    outer = raw
    for depth, part in enumerate(parts[:-1]):
        inner = outer.get(part)
        if inner is None:
            inner = {}
        elif isinstance(inner, str) and part == "model" and parts[0] == "learners":
            inner = {"name": inner}
        elif not isinstance(inner, MutableMapping):
            got = f"`{'.'.join(parts[: depth + 1])}` is {inner!r}, not a mapping"
            raise _refusal(f"{got}; set it as a whole (given on the command line)", (key,))
        outer[part] = inner
        outer = inner
    outer[parts[-1]] = value
    return tuple(parts)


def _refusal(message: str, path: KeyPath = (), line: int | None = None) -> RecipeError:
    return RecipeError("", [Fault(_dotted(path), message, line)])


def _too_deep(path: KeyPath, line: int) -> RecipeError:
    return _refusal(f"nested more than {MAX_DEPTH} levels deep; expected a recipe", path, line)


def _depth(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inside), default=0)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _inside(node: Node, path: KeyPath) -> list[tuple[KeyPath, Node, Node]]:
    """The path, the node that gives the line, and the value of each item of a list or key of a mapping."""
    if isinstance(node, SequenceNode):
        return [((*path, index), item, item) for index, item in enumerate(node.value)]
    if isinstance(node, MappingNode):
        return [
            ((*path, str(key.value) if isinstance(key, ScalarNode) else "?"), key, item) for key, item in node.value
        ]
    return []


def _measure(node: Node, path: KeyPath, sizes: dict[Node, tuple[int, int]]) -> tuple[int, int]:
    """The number of values and the depth of a node with its aliases written out.

    An anchor precedes its aliases, so each node is measured once, and an alias costs one look-up.
    """
    if node not in sizes:
        sizes[node] = (0, 0)  # while its own parts are measured
        parts = [_measure(value, inside, sizes) for inside, _, value in _inside(node, path)]
        sizes[node] = 1 + sum(size for size, _ in parts), 1 + max((depth for _, depth in parts), default=0)
    elif sizes[node] == (0, 0):
        raise _refusal("refers to itself by an anchor", path, _line(node))
    if sizes[node][1] > MAX_DEPTH:
        raise _too_deep(path, _line(node))
    return sizes[node]


def _check(node: Node, path: KeyPath, lines: dict[KeyPath, int], faults: list[Fault]) -> None:
    """Note the lines of all keys, and the faults of keys and values."""
    if isinstance(node, ScalarNode) and node.style is None and _TWO_MEANINGS.fullmatch(node.value):
        why = f"`{node.value}` has two meanings, one in YAML 1.1 and one in 1.2"
        ways = "write true, false or a decimal number, or put text in quotes"
        faults.append(Fault(_dotted(path), f"{why}; {ways}", _line(node)))
    first: dict[KeyPath, int] = {}
    for inside, key, value in _inside(node, path):
        line = lines[inside] = _line(key)
        if isinstance(node, MappingNode):
            numbered = path[-1:] == ("layers",) and key.tag == "tag:yaml.org,2002:int"
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge") and not numbered:
                faults.append(Fault(_dotted(inside), "a key must be text; put it in quotes", line))
            elif inside in first:
                faults.append(Fault(_dotted(inside), f"given twice; the first is on line {first[inside]}", line))
            first.setdefault(inside, line)
            _check(key, inside, lines, faults)
        _check(value, inside, lines, faults)


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _unshared(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_unshared(inner) for inner in value]
    return value
