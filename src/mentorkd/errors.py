"""The error tree. Every message has the value received, the expected value and the next step.

MentorkdError                 caught by the command line: one line on stderr, exit code 2
├── RecipeError               the YAML recipe: has ALL its faults, each with its line
├── DataError                 a question or rationale file: names the file, the row and the field
├── ModelError                a model or tokenizer that cannot be loaded or does not fit its role
├── MissingExtraError         an optional package is missing: has the exact pip command
├── RunError                  the run folder: locked, damaged, or without the requested data
│   └── StoreError            a soft-label store that is truncated, corrupt or of another mentor
├── WorkerError               a worker process ended unexpectedly while it ran a stage
├── TeacherError              a teacher that cannot continue to annotate
│   └── BudgetError           the next request could exceed the budget of requests, tokens or dollars
└── TrainingError             training that must stop (a non-finite loss, no rows left)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class MentorkdError(Exception):
    """Base class of all user errors; the command line prints them without a traceback."""

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
    """A recipe with faults; all are reported at once."""

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        self.source = source
        self.faults = tuple(faults)
        head = f"{source}: {len(self.faults)} fault{'s' if len(self.faults) != 1 else ''}"
        super().__init__("\n  ".join([head, *map(str, self.faults)]))


class DataError(MentorkdError):
    """A malformed data file."""


class ModelError(MentorkdError):
    """A model that cannot be loaded or does not fit its role."""


class MissingExtraError(MentorkdError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional package; install it with: pip install 'mentorkd[{extra}]'")


class RunError(MentorkdError):
    """A run folder that cannot be used as requested."""


class StoreError(RunError):
    """A soft-label store that is truncated, corrupt or of another mentor."""


class TeacherError(MentorkdError):
    """A teacher that cannot annotate."""


class BudgetError(TeacherError):
    """The next request could exceed the budget; all replies so far are kept."""


class TrainingError(MentorkdError):
    """Training that must stop."""


class WorkerError(MentorkdError):
    """A worker process that ended or was killed while it ran a stage."""
