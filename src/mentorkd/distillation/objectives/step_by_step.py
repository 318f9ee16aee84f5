"""Distilling Step-by-Step (Hsieh et al. 2023): the answer and the rationale are two tasks, each with its own prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mentorkd.data.encoding import Example
from mentorkd.distillation.objectives.base import TOKENS, Objective, Student, Sums


@dataclass(eq=False)
class StepByStep(Objective):
    """`alpha CE(predict) + (1 - alpha) CE(explain)`, each a mean over the target tokens of its task."""

    alpha: float = 0.5

    def counts(self, rows: Sequence[Example]) -> dict[str, int]:
        tokens = {task: sum(len(row.target_ids) for row in rows if row.task == task) for task in ("predict", "explain")}
        return {**super().counts(rows), **tokens}

    def missing_data(self, rows: Sequence[Example]) -> str | None:
        counts = self.counts(rows)
        return next((f"no row has the task {task}" for task in ("predict", "explain") if not counts[task]), None)

    def sums(self, student: Student) -> Sums:
        predict, explain = (student.loss(at=_positions_of(task, student)) for task in ("predict", "explain"))
        loss = {"predict": self.alpha * predict.loss, "explain": (1 - self.alpha) * explain.loss}
        parts = {"ce_predict": ("predict", predict.ce), "ce_explain": ("explain", explain.ce)}
        return Sums(loss, {"ce": (TOKENS, predict.ce + explain.ce), **parts})


def _positions_of(task: str, student: Student) -> list[int]:
    """The numbers of the target positions of one task."""
    tasks = (row.task for row in student.rows for _ in row.target_ids)
    return [number for number, of_position in enumerate(tasks) if of_position == task]
