"""The shape of `results.json` and `run.json`: plain JSON, described field by field.

`results.json` is determined by the recipe, the data and the seeds: two undisturbed runs on one machine give the same
bytes. What differs from run to run (time, memory, host, versions) stands in `run.json`, the `run` key of `Results`.
Accuracies and differences are shares from 0 to 1, not per cent. `docs/results-schema.md` is this file in prose.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from mentorkd.records import AnswerKind, Verdict

__all__ = [
    "SCHEMA",
    "Bounds",
    "ComparisonResult",
    "Cost",
    "Curve",
    "DroppedRows",
    "Example",
    "ExampleAnswer",
    "Examples",
    "FilterCount",
    "Headline",
    "LearnerResult",
    "Results",
    "RunFacts",
    "SeedResult",
    "TaskResult",
    "TeacherAccount",
    "TrainingPoint",
    "ValidationPoint",
]

SCHEMA = "mentorkd.results/1"
"""Value of `Results.schema`; the number rises when a field changes its meaning or goes away."""

Bounds = list[float]
"""A 95 % interval as [low, high]."""


class TaskResult(TypedDict):
    """What was asked."""

    name: str
    """The task's name in the recipe."""
    kind: AnswerKind
    """How answers are graded: number, choice, yes_no, text or math."""
    train: int
    """Training questions."""
    validation: int
    """Validation questions; 0 where there are none."""
    test: int
    """Test questions."""


class SeedResult(TypedDict):
    """One trained model of a learner on the test questions."""

    seed: int
    """Seed of the training."""
    questions: int
    """Test questions answered."""
    correct: int
    """Questions answered rightly."""
    no_answer: int
    """Questions whose text held no answer of the task's kind; they count as not right."""
    cut: int
    """Answers cut at `max_new_tokens`; they are graded by what stands before the cut."""
    accuracy: float
    """`correct` / `questions`."""
    interval: Bounds
    """Wilson's interval of `accuracy`."""
    tokens_per_answer: float
    """Mean number of generated tokens."""


class LearnerResult(TypedDict):
    """One learner of the recipe, over its seeds."""

    name: str
    """The learner's name in the recipe."""
    model: str
    """The model it was trained from."""
    parameters: int | None
    """Number of weights; null where unknown."""
    role: Literal["mentor", "student", "baseline"]
    """mentor: another learner learns from it; student: learns from a mentor; baseline: from the teacher alone."""
    rationales: list[str]
    """Whom it learns text from."""
    soft_labels: str | None
    """Whose token distributions it imitates."""
    kd_weight: float | None
    """w of (1 - w) CE + w KL; null without soft labels."""
    temperature: float | None
    """Softmax temperature of the divergence; null without soft labels."""
    select_on: Literal["validation", "test", "last"]
    """Where its epoch was chosen; last: nowhere, it has the weights of its last epoch."""
    updates: list[int]
    """Optimiser updates, one number for each seed of the recipe."""
    settings: dict[str, Any]
    """How it was trained and asked, by the recipe's names; a fair comparison holds these equal."""
    distillation: dict[str, Any]
    """Further settings of soft labels, by the recipe's names; empty without soft labels."""
    accuracy: float | None
    """Mean over seeds; null where there are no predictions."""
    interval: Bounds | None
    """Wilson's interval of `accuracy`, with the effective number of trials where there are several seeds."""
    standard_error: float | None
    """Standard error over seeds; null with fewer than two."""
    no_answer: float | None
    """Share of answers in which none was found, over all seeds."""
    cut: float | None
    """Share of answers cut at `max_new_tokens`, over all seeds."""
    tokens_per_answer: float | None
    """Mean number of generated tokens, over all seeds."""
    per_seed: list[SeedResult]
    """The seeds that have predictions, in the recipe's order."""


class ComparisonResult(TypedDict):
    """Learner `a` against learner `b`, paired by question and seed."""

    a: str
    """The learner whose gain is measured."""
    b: str
    """The learner it is measured against."""
    difference: float
    """Accuracy of `a` minus accuracy of `b`, mean over `seeds`."""
    interval: Bounds
    """Paired bootstrap interval over questions, widened by `inflation`."""
    p_value: float
    """Two-sided p of the exact sign-flip test over questions (McNemar's with one seed)."""
    p_adjusted: float
    """`p_value` after Holm's correction over all pairs of the report."""
    detectable: float
    """Smallest true difference this design shows four times in five; above 1: none could be shown."""
    inflation: float
    """Factor by which variation between seeds widened interval and test; 1 with one seed or where seeds agree."""
    only_a: int
    """(question, seed) pairs that only `a` answered rightly."""
    only_b: int
    """(question, seed) pairs that only `b` answered rightly."""
    questions: int
    """Test questions compared."""
    seeds: list[int]
    """Seeds that both learners have."""
    outcome: Literal["a_better", "b_better", "unclear"]
    """Decided by `p_adjusted` < 0.05 and an interval without 0, both."""
    verdict: str
    """The outcome as a sentence."""
    headline: bool
    """True for a student against a learner of the same model that learns from the teacher alone."""


class Headline(TypedDict):
    """The answer to the question the recipe asks."""

    statement: str
    """The verdict of the headline comparison, or why there is none."""
    comparison: int | None
    """Index into `comparisons`; null where the recipe holds no student with its baseline."""


class FilterCount(TypedDict):
    """What one filter took from one source's rationales."""

    learner: str | None
    """The learner whose training rows these are; null where the filter serves all."""
    source: str
    """The teacher or the learner that wrote the rationales."""
    seed: int | None
    """The seed, null where it plays no part."""
    filter: str
    """The filter's name, in the order of application."""
    before: int
    """Rationales that reached it."""
    after: int
    """Rationales it kept."""


class DroppedRows(TypedDict):
    """Training rows that were dropped because they did not fit."""

    learner: str
    """The learner that would have trained on them."""
    seed: int | None
    """The seed."""
    reason: str
    """Why they were dropped."""
    rows: int
    """How many."""


class TrainingPoint(TypedDict):
    """Losses per target token; the mean of neighbouring rows of `metrics.jsonl` where there were too many to draw."""

    step: int
    """Optimiser updates so far (the last of the rows averaged)."""
    epoch: float | None
    """Passes over the training rows so far."""
    loss: float | None
    """What was minimised."""
    ce: float | None
    """Its cross-entropy part."""
    divergence: float | None
    """Its divergence from the mentor."""


class ValidationPoint(TypedDict):
    """A validation during training."""

    step: int
    """Optimiser updates so far."""
    epoch: float | None
    """Passes over the training rows so far."""
    accuracy: float
    """Share of validation questions answered rightly."""


class Curve(TypedDict):
    """How one model was trained."""

    learner: str
    """The learner."""
    seed: int
    """The seed."""
    training: list[TrainingPoint]
    """Losses, by step."""
    validation: list[ValidationPoint]
    """Validations, by step."""


class ExampleAnswer(TypedDict):
    """One text about an example's question."""

    source: str
    """The learner (or the teacher) that wrote it."""
    verdict: Verdict
    """correct, wrong or no_answer."""
    predicted: str | None
    """The answer found in the text."""
    text: str
    """The whole text."""


class Example(TypedDict):
    """A question with what several sources wrote about it."""

    question_id: str
    """Content id of the question."""
    question: str
    """Its text."""
    answer: str
    """Its gold answer."""
    answers: list[ExampleAnswer]
    """The texts, in the recipe's order of learners."""


class Examples(TypedDict):
    """A capped, fixed choice of examples, taken in turn from each kind so that gains and losses both show."""

    title: str
    """What the examples have in common."""
    note: str
    """How they were chosen and how many there are in all."""
    total: int
    """Questions that qualify."""
    entries: list[Example]
    """Those shown."""


class Cost(TypedDict):
    """What a stage took."""

    stage: str
    """annotate, train, augment, score or evaluate."""
    learner: str | None
    """The learner it served."""
    seed: int | None
    """The seed."""
    seconds: float | None
    """Wall-clock time."""
    tokens: int | None
    """Tokens trained on or generated."""
    peak_memory_mb: float | None
    """Peak memory in MB, of the accelerator where there is one."""


class TeacherAccount(TypedDict):
    """What a teacher that was asked did, and cost. Tokens, requests and dollars are of all runs of this folder."""

    questions: int
    """Questions it was asked."""
    solved: int
    """Questions with a right rationale at least."""
    samples: int
    """Rationales it was asked for."""
    replies: int
    """Samples that got a reply."""
    correct: int
    """Replies whose answer is right."""
    accuracy: float | None
    """`correct` / `replies`; null without replies."""
    cut: int
    """Replies cut at `max_tokens`."""
    refused: int
    """Replies refused by the model or by a content filter."""
    empty: int
    """Replies without reasoning."""
    malformed: int
    """Replies that could not be read and were asked for again, in this run."""
    lost: int
    """Samples given up without a reply."""
    kept: int
    """Rationales that training took, the most of any learner."""
    requests: int
    """Requests sent, retries among them; texts generated, for a local teacher."""
    cached: int
    """Answers that this run had without a request."""
    input_tokens: int
    """Tokens of the prompts."""
    output_tokens: int
    """Tokens of the replies."""
    dollars: float | None
    """What it cost at the recipe's price; null without one."""
    unsure_dollars: float | None
    """The part of `dollars` of requests whose outcome was never learnt, counted at its most."""
    dollars_per_kept: float | None
    """`dollars` / `kept`."""


class RunFacts(TypedDict):
    """What this run took and where it ran: `run.json`."""

    costs: list[Cost]
    """One row for each stage, learner and seed."""
    teacher: TeacherAccount | None
    """What the teacher did and cost; null for recorded rationales."""
    manifest: dict[str, Any]
    """Versions, host, git state and command, as the run folder's manifest has them."""


class Results(TypedDict):
    """Everything the report shows. `results.json` holds all keys but `run`."""

    schema: str
    """`mentorkd.results/1`."""
    name: str
    """The recipe's name."""
    task: TaskResult
    """What was asked."""
    seeds: list[int]
    """The recipe's seeds."""
    headline: Headline
    """The verdict."""
    warnings: list[str]
    """What makes the numbers less than they seem; shown before everything else."""
    protocol: list[str]
    """How the numbers were made, a sentence each."""
    learners: list[LearnerResult]
    """The learners, in the recipe's order."""
    comparisons: list[ComparisonResult]
    """All pairs of learners that share a seed; headline pairs first."""
    filters: list[FilterCount]
    """The way of the rationales from their sources into training."""
    dropped: list[DroppedRows]
    """Training rows that did not fit."""
    curves: list[Curve]
    """Learning curves."""
    differing: Examples
    """Test questions on which learners differ."""
    written: Examples
    """Training questions with what teacher and mentors wrote about them."""
    faults: list[str]
    """Faults found in the data."""
    run: RunFacts
    """What this run took and where it ran; kept in `run.json`."""
