"""What leaves this machine: paths are cut to their last part, and nothing that looks like a key is let through."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from mentorkd.errors import RunError
from mentorkd.sharing.source import Source

_KEYS = {
    "a token of the Hugging Face hub": r"\bhf_[A-Za-z0-9]{30,}",
    "an API key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a key of AWS": r"\bAKIA[0-9A-Z]{16}\b",
    "a token of GitHub": r"\bgh[pousr]_[A-Za-z0-9]{36,}",
    "a key of Google": r"\bAIza[0-9A-Za-z_-]{35}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)S?$")
_SHORTEST_SECRET = 12
"""Characters; a shorter value of a variable may be an ordinary word."""


class Privacy:
    """The paths of this machine that a run's files may hold, and the keys of this process."""

    def __init__(self, paths: Iterable[str], key_name: str | None = None) -> None:
        """`paths`: absolute paths that are replaced. `key_name`: the variable with the teacher's key, of any name."""
        names = {os.path.normpath(path): Path(path).name for path in paths}
        self._names = {path: name for path, name in names.items() if name} | {self._home: "~"}
        self._key_name = key_name

    @classmethod
    def of(cls, source: Source) -> Privacy:
        """Of a run: the paths in its recipe and its commands, the run folder, and the working folder."""
        pipeline = source.pipeline
        records = (pipeline.folder.last(stage.name) for stage in pipeline.stages)
        commands = {record.made_by.get("command", "") for record in records if record is not None and record.made_by}
        paths = [str(pipeline.folder.root.absolute()), os.getcwd(), *_paths(pipeline.recipe.model_dump(mode="json"))]
        key_name = getattr(pipeline.recipe.teacher, "api_key_env", None)
        return cls([*paths, *(path for command in commands for path in _paths(_words(command)))], key_name)

    def public(self, text: str) -> str:
        """A text with the last part of each known path in the path's place, and `~` for the home folder."""
        return self._pattern.sub(lambda match: self._names[match[0]], text)

    def check(self, what: str, text: str) -> None:
        """Raise RunError if a text holds a key, or the home folder. The message does not repeat it."""
        for kind, pattern in self._forbidden.items():
            if pattern.search(text):
                raise RunError(f"{what} holds {kind}, which nobody else should read; remove it there, and share again")

    @property
    def _home(self) -> str:
        return str(Path.home())

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest = sorted(self._names, key=len, reverse=True)
        # A path begins after no word, as in https://host/data, unless that is the end of an escape of JSON: "\n/data".
        return re.compile(rf"(?:(?<![\w.~-])|(?<=\\[nrtbf]))(?:{'|'.join(map(re.escape, longest))})(?![\w-])")

    @cached_property
    def _forbidden(self) -> dict[str, re.Pattern[str]]:
        kinds = {kind: re.compile(pattern) for kind, pattern in _KEYS.items()}
        if len(Path(self._home).parts) > 2:  # of root it is /root, a word as others
            kinds["the path of the home folder"] = re.compile(re.escape(self._home) + r"(?![\w-])")
        for name, value in os.environ.items():
            if len(value) >= _SHORTEST_SECRET and (name == self._key_name or _SECRET_NAME.search(name)):
                kinds[f"the value of ${name}"] = re.compile(re.escape(value))
        return kinds


def _words(command: str) -> list[str]:
    """The words of a command, and what stands behind the equals sign of an override."""
    try:
        words = shlex.split(command)
    except ValueError:  # a quotation that does not end
        words = command.split()
    return [part for word in words for part in (word, word.partition("=")[2])]


def _paths(value: Any) -> Iterator[str]:
    """The absolute paths among the texts in a JSON-like value."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _paths(each)
    elif isinstance(value, str) and os.path.isabs(path := re.sub(r"^(file|hub):", "", value)):
        yield path
