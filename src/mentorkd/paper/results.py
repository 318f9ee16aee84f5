"""The accuracies that the Mentor-KD paper prints, as data, to be set beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

__all__ = ["Published", "paper_results"]

_NOT_GIVEN = "-"


@dataclass(frozen=True, slots=True)
class Published:
    """A row of a table, or a point of a figure."""

    table: str
    """The recipe of its name in recipes/paper."""
    row: str
    """The learner there; `teacher` for GPT-3.5 by Zero-shot-CoT."""
    at: float | None
    """The swept value, of a row that is swept."""
    accuracy: Mapping[str, float]
    """Per cent, by the key of the task; a task is absent where the paper gives nothing."""


def paper_results() -> list[Published]:
    """All that the paper prints, in its order."""
    text = resources.files("mentorkd.paper").joinpath("paper-results.tsv").read_text(encoding="utf-8")
    head, *rows = (line.split("\t") for line in text.splitlines() if not line.startswith("#"))
    return [
        Published(
            table,
            row,
            None if at == _NOT_GIVEN else float(at),
            {task: float(cell) for task, cell in zip(head[3:], cells, strict=True) if cell != _NOT_GIVEN},
        )
        for table, row, at, *cells in rows
    ]
