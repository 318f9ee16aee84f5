"""What a report is made of: records and plain values, gathered by the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mentorkd.records import AnswerKind, Prediction, Question, Rationale
from mentorkd.reporting.schema import TeacherAccount

__all__ = ["LearnerInfo", "ReportInputs", "TaskInfo"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskInfo:
    """The task and how many questions each split has."""

    name: str
    kind: AnswerKind
    train: int
    test: int
    validation: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerInfo:
    """A learner as the recipe has it, and what its training came to."""

    name: str
    model: str
    """A few words for people; two models may share them."""
    model_key: str
    """Equal for learners that start from the same model: only those make a headline."""
    rationales: Sequence[str]
    soft_labels: str | None = None
    kd_weight: float | None = None
    temperature: float | None = None
    parameters: int | None = None
    select_on: Literal["validation", "test", "last"] = "validation"
    """Where its epoch was chosen in truth: `last` where there was nothing to choose from."""
    updates: Sequence[int] = ()
    """Optimiser updates, by seed."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Plain values that a fair comparison holds equal: how it was trained and asked."""
    distillation: Mapping[str, Any] = field(default_factory=dict)
    """Further plain values that only a learner with soft labels has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportInputs:
    """Everything `build_results` needs. Mappings are keyed by (learner, seed); a missing key means not there yet."""

    name: str
    """The recipe's name."""
    task: TaskInfo
    seeds: Sequence[int]
    learners: Sequence[LearnerInfo]
    """In the recipe's order."""
    questions: Sequence[Question]
    """The test questions."""
    predictions: Mapping[tuple[str, int], Sequence[Prediction]]
    """One prediction for each test question, or none at all."""
    metrics: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Rows of metrics.jsonl: `step`, `epoch`, `loss`, `ce`, `divergence`, `learning_rate`, `validation_accuracy`; all
    but `step` may be absent or null."""
    filters: Sequence[Mapping[str, Any]] = ()
    """`source`, `seed`, `filter`, `before`, `after` and, where it applies, `learner`."""
    dropped: Sequence[Mapping[str, Any]] = ()
    """`learner`, `seed`, `reason`, `rows`."""
    rationales: Sequence[tuple[Question, Sequence[Rationale]]] = ()
    """Training questions with rationales of the teacher and the mentors, to be looked at."""
    costs: Sequence[Mapping[str, Any]] = ()
    """`stage`, `learner`, `seed`, `seconds`, `tokens`, `peak_memory_mb`; all but `stage` may be absent or null."""
    teacher: TeacherAccount | None = None
    """What a teacher that was asked did and cost."""
    faults: Sequence[str] = ()
    """A line for each fault of the data."""
    protocol: Sequence[str] = ()
    """A sentence for each choice the reader must know; where epochs were chosen is added by itself."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """`versions` (a mapping), `host`, `git`, `command`; further keys are shown too."""
