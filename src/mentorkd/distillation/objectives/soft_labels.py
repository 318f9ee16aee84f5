"""Imitation of soft labels: (1 - w) CE + w tau^2 D (Mentor-KD, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mentorkd.distillation.mentors import SoftLabelSource
from mentorkd.distillation.objectives.base import TOKENS, Objective, Student, Sums


@dataclass(eq=False)
class Distillation(Objective):
    """`(1 - kd_weight) CE + kd_weight tau^2 D`; D is the sum over the mentors of share times divergence."""

    shares: Sequence[tuple[float, SoftLabelSource]]
    """Each mentor, stored or live, with its share."""
    kd_weight: float
    temperature: float
    tau_squared: bool
    divergence: str

    def __post_init__(self) -> None:
        self.mentors = [mentor for _, mentor in self.shares]

    def sums(self, student: Student) -> Sums:
        ids = [row.rationale_id for row in student.rows]
        loss = student.loss(
            [(share, mentor.targets_for(ids, student.batch)) for share, mentor in self.shares] if ids else [],
            kd_weight=self.kd_weight,
            temperature=self.temperature,
            tau_squared=self.tau_squared,
            divergence=self.divergence,
        )
        return Sums({TOKENS: loss.loss}, {"ce": (TOKENS, loss.ce), "divergence": (TOKENS, loss.divergence)})
