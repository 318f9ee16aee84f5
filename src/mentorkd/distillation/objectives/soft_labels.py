"""Imitation of a mentor's soft labels: (1 - w) CE + w tau^2 D (Mentor-KD, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

from mentorkd.distillation.mentors import SoftLabelSource
from mentorkd.distillation.objectives.base import TOKENS, Student, Sums, TokenObjective

__all__ = ["Distillation"]


@dataclass(frozen=True)
class Distillation(TokenObjective):
    """`(1 - kd_weight) CE + kd_weight tau^2 D` (Mentor-KD, section 3.3), and whose soft labels."""

    source: SoftLabelSource
    kd_weight: float
    temperature: float
    tau_squared: bool
    divergence: str

    def sums(self, student: Student) -> Sums:
        mentor = (
            self.source.targets_for([row.rationale_id for row in student.rows], student.batch) if student.rows else None
        )
        made = student.loss(
            mentor,
            kd_weight=self.kd_weight,
            temperature=self.temperature,
            tau_squared=self.tau_squared,
            divergence=self.divergence,
        )
        return Sums({TOKENS: made.loss}, {"ce": (TOKENS, made.ce), "divergence": (TOKENS, made.divergence)})
