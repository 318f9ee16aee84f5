"""Distilling Step-by-Step (Hsieh et al. 2023): answers and rationales under prompts of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mentorkd.data.encoding import Example
from mentorkd.distillation.objectives.base import TOKENS, Student, Sums, TokenObjective

__all__ = ["StepByStep"]


@dataclass(frozen=True)
class StepByStep(TokenObjective):
    """Distilling Step-by-Step (Hsieh et al. 2023): `alpha CE(predict) + (1 - alpha) CE(explain)`, each per token of its own."""

    alpha: float = 0.5

    def counts(self, rows: Sequence[Example]) -> dict[str, int]:
        tokens = {task: sum(len(row.target_ids) for row in rows if row.task == task) for task in ("predict", "explain")}
        return {**super().counts(rows), **tokens}

    def missing_data(self, rows: Sequence[Example]) -> str | None:
        counts = self.counts(rows)
        return next((f"no row asks to {task}" for task in ("predict", "explain") if not counts[task]), None)

    def sums(self, student: Student) -> Sums:
        predict, explain = (student.loss(at=_positions_of(task, student)) for task in ("predict", "explain"))
        loss = {"predict": self.alpha * predict.loss, "explain": (1 - self.alpha) * explain.loss}
        told = {"ce_predict": ("predict", predict.ce), "ce_explain": ("explain", explain.ce)}
        return Sums(loss, {"ce": (TOKENS, predict.ce + explain.ce), **told})


def _positions_of(task: str, student: Student) -> Tensor:
    """A mask [N] of the target positions of one task."""
    marks = [row.task == task for row in student.rows for _ in row.target_ids]
    return torch.tensor(marks, dtype=torch.bool, device=student.labels_N.device)
