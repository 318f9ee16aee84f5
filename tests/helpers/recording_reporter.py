"""A reporter that keeps what the pipeline reports."""

from __future__ import annotations

from typing import Any

__all__ = ["RecordingReporter"]


class RecordingReporter:
    """Names of the stages that ran and of those that were kept, and the notes."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.kept: list[str] = []
        self.notes: list[str] = []

    def checking(self) -> None: ...

    def started(self, stage: Any, number: int, total: int) -> None:
        self.ran.append(stage.name)

    def progress(self, stage: Any, done: int, total: int) -> None:
        assert 0 <= done <= total

    def finished(self, stage: Any, record: Any) -> None: ...

    def skipped(self, stage: Any) -> None:
        self.kept.append(stage.name)

    def note(self, text: str, stage: Any) -> None:
        self.notes.append(text)
