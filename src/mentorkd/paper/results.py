"""The published accuracies of the Mentor-KD paper, for comparison with our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

_NOT_GIVEN = "-"


@dataclass(frozen=True, slots=True)
class Published:
    """A row of a table, or a point of a figure, in the paper."""

    table: str
    """The name of the table's recipe in recipes/paper."""
    row: str
    """The learner in that recipe; `teacher` for GPT-3.5 with Zero-shot-CoT."""
    at: float | None
    """The swept value; None for a row without a sweep."""
    accuracy: Mapping[str, float]
    """Accuracies in per cent by the key of the task, without the tasks that the paper omits."""


def paper_results() -> list[Published]:
    """All published accuracies, in the order of the paper."""
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
