"""Imitation of soft labels: (1 - w) CE + w tau^2 D (Mentor-KD, section 3.3), with settings that may differ between sources.

Rows of a micro-batch that need the same of the loss are computed together. The sums of all groups are added, so every target
token of a step has the same part in it, whatever its source.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

from mentorkd.data.encoding import Example
from mentorkd.distillation.losses import LossSums
from mentorkd.distillation.mentors import SoftLabelSource
from mentorkd.distillation.objectives.base import TOKENS, Objective, Student, Sums, Targets, total_of
from mentorkd.records import SELF

OWN_TOKENS = "own_tokens"
"""The kind of the target positions of a learner's own texts."""

T = TypeVar("T")
BySource: TypeAlias = T | Mapping[str, T]
"""One value for all rows, or one for each source."""


class _Imitation(NamedTuple):
    """What rows need of the loss; those that need the same are computed together."""

    kd_weight: float
    temperature: float
    divergence: str
    weight: float
    parts: tuple[Hashable, ...]
    """For each mentor, its part that read the rows; None if it did not."""
    own: bool
    """Whether the learner wrote them, where that is measured."""


@dataclass(eq=False)
class Distillation(Objective):
    """`(1 - kd_weight) CE + kd_weight tau^2 D`; D is the sum over the mentors of share times divergence.

    A mentor without soft labels of a text has no share of D on it, and the shares of the others are scaled to their sum. Texts of
    which no mentor has soft labels are trained by CE alone, and so are tokens that no likelihood of a chunk covers.
    """

    shares: Sequence[tuple[float, SoftLabelSource]]
    """Each mentor, stored or live, with its share."""
    kd_weight: BySource[float]
    temperature: BySource[float]
    tau_squared: bool
    divergence: BySource[str]
    chunk_temperature: float | None = None
    """tau of the binary KL between likelihoods of chunks, for mentors that give these; None is its limit."""

    def __post_init__(self) -> None:
        self.mentors = [mentor for _, mentor in self.shares]
        self._has_own = isinstance(self.kd_weight, Mapping) and SELF in self.kd_weight

    def counts(self, rows: Sequence[Example]) -> dict[str, int]:
        own = sum(len(row.target_ids) for row in rows if row.source == SELF)
        return {**super().counts(rows), **({OWN_TOKENS: own} if self._has_own else {})}

    def sums(self, student: Student) -> Sums:
        parts = [(how, self._loss(how, part)) for how, part in student.groups(self._imitation_of)]
        total = total_of([loss for _, loss in parts] or [student.loss()])
        metrics = {"ce": (TOKENS, total.ce), "divergence": (TOKENS, total.divergence)}
        if self._has_own:
            own = sum((loss.divergence for how, loss in parts if how.own), start=total.divergence.new_zeros(()))
            metrics["divergence_self"] = OWN_TOKENS, own
        return Sums({TOKENS: total.loss}, metrics)

    def _imitation_of(self, row: Example) -> _Imitation:
        return _Imitation(
            _value_of(self.kd_weight, row.source),
            _value_of(self.temperature, row.source),
            _value_of(self.divergence, row.source),
            row.weight,
            tuple(mentor.part_of(row) for mentor in self.mentors),
            self._has_own and row.source == SELF,
        )

    def _loss(self, how: _Imitation, student: Student) -> LossSums:
        """The loss of the rows of a group."""
        targets = self._targets(how, student)
        if not targets:
            return student.loss()
        return student.loss(
            targets,
            kd_weight=how.kd_weight,
            temperature=how.temperature,
            tau_squared=self.tau_squared,
            divergence=how.divergence,
            chunk_temperature=self.chunk_temperature,
        )

    def _targets(self, how: _Imitation, student: Student) -> Targets:
        """The distributions, or chunks, of each mentor that read the rows of a group, with its share."""
        read = [each for each, part in zip(self.shares, how.parts, strict=True) if part is not None]
        scale = sum(share for share, _ in read) / sum(share for share, _ in self.shares)
        return [(share / scale, mentor.targets_for(student.rows, student.batch)) for share, mentor in read]


def _value_of(value: BySource[T], source: str | None) -> T:
    if not isinstance(value, Mapping):
        return value
    assert source is not None, "settings by source need rows with a source"
    return value[source]
