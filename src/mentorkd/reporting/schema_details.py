"""The shape of what stands behind the numbers in `results.json`: filters, learning curves, examples. See `schema`."""

from __future__ import annotations

from typing import TypedDict

from mentorkd.records import Verdict

__all__ = [
    "Curve",
    "DroppedRows",
    "Example",
    "ExampleAnswer",
    "Examples",
    "FilterCount",
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
