"""The error tree. Every message has the value received, the expected value and the next step."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname


class MentorkdError(Exception):
    """Base class of all user errors; the command line prints one line on stderr and exits with code 2."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes send errors by pickle, but constructors differ in their arguments from `args`.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[MentorkdError], args: tuple[Any, ...], state: dict[str, Any]) -> MentorkdError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


@dataclass(frozen=True)
class Fault:
    """One fault of a recipe: its key and line, and what is wrong."""

    key: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}, " if self.line is not None else ""
        return f"{place}{self.key}: {self.message}" if self.key else f"{place}{self.message}"


class RecipeError(MentorkdError):
    """A recipe with faults; all are reported at once, each with its line."""

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        self.source = source
        self.faults = tuple(faults)
        head = f"{source}: {len(self.faults)} fault{'s' if len(self.faults) != 1 else ''}"
        super().__init__("\n  ".join([head, *map(str, self.faults)]))


class DataError(MentorkdError):
    """A malformed question or rationale file; the message names the file, the row and the field."""


class ModelError(MentorkdError):
    """A model or tokenizer that cannot be loaded or does not fit its role."""


class MissingExtraError(MentorkdError):
    """An optional package is missing; the message has the exact pip command."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional package; install it with: {install_command(extra)}")


class RunError(MentorkdError):
    """A run folder that is locked, damaged, or without the requested data."""


class StoreError(RunError):
    """A soft-label store that is truncated, corrupt or of another mentor."""


class TeacherError(MentorkdError):
    """A teacher that cannot continue to annotate."""


class BudgetError(TeacherError):
    """The next request could exceed the budget of requests, tokens or dollars; all replies so far are kept."""


class TrainingError(MentorkdError):
    """Training that must stop (a non-finite loss, no rows left)."""


class WorkerError(MentorkdError):
    """A worker process that ended unexpectedly, or was killed, while it ran a stage."""


def install_command(extra: str) -> str:
    """The pip command that adds an extra to this installation, from where it came: a checkout, a repository or an index.

    pip records the place in `direct_url.json` (https://packaging.python.org/en/latest/specifications/direct-url/).
    """
    try:
        origin = json.loads(distribution("mentorkd").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:  # the sources are on the path, and not installed
        origin = {}
    url = origin.get("url", "")
    if "vcs_info" in origin:
        requirement = f"mentorkd[{extra}] @ {origin['vcs_info']['vcs']}+{url}"
    elif "dir_info" in origin:
        requirement = f"{url2pathname(urlsplit(url).path)}[{extra}]"
        if origin["dir_info"].get("editable"):
            return f"pip install -e {shlex.quote(requirement)}"
    else:
        requirement = f"mentorkd[{extra}]"
    return f"pip install {shlex.quote(requirement)}"
