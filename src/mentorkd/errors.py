"""The error tree. Every message has the value received, the expected value and the next step.

`explaining` turns what a machine refuses (disk, memory, locks, rights) into an error of this tree. Other errors are faults of the
program and keep their traceback.
"""

from __future__ import annotations

import errno
import io
import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
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


class GraderError(MentorkdError):
    """A grader of the recipe that cannot be loaded, fails, or returns no verdict."""


class ModelError(MentorkdError):
    """A model or tokenizer that cannot be loaded or does not fit its role."""


class MissingExtraError(MentorkdError):
    """An optional package is missing; the message has the exact pip command."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional package; install it with: {install_command(extra)}")


class RunError(MentorkdError):
    """A run folder that is locked, damaged, or without the requested data."""


class DamagedError(RunError):
    """A file of a run that is not as it was written."""


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


class MachineError(MentorkdError):
    """A disk, memory, lock or path that the machine refuses."""


@dataclass(frozen=True)
class _Cause:
    what: str
    how: str
    numbers: frozenset[int] = frozenset()
    """The numbers of its OSErrors."""
    words: tuple[str, ...] = ()
    """How libraries say it that raise errors of other types; in lower case."""


_MEMORY = _Cause(
    "not enough memory",
    "stop other programs, or take a smaller `training.batch_size` or `sampling.batch_size`, or fewer --jobs",
    frozenset({errno.ENOMEM}),
    ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory"),
)
_CAUSES = (
    _MEMORY,
    _Cause(
        "the disk is full, or its quota is used up",
        "free some space",
        frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG}),
        (
            "no space left",
            "disk quota exceeded",
            "file too large",
            "storagefull",
            "file write failed",
            "unexpected pos",  # torch.save: it wrote less than it meant to
            "no usable temporary directory",
        ),
    ),
    _Cause(
        "the disk is read-only",
        "make it writable, or give another folder",
        frozenset({errno.EROFS}),
        ("read-only file system",),
    ),
    _Cause(
        "this file system has no locks",
        "put the run folder on a local disk, or mount the file system with locks",
        frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}),
        ("no locks available",),
    ),
    _Cause("the disk cannot be read or written", "check the disk", frozenset({errno.EIO}), ("input/output error",)),
    _Cause("too many files are open", "raise the limit (`ulimit -n`)", frozenset({errno.EMFILE, errno.ENFILE})),
)
_PATHS = {
    errno.ENOENT: "no such file or folder",
    errno.EEXIST: "exists already, and is no folder",
    errno.EISDIR: "is a folder; expected a file",
    errno.ENOTDIR: "is a file, or lies in one; expected a folder",
    errno.EACCES: "no right to read or write it",
    errno.EPERM: "no right to read or write it",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "symbolic links that lead in a circle",
    errno.ENXIO: "a device that does not answer; expected a file",
}
"""Faults of the paths that a user gives."""


@contextmanager
def explaining(stage: str = "", folder: Path | None = None) -> Iterator[None]:
    """Turn an error of the machine into a MachineError of one line: the stage, the path, what is wrong, and what to do.

    `folder` stands for the path where the error names none.
    """
    try:
        yield
    except MentorkdError:
        raise
    except Exception as error:
        if message := _explanation(error, folder):
            raise MachineError(f"{stage}: {message}" if stage else message) from error
        raise


def _explanation(error: Exception, folder: Path | None) -> str | None:
    number = error.errno if isinstance(error, OSError) else None
    path = _path_of(error) or folder
    place = f"{path}: " if path else ""
    if cause := _cause_of(error, number):
        return f"{place if cause is not _MEMORY else ''}{cause.what}; {cause.how}, and the same command goes on"
    if number in _PATHS and isinstance(error, OSError) and error.filename is not None:
        return f"{place}{_PATHS[number]}"
    return None


def _cause_of(error: Exception, number: int | None) -> _Cause | None:
    if isinstance(error, MemoryError):
        return _MEMORY
    text = str(error)[:2000].lower()
    causes = (cause for cause in _CAUSES if number in cause.numbers or any(word in text for word in cause.words))
    return next(causes, None)


def _path_of(error: Exception) -> str | None:
    """The file of an error. A failed write does not name its file, so it is the one that is open where it failed."""
    if isinstance(error, OSError) and error.filename is not None:
        return str(error.filename)
    path, trace = None, error.__traceback__
    while trace is not None:
        files = [value for value in trace.tb_frame.f_locals.values() if isinstance(value, io.IOBase)]
        path = next((str(name) for file in files if isinstance(name := getattr(file, "name", None), str)), path)
        trace = trace.tb_next
    return path if isinstance(error, OSError) else None
