"""Imitation of a mentor's soft labels: (1 - w) CE + w tau^2 D (Mentor-KD, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mentorkd.distillation.mentors import MentorEnsemble, SingleMentor
from mentorkd.distillation.objectives.base import TOKENS, Student, Sums, TokenObjective


@dataclass(frozen=True)
class Distillation(TokenObjective):
    """`(1 - kd_weight) CE + kd_weight tau^2 D` (Mentor-KD, section 3.3) with the soft labels of `source`."""

    source: SingleMentor | MentorEnsemble
    kd_weight: float
    temperature: float
    tau_squared: bool
    divergence: str

    @property
    def mentors(self) -> Sequence[SingleMentor]:  # type: ignore[override]
        return (
            [member for _, member in self.source.members] if isinstance(self.source, MentorEnsemble) else [self.source]
        )

    def sums(self, student: Student) -> Sums:
        ids = [row.rationale_id for row in student.rows]
        loss = student.loss(
            self.source.targets_for(ids, student.batch) if ids else None,
            kd_weight=self.kd_weight,
            temperature=self.temperature,
            tau_squared=self.tau_squared,
            divergence=self.divergence,
        )
        return Sums({TOKENS: loss.loss}, {"ce": (TOKENS, loss.ce), "divergence": (TOKENS, loss.divergence)})
