"""The overlay: what people decided about single rationales of the teacher, in a file beside the recipe.

A line of the file is a decision, as JSON: the rationale by its content id, what is to happen to it, who decided it, when and why. Lines
are only appended. The last line of a rationale holds, so the file is its own history, and it merges in git.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock

from mentorkd.errors import DataError
from mentorkd.printable import half_character
from mentorkd.records import TEACHER, Rationale

Action = Literal["reject", "restore", "edit"]

_ACTIONS = get_args(Action)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person decided about a rationale.

    `reject` takes it out of the training data, `edit` puts `text` in its place, and `restore` takes back what was decided before.
    """

    rationale_id: str
    question_id: str
    source: str
    sample: int
    action: Action
    by: str
    at: str
    """ISO 8601, with its time zone."""
    why: str
    text: str | None = None
    """The new text of an edit: the reasoning, with or without the answer behind it."""

    @classmethod
    def on(cls, rationale: Rationale, action: Action, *, by: str, why: str, text: str | None = None) -> Decision:
        """A decision that is made now."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(
            rationale.id, rationale.question_id, rationale.source, rationale.sample, action, by, at, why.strip(), text
        )


_TYPES: dict[str, type] = {each.name: int if each.name == "sample" else str for each in fields(Decision)}
_REQUIRED = _TYPES.keys() - {"text"}


def read_overlay(file: Path) -> dict[str, Decision]:
    """The last decision of each rationale, by the rationale's id; none if the file does not exist.

    Raises DataError with the file and the row for a line that is no decision.
    """
    if not file.exists():
        return {}
    with file.open("rb") as lines:
        decisions = [_decision(file, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    return {decision.rationale_id: decision for decision in decisions}


def in_effect(file: str | Path | None) -> dict[str, Decision]:
    """The decisions of an overlay that change something, by the rationale's id: all but those that took an earlier one back. None for
    a recipe without an overlay. Errors as for `read_overlay`."""
    decisions = {} if file is None else read_overlay(Path(file))
    return {key: decision for key, decision in decisions.items() if decision.action != "restore"}


def misplaced(file: Path, run: Path) -> str | None:
    """Why an overlay cannot lie where it is: in the run folder `run`; None if it lies elsewhere."""
    if run.resolve() not in file.resolve().parents:
        return None
    return f"{file} lies in the run folder, which can be made again without it; move it beside the recipe and change `teacher.overlay`"


def identity(decisions: Iterable[Decision]) -> list[list[Any]]:
    """What fingerprints hash of decisions: what they do, and not who made them in which order."""
    return sorted([decision.rationale_id, decision.action, decision.text or ""] for decision in decisions)


def append_decision(file: Path, decision: Decision) -> None:
    """Append a decision, which is on the disk when this returns. Several processes may do so at once.

    Raises DataError for a decision that could not be read again.
    """
    fields = {key: value for key, value in asdict(decision).items() if value is not None}
    _checked(file, 0, fields)
    line = json.dumps(fields, ensure_ascii=False).encode() + b"\n"
    with FileLock(file.with_name(f".{file.name}.lock")), file.open("a+b") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - 1))
        if stream.read(1) not in (b"", b"\n"):  # an editor left the last line without its end
            line = b"\n" + line
        stream.write(line)
        stream.flush()
        os.fsync(stream.fileno())


def _decision(file: Path, number: int, line: bytes) -> Decision:
    try:
        row = json.loads(line.decode())
    except ValueError as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8"
        raise _fault(file, number, f"not JSON ({why}); remove the row") from None
    return _checked(file, number, row)


def _checked(file: Path, number: int, row: Any) -> Decision:
    if not isinstance(row, dict) or not _REQUIRED <= row.keys() <= _TYPES.keys():
        got = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise _fault(
            file, number, f"got {got}, expected a decision with the fields {sorted(_REQUIRED)}, and text to edit"
        )
    if wrong := [key for key, value in row.items() if type(value) is not _TYPES[key]]:
        raise _fault(file, number, f"`{wrong[0]}`: got {row[wrong[0]]!r}, expected {_TYPES[wrong[0]].__name__}")
    for key, value in row.items():
        if isinstance(value, str) and (fault := half_character(value)):
            raise _fault(file, number, f"`{key}`: {fault}")
    decision = Decision(**row)
    if decision.action not in _ACTIONS:
        raise _fault(file, number, f"`action`: got {decision.action!r}, expected one of {', '.join(_ACTIONS)}")
    if decision.source != TEACHER:
        why = "a learner writes its texts again when it is trained again"
        raise _fault(file, number, f"`source`: got {decision.source!r}, expected {TEACHER!r}: {why}")
    if (decision.action == "edit") != bool(decision.text and decision.text.strip()):
        raise _fault(file, number, "`text` and `action: edit` need each other; an empty text is a rejection")
    return decision


def _fault(file: Path, number: int, message: str) -> DataError:
    return DataError(f"{file}, row {number}: {message}" if number else f"{file}: {message}")
