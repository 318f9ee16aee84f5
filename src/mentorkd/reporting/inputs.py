"""The inputs of a report: records and plain values, collected by the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mentorkd.records import Prediction, Question, Rationale
from mentorkd.reporting.schema import SeedResult, TaskResult, TeacherAccount, TrainingData

Match = Literal["updates", "epochs", "tokens", "compute", "plateau"] | None
"""The quantity that a recipe matches between arms; None for a comparison of several runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerInfo:
    """A learner of the recipe, with the results of its training. Further fields are described in `LearnerResult`."""

    name: str
    model: str
    """A short description for readers; two models may share it."""
    model_key: str
    """Equal for learners that start from the same model; a headline or a decomposition requires equal keys."""
    rationales: Sequence[str]
    initial: str | None = None
    """The learner from whose trained weights it starts."""
    folds: int = 1
    mentor_weights: Mapping[str, float] = field(default_factory=dict)
    """Mentor -> weight of its soft labels."""
    scorers: Sequence[str] = ()
    """Learners whose perplexity, or whose questions, filter its rationales."""
    objective: str = "rationale"
    filters: Mapping[str, Any] = field(default_factory=dict)
    """Source -> filters of its rationales for this learner, as plain values."""
    kd_weight: float | Mapping[str, float] | None = None
    """One value, or one for each source."""
    temperature: float | Mapping[str, float] | None = None
    parameters: int | None = None
    select_on: Literal["validation", "test", "last"] = "validation"
    rows: Sequence[int] = field(default_factory=list)
    """Training rows, one number for each seed; the next four fields also have one value for each seed."""
    updates: Sequence[int] = field(default_factory=list)
    target_tokens: Sequence[int] = field(default_factory=list)
    operations: Sequence[float] = ()
    """Floating-point operations of its training and of all that it learns from, for each seed; empty unless they are matched."""
    epochs: Sequence[float] = field(default_factory=list)
    plateaus: Sequence[int | None] = field(default_factory=list)
    """The update at which a plateau was found, None where the limit was reached; empty without `patience`."""
    validation: Sequence[float | None] = ()
    """Validation accuracy at the selected epoch."""
    searched: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Settings selected by a search, by name; one value for each seed. Arms of a fair comparison may differ in them."""
    swept: Mapping[str, Any] = field(default_factory=dict)
    variant_of: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    distillation: Mapping[str, Any] = field(default_factory=dict)
    run: str | None = None
    """Its run, where several runs are compared; a decomposition needs arms of one run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCost:
    """The cost of a stage, and its dependencies."""

    kind: str
    """annotate, train, augment, score, evaluate, ..."""
    learner: str | None = None
    seed: int | None = None
    needs: Sequence[str] = ()
    """Names of its input stages."""
    seconds: float | None = None
    cpu_seconds: float | None = None
    gpu_seconds: float | None = None
    tokens: int | None = None
    peak_memory_mb: float | None = None
    accelerator: str | None = None
    dollars: float | None = None
    """Cost of the queries to the teacher."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportInputs:
    """Everything `build_results` needs. Mappings have keys (learner, seed); a missing key means: not available yet."""

    name: str
    task: TaskResult
    seeds: Sequence[int]
    learners: Sequence[LearnerInfo]
    """In the recipe's order."""
    questions: Sequence[Question]
    """The test questions."""
    predictions: Mapping[tuple[str, int], Sequence[Prediction]]
    """One prediction for each test question, or none at all."""
    seed_results: Mapping[tuple[str, int], SeedResult] = field(default_factory=dict)
    """Results that an earlier report computed from all predictions; then `predictions` may lack texts, tokens and `no_answer`."""
    textless: frozenset[tuple[str, int]] = frozenset()
    """Learners and seeds whose predictions have no text."""
    training: TrainingData | None = None
    """Identity of the training questions and of the teacher's rationales."""
    recipe_digest: str | None = None
    """Digest of the run folder's recipe."""
    headline: Sequence[tuple[str, str]] | None = None
    """Pairs to list first in the comparisons; None derives them from the graph of learners."""
    match: Match = "updates"
    """The quantity that the recipe matches between arms; None for a comparison of several runs."""
    metrics: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Rows of metrics.jsonl: `step`, `epoch`, `loss`, `ce`, `divergence`, `tokens`, `learning_rate`, `validation_accuracy`; all
    but `step` may be absent or null. Those of a written report have `flops` of each validation."""
    filters: Sequence[Mapping[str, Any]] = ()
    """`source`, `seed`, `filter`, `before`, `after` and, where it applies, `learner`."""
    dropped: Sequence[Mapping[str, Any]] = ()
    """`learner`, `seed`, `reason`, `rows`."""
    soft_labels: Sequence[Mapping[str, Any]] = ()
    """The fields of `SoftLabelResult`."""
    trials: Sequence[Mapping[str, Any]] = ()
    """The fields of `Trial`."""
    rounds: Sequence[Mapping[str, Any]] = ()
    """The fields of `RoundResult`."""
    sampled: Sequence[Mapping[str, Any]] = ()
    """The fields of `SampledResult`."""
    rationales: Sequence[tuple[Question, Sequence[Rationale]]] = ()
    """Training questions with rationales of the teacher and the mentors, to be shown."""
    written: int = 0
    """Number of training questions with rationales, where `rationales` has only some of them."""
    stages: Mapping[str, StageCost] = field(default_factory=dict)
    """The finished stages by name."""
    serving: Mapping[tuple[str, int], Sequence[str]] = field(default_factory=dict)
    """Names of the stages that train and evaluate a learner, its further folds included; learners may share stages."""
    teacher: TeacherAccount | None = None
    """Work and cost of a queried teacher; None for recorded rationales."""
    faults: Sequence[str] = ()
    """One line for each fault of the data."""
    warnings: Sequence[str] = ()
    """Further reasons to trust the numbers less, a sentence each; those derived from the learners are added."""
    protocol: Sequence[str] = ()
    """Choices that a reader must know, a sentence each; the selection of epochs is added."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """`versions` (a mapping), `host`, `git`, `command`; further keys are shown as well."""
