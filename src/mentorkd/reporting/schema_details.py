"""The shape of what stands behind the numbers in `results.json`: filters, learning curves, examples. See `schema`."""

from __future__ import annotations

from typing import Any, TypedDict

from mentorkd.records import Verdict

__all__ = [
    "Cost",
    "Curve",
    "DroppedRows",
    "Example",
    "ExampleAnswer",
    "Examples",
    "FilterCount",
    "RunFacts",
    "Spent",
    "TeacherAccount",
    "TrainingPoint",
    "ValidationPoint",
]


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
    counted_in: str | None
    """What `length` counted: `tokens` of the learner's own tokenizer, or `characters`, four to a token; else null."""
    equations: int | None
    """Equations that `steps_check` met, with those it could not read; null of other filters."""
    unread: int | None
    """Equations that could not be read, and were left alone."""


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
    """Share of validation questions answered rightly; of test questions where the learner's `settings` say `select_on: test`."""


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
    wrong_step: list[int] | None
    """Place [start, end) in `text` of the first sentence that states a false equation; null where none is seen."""


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
    cpu_seconds: float | None
    """Processor time of the run's own process, all threads together."""
    gpu_seconds: float | None
    """Time for which the stage held an accelerator, busy or not; 0 where it ran on the processor alone."""
    tokens: int | None
    """Tokens trained on or generated."""
    peak_memory_mb: float | None
    """Peak memory in MB: the process's, and what PyTorch allocated of a CUDA accelerator; other engines' memory on it is not
    known."""
    accelerator: str | None
    """The accelerator that the stage held; null for a processor alone."""


class Spent(TypedDict):
    """What one learner cost, mean over seeds: `own` is its training and its test; `whole` adds all stages that it stands on
    (its mentors' training, augmentation and scoring, the teacher), each in full, as if no other learner used them. A budget,
    which reads other arms' rows to make trainings equal, is nobody's."""

    learner: str
    """The learner."""
    own_seconds: float | None
    """Wall-clock time of its own stages."""
    whole_seconds: float | None
    """Wall-clock time with what it stands on."""
    own_cpu_seconds: float | None
    """Processor time of its own stages."""
    whole_cpu_seconds: float | None
    """Processor time with what it stands on."""
    own_gpu_seconds: float | None
    """Time for which its own stages held an accelerator."""
    whole_gpu_seconds: float | None
    """Time of an accelerator with what it stands on."""
    own_tokens: int | None
    """Tokens trained on and generated by its own stages."""
    whole_tokens: int | None
    """Tokens with what it stands on."""
    peak_memory_mb: float | None
    """Highest peak memory of all those stages, in MB."""
    teacher_dollars: float | None
    """What the teacher's rationales cost; null where they were recorded or have no price, 0 where it reads none."""


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
    spent: list[Spent]
    """One row for each learner."""
    accelerator: str | None
    """The accelerators that stages held; null for a processor alone."""
    teacher: TeacherAccount | None
    """What the teacher did and cost; null for recorded rationales."""
    manifest: dict[str, Any]
    """Command, git commit, versions and host of the stages that made the results, a list where they differ; under `report` what
    differs for the report itself, if it was written anew."""
