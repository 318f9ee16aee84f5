"""What a run is doing now, in one small file for those who watch it.

The process that runs the stages writes it, at most once a second and without waiting for the disk. No stage reads it, and no run
stops because it cannot be written.
"""

from __future__ import annotations

import json
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mentorkd.pipeline.run_folder import Stage

LIVE_NAME = ".live.json"
_SECONDS = 1.0
_MOST_NOTES = 100
_MOST_TIME = 1e11


class Steps(NamedTuple):
    """How far a running stage is."""

    done: int
    total: int
    first: int
    """That were done when it started: a stage may go on where it stopped."""


@dataclass(frozen=True)
class Live:
    """What the file says."""

    progress: dict[str, Steps] = field(default_factory=dict)
    """Of the running stages, by name."""
    notes: list[tuple[float, str, str]] = field(default_factory=list)
    """(time, stage, text) of the last notes; the time is in seconds since 1970."""
    stopped: str | None = None
    """Why the run ended before its last stage; None while it runs, and after a whole run."""


class LiveFile:
    """Keeps the file of one run."""

    def __init__(self, root: Path) -> None:
        self.path = root / LIVE_NAME
        self._progress: dict[str, Steps] = {}
        self._notes: deque[tuple[float, str, str]] = deque(maxlen=_MOST_NOTES)
        self._last = 0.0

    def progress(self, stage: Stage, done: int, total: int) -> None:
        before = self._progress.get(stage.name)
        self._progress[stage.name] = Steps(done, total, done if before is None else min(done, before.first))
        if time.monotonic() - self._last >= _SECONDS:
            self._write()

    def note(self, text: str, stage: Stage) -> None:
        self._notes.append((round(time.time(), 3), stage.name, text))
        self._write()

    def finished(self, stage: Stage) -> None:
        self._progress.pop(stage.name, None)

    def end(self, stopped: str | None = None) -> None:
        """Say that no stage runs any more. `stopped`: why, if others are left."""
        self._progress.clear()
        self._write(stopped)

    def _write(self, stopped: str | None = None) -> None:
        self._last = time.monotonic()
        value = {"progress": self._progress, "notes": list(self._notes), "stopped": stopped}
        temporary = self.path.with_suffix(".tmp")
        with suppress(OSError):
            temporary.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
            temporary.replace(self.path)


def read_time(value: Any) -> float:
    """Seconds since 1970 from a file. Raises ValueError or TypeError for what is no time of these millennia."""
    if not 0 <= value < _MOST_TIME:
        raise ValueError(f"got the time {value}; expected seconds since 1970")
    return float(value)


def read_live(root: Path) -> Live:
    """What the file of a run says; nothing if there is none, or one that cannot be read."""
    try:
        value = json.loads((root / LIVE_NAME).read_text(encoding="utf-8"))
        return Live(
            {str(stage): Steps(*map(int, steps)) for stage, steps in value["progress"].items()},
            [(read_time(when), str(stage), str(text)) for when, stage, text in value["notes"]],
            None if value["stopped"] is None else str(value["stopped"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return Live()
