"""The schema of the details in `results.json` and `run.json`: filters, learning curves, examples, costs. See `schema`."""

from __future__ import annotations

from typing import Any, TypedDict

from mentorkd.records import Verdict


class FilterCount(TypedDict):
    """The effect of one filter on the rationales of one source."""

    learner: str | None
    """The learner that trains on them; null if the filter applies to all learners."""
    source: str
    """The teacher or learner that wrote the rationales."""
    seed: int | None
    """The seed; null if the filter does not depend on it."""
    filter: str
    """Name of the filter; rows are in order of application."""
    before: int
    """Rationales before the filter."""
    after: int
    """Rationales after the filter."""
    counted_in: str | None
    """Unit of the filter `length`: `tokens` of the learner's own tokenizer, or `characters`, four per token; else null."""
    equations: int | None
    """Equations seen by `steps_check`, including those it could not check; null for other filters."""
    unread: int | None
    """Equations that could not be checked and were ignored."""


class DroppedRows(TypedDict):
    """Training rows dropped because of a length limit."""

    learner: str
    """The learner whose rows were dropped."""
    seed: int | None
    """The seed."""
    reason: str
    """The limit that was exceeded."""
    rows: int
    """Number of dropped rows."""


class TrainingPoint(TypedDict):
    """Losses per target token; means of neighbouring rows of `metrics.jsonl` where it has too many rows to draw."""

    step: int
    """Optimiser updates so far (the last of the averaged rows)."""
    epoch: float | None
    """Passes over the training rows so far."""
    loss: float | None
    """The training loss."""
    ce: float | None
    """The cross-entropy."""
    divergence: float | None
    """The divergence from the mentor."""


class ValidationPoint(TypedDict):
    """A validation during training."""

    step: int
    """Optimiser updates so far."""
    epoch: float | None
    """Passes over the training rows so far."""
    accuracy: float
    """Share of validation questions answered correctly; of test questions with `select_on: test` in the learner's `settings`."""


class Curve(TypedDict):
    """The training of one model."""

    learner: str
    """The learner."""
    seed: int
    """The seed."""
    training: list[TrainingPoint]
    """Losses, by step."""
    validation: list[ValidationPoint]
    """Validations, by step."""


class ExampleAnswer(TypedDict):
    """One text for the question of an example."""

    source: str
    """The learner (or the teacher) that wrote it."""
    verdict: Verdict
    """correct, wrong or no_answer."""
    predicted: str | None
    """The answer found in the text."""
    text: str
    """The whole text."""
    wrong_step: list[int] | None
    """Range [start, end) in `text` of the first sentence with a false equation; null if none was detected."""


class Example(TypedDict):
    """A question with texts of several sources."""

    question_id: str
    """Content id of the question."""
    question: str
    """Text of the question."""
    answer: str
    """Gold answer."""
    answers: list[ExampleAnswer]
    """The texts, with learners in the recipe's order."""


class Examples(TypedDict):
    """A limited, deterministic selection of examples that alternates between kinds, so that it has both gains and losses."""

    title: str
    """Title of the examples."""
    note: str
    """How they were selected, and their total number."""
    total: int
    """Number of questions that qualify."""
    entries: list[Example]
    """The examples shown."""


class StageCostResult(TypedDict):
    """The cost of one stage."""

    stage: str
    """Kind of stage: annotate, train, augment, score or evaluate."""
    learner: str | None
    """The learner it belongs to."""
    seed: int | None
    """The seed."""
    seconds: float | None
    """Wall-clock time."""
    cpu_seconds: float | None
    """Processor time of the process of the run, over all threads."""
    gpu_seconds: float | None
    """Time for which the stage held an accelerator, busy or idle; 0 if it ran only on the processor."""
    tokens: int | None
    """Tokens trained on or generated."""
    peak_memory_mb: float | None
    """Peak memory in MB: of the process, plus the memory that PyTorch allocated on a CUDA accelerator. The memory of other
    engines on it is unknown."""
    accelerator: str | None
    """The accelerator that the stage held; null if it ran only on the processor."""


class LearnerCostResult(TypedDict):
    """The cost of one learner, mean over seeds. `own`: its training and evaluation. `whole`: also all stages it depends on (the
    training, augmentation and scoring of its mentors, the teacher), each in full, as if no other learner used them. Stages of
    kind `budget`, which read the rows of other arms to match updates, belong to no learner."""

    learner: str
    """The learner."""
    own_seconds: float | None
    """Wall-clock time of its own stages."""
    whole_seconds: float | None
    """Wall-clock time with dependencies."""
    own_cpu_seconds: float | None
    """Processor time of its own stages."""
    whole_cpu_seconds: float | None
    """Processor time with dependencies."""
    own_gpu_seconds: float | None
    """Time for which its own stages held an accelerator."""
    whole_gpu_seconds: float | None
    """Accelerator time with dependencies."""
    own_tokens: int | None
    """Tokens trained on and generated by its own stages."""
    whole_tokens: int | None
    """Tokens with dependencies."""
    peak_memory_mb: float | None
    """Highest peak memory of all these stages, in MB."""
    teacher_dollars: float | None
    """Cost of the teacher's rationales; null if they were recorded or have no price, 0 if it uses none."""


class TeacherAccount(TypedDict):
    """Work and cost of a queried teacher. Tokens, requests and dollars are totals over all runs of this folder."""

    questions: int
    """Questions sent to it."""
    solved: int
    """Questions with at least one correct rationale."""
    samples: int
    """Rationales requested."""
    replies: int
    """Samples with a reply."""
    correct: int
    """Replies with a correct answer."""
    accuracy: float | None
    """`correct` / `replies`; null without replies."""
    cut: int
    """Replies truncated at `max_tokens`."""
    refused: int
    """Replies refused by the model or by a content filter."""
    empty: int
    """Replies without reasoning."""
    malformed: int
    """Replies that could not be parsed and were requested again, in this run."""
    lost: int
    """Samples abandoned without a reply."""
    kept: int
    """Rationales used for training; the maximum over learners."""
    requests: int
    """Requests sent, including retries; for a local teacher, texts generated."""
    cached: int
    """Answers that this run obtained from the cache, without a request."""
    input_tokens: int
    """Tokens of the prompts."""
    output_tokens: int
    """Tokens of the replies."""
    dollars: float | None
    """Cost at the recipe's price; null without a price."""
    unsure_dollars: float | None
    """The part of `dollars` for requests with unknown outcome, counted at their maximum."""
    dollars_per_kept: float | None
    """`dollars` / `kept`."""


class RunFacts(TypedDict):
    """Cost and environment of this run: `run.json`."""

    costs: list[StageCostResult]
    """One row for each stage, learner and seed."""
    spent: list[LearnerCostResult]
    """One row for each learner."""
    accelerator: str | None
    """The accelerators that stages held; null if all ran only on the processor."""
    teacher: TeacherAccount | None
    """Work and cost of the teacher; null for recorded rationales."""
    manifest: dict[str, Any]
    """Command, git commit, versions and host of the stages behind the results; a list where stages differ. `report` has the
    values that differ for the report itself, if it was written again later."""
