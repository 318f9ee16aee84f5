"""The error tree. Every message says what was got, what was expected and what to do next.

MentorkdError                 caught by the command line: one line on stderr, exit code 2
├── RecipeError               the YAML recipe: carries ALL faults found, each with its place
├── DataError                 a question or rationale file: names the file, the row and the field
├── ModelError                a model or tokenizer that cannot be loaded, or does not fit its part
├── MissingExtraError         an optional package is absent: carries the exact pip command
├── RunError                  the run folder: locked, damaged, or asked for something it lacks
│   └── StoreError            a soft-label store that is truncated, corrupt or of another mentor
├── WorkerError               a process that carried out a stage ended by itself
├── TeacherError              an annotating teacher that cannot go on
│   └── BudgetError           the hard limit on requests, tokens or dollars would be crossed
└── TrainingError             training that must not continue (a non-finite loss, no rows left)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "BudgetError",
    "DataError",
    "Fault",
    "MentorkdError",
    "MissingExtraError",
    "ModelError",
    "RecipeError",
    "RunError",
    "StoreError",
    "TeacherError",
    "TrainingError",
    "WorkerError",
]


class MentorkdError(Exception):
    """Base of every error a user can cause; the command line prints it without a traceback."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors come from worker processes, and not every constructor takes what it hands to this class.
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[MentorkdError], args: tuple[Any, ...], state: dict[str, Any]) -> MentorkdError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


@dataclass(frozen=True)
class Fault:
    """One fault of a recipe: where it stands and what is wrong with it."""

    key: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}, " if self.line is not None else ""
        return f"{place}{self.key}: {self.message}" if self.key else f"{place}{self.message}"


class RecipeError(MentorkdError):
    """A recipe with faults; all of them are reported at once."""

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        self.source = source
        self.faults = tuple(faults)
        head = f"{source}: {len(self.faults)} fault{'s' if len(self.faults) != 1 else ''}"
        super().__init__("\n  ".join([head, *map(str, self.faults)]))


class DataError(MentorkdError):
    """A malformed data file."""


class ModelError(MentorkdError):
    """A model that cannot be loaded or does not fit its part."""


class MissingExtraError(MentorkdError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional package; install it with: pip install 'mentorkd[{extra}]'")


class RunError(MentorkdError):
    """A run folder that cannot be used as asked."""


class StoreError(RunError):
    """A soft-label store that cannot be trusted."""


class TeacherError(MentorkdError):
    """A teacher that cannot annotate."""


class BudgetError(TeacherError):
    """The next request would cross a hard limit; everything got so far is kept."""


class TrainingError(MentorkdError):
    """Training that must not continue."""


class WorkerError(MentorkdError):
    """A process that ended by itself, or was ended, while it carried out a stage."""
