"""What a report is made of: records and plain values, gathered by the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mentorkd.records import AnswerKind, Prediction, Question, Rationale
from mentorkd.reporting.schema_details import TeacherAccount

__all__ = ["LearnerInfo", "ReportInputs", "StageCost", "TaskInfo"]


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
    """Equal for learners that start from the same model: only those make a headline or a decomposition."""
    rationales: Sequence[str]
    """Empty for a model that is not trained."""
    imitates: Mapping[str, float] = field(default_factory=dict)
    """Mentor -> share of its soft labels."""
    judges: Sequence[str] = ()
    """Learners that judge what of its rationales can be learnt."""
    objective: str = "rationale"
    filters: Mapping[str, Any] = field(default_factory=dict)
    """Source -> how its rationales are filtered for this learner; plain values."""
    kd_weight: float | None = None
    temperature: float | None = None
    parameters: int | None = None
    select_on: Literal["validation", "test", "last"] = "validation"
    """Where its epoch was chosen in truth: `last` where there was nothing to choose from."""
    rows: Sequence[int] = ()
    """Training rows, by seed; so in the next four."""
    updates: Sequence[int] = ()
    """Optimiser updates."""
    target_tokens: Sequence[int] = ()
    """Target tokens trained on, repetitions included."""
    epochs: Sequence[float] = ()
    """Passes over the rows."""
    validation: Sequence[float | None] = ()
    """Validation accuracy at the chosen epoch."""
    searched: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Settings that a search chose, by name; one value a seed. They may differ between arms of equal terms."""
    swept: Mapping[str, Any] = field(default_factory=dict)
    """The values of the recipe's sweep that make this variant, by key."""
    variant_of: str | None = None
    """The recipe's learner that this is a variant of."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Plain values that a fair comparison holds equal: how it was trained and asked."""
    distillation: Mapping[str, Any] = field(default_factory=dict)
    """Further plain values that only a learner with soft labels has."""
    run: str | None = None
    """The run it is of, where several are compared: arms of different runs make no decomposition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCost:
    """What a stage took, and the stages it stands on."""

    kind: str
    """annotate, train, augment, score, evaluate, ..."""
    learner: str | None = None
    seed: int | None = None
    needs: Sequence[str] = ()
    """Names of the stages it reads from."""
    seconds: float | None = None
    cpu_seconds: float | None = None
    gpu_seconds: float | None = None
    tokens: int | None = None
    peak_memory_mb: float | None = None
    accelerator: str | None = None
    dollars: float | None = None
    """What a teacher that was asked cost."""


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
    headline: Sequence[tuple[str, str]] | None = None
    """Pairs to lead the comparisons with; None lets the graph of learners decide."""
    match: Literal["updates", "epochs", "tokens"] | None = "updates"
    """What the recipe holds equal between arms; None where there is no one recipe."""
    metrics: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Rows of metrics.jsonl: `step`, `epoch`, `loss`, `ce`, `divergence`, `learning_rate`, `validation_accuracy`; all
    but `step` may be absent or null."""
    filters: Sequence[Mapping[str, Any]] = ()
    """`source`, `seed`, `filter`, `before`, `after` and, where it applies, `learner`."""
    dropped: Sequence[Mapping[str, Any]] = ()
    """`learner`, `seed`, `reason`, `rows`."""
    soft_labels: Sequence[Mapping[str, Any]] = ()
    """The fields of `SoftLabelResult`."""
    trials: Sequence[Mapping[str, Any]] = ()
    """The fields of `Trial`."""
    rationales: Sequence[tuple[Question, Sequence[Rationale]]] = ()
    """Training questions with rationales of the teacher and the mentors, to be looked at."""
    written: int = 0
    """How many training questions have any, where `rationales` holds but some of them."""
    stages: Mapping[str, StageCost] = field(default_factory=dict)
    """The finished stages by name."""
    serving: Mapping[tuple[str, int], Sequence[str]] = field(default_factory=dict)
    """Names of the stages that train and test a learner, its own or shared ones."""
    teacher: TeacherAccount | None = None
    """What a teacher that was asked did and cost."""
    faults: Sequence[str] = ()
    """A line for each fault of the data."""
    warnings: Sequence[str] = ()
    """A sentence for each reason to believe the numbers less that the learners do not show; theirs are added."""
    protocol: Sequence[str] = ()
    """A sentence for each choice the reader must know; where epochs were chosen is added by itself."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """`versions` (a mapping), `host`, `git`, `command`; further keys are shown too."""
