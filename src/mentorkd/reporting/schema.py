"""The shape of `results.json` and `run.json`: plain JSON, described field by field.

`results.json` is determined by the recipe, the data and the seeds: two undisturbed runs on one machine give the same
bytes. What differs from run to run (time, memory, host, versions) stands in `run.json`, the `run` key of `Results`.
Accuracies and differences are shares from 0 to 1, not per cent. `docs/results-schema.md` is this file in prose.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from mentorkd.records import AnswerKind
from mentorkd.reporting.schema_details import Curve, DroppedRows, Examples, FilterCount, RunFacts

__all__ = [
    "SCHEMA",
    "Bounds",
    "ComparisonResult",
    "Decomposition",
    "GainPart",
    "Headline",
    "LearnerResult",
    "Results",
    "SeedResult",
    "SoftLabelResult",
    "TaskResult",
    "Trial",
]

SCHEMA = "mentorkd.results/2"
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
    role: Literal["mentor", "student", "baseline", "untrained"]
    """mentor: another learner learns from it; student: learns from a mentor; baseline: from the teacher or the gold answers
    alone; untrained: from nobody, the model as it is."""
    rationales: list[str]
    """Whom it learns text from; empty for a model as it is."""
    imitates: dict[str, float]
    """Whose token distributions it imitates, with their shares (they add up to 1); empty without soft labels."""
    objective: str
    """Its objective, by the name in the recipe."""
    kd_weight: float | None
    """w of (1 - w) CE + w KL; null without soft labels."""
    temperature: float | None
    """Softmax temperature of the divergence; null without soft labels."""
    select_on: Literal["validation", "test", "last"]
    """Where its epoch was chosen; last: nowhere, it has the weights of its last epoch."""
    on_test: bool
    """Whether the test set had a part in it: its epoch was chosen there, or that of a learner it learns from."""
    validation: float | None
    """Validation accuracy at the chosen epoch, mean over seeds; null where nothing was validated. Where `settings` say
    `select_on: test`, it was measured on the test questions."""
    searched: dict[str, list[Any]]
    """Settings that a search on validation questions chose, one value for each seed; the others are in `settings`."""
    swept: dict[str, Any]
    """Values of the recipe's `sweep` that make this variant, by key; empty outside a sweep."""
    variant_of: str | None
    """The recipe's learner that this is a variant of; null outside a sweep."""
    leads: bool
    """Whether it is shown for its variants: the best of them on validation questions; true outside a sweep."""
    arm: bool
    """Whether it is compared with others on equal terms: trained, and named by no other learner."""
    rows: list[int]
    """Training rows, one number for each seed it was trained with; so in the next three. Step by step, a rationale is two rows."""
    updates: list[int]
    """Optimiser updates."""
    target_tokens: list[int]
    """Target tokens trained on, repetitions included."""
    epochs: list[float]
    """Passes over the rows."""
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
    """Paired bootstrap interval over questions, widened by `inflation`; not corrected for the number of pairs."""
    p_value: float
    """Two-sided p of the exact sign-flip test over questions (McNemar's with one seed)."""
    p_adjusted: float
    """`p_value` after Holm's correction over `corrected_for` pairs."""
    corrected_for: int
    """Pairs tested together with this one: 1 for the first headline pair, else all pairs but that."""
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
    """Seeds that both learners have; of `a`, where they have none in common."""
    paired_with: list[int]
    """Seeds of `b`, each beside the one of `a`: the same, but where they have none in common (runs compared)."""
    on_test: bool
    """Whether the test set had a part in either learner."""
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


class GainPart(TypedDict):
    """One part of a decomposition: a weighted sum of accuracies."""

    part: Literal["more_updates", "rationales", "soft_labels", "interaction", "total"]
    """What was added. interaction: what both together bring beyond their sum; total: everything against the base."""
    arms: dict[str, int]
    """The sum: learner -> weight."""
    gain: float
    """The sum's value, a share; mean over seeds."""
    interval: Bounds
    """Paired bootstrap interval over questions, widened by variation between seeds."""
    p: float
    """Two-sided p of the sign-flip test over questions, of this part by itself: not corrected for the number of parts."""
    shown: bool
    """Whether the part can be told from nothing: p below 0.05 and an interval without 0, both."""
    on_test: bool
    """Whether the test set had a part in any of `arms`."""
    note: str | None
    """What else differs between these arms than the part says; null where nothing does."""


class Decomposition(TypedDict):
    """Where a student's gain comes from: arms of one model, told by what they learn from. The parts but `total` add up."""

    model: str
    """The model of all arms."""
    base: str
    """The arm that learns from the teacher alone."""
    longer: str | None
    """The arm that does so for more updates; null where `base` has as many as the others."""
    rationales: str | None
    """The arm with mentor rationales; null where the recipe has none."""
    soft_labels: str | None
    """The arm with soft labels on the teacher's text alone; null where the recipe has none."""
    both: str
    """The arm with both."""
    parts: list[GainPart]
    """The parts that these arms can tell."""
    statement: str
    """The parts in a sentence."""
    missing: list[str]
    """What cannot be told, and the arm that would tell it."""
    questions: int
    """Test questions."""
    seeds: list[int]
    """Seeds that all arms have."""


class SoftLabelResult(TypedDict):
    """How a mentor and its student see the same target tokens, after training. In nats, at temperature 1."""

    learner: str
    """The student."""
    seed: int
    """The seed."""
    mentor: str
    """The mentor; one row for each of several."""
    rationales: int
    """Training rationales sampled."""
    tokens: int
    """Their target tokens: all numbers here are means over these."""
    mentor_nll: float | None
    """Negative log-likelihood of the targets under the mentor; null where `top_k` labels do not tell."""
    student_nll: float
    """The same under the student."""
    mentor_entropy: float | None
    """Entropy of the mentor's distributions; null for `top_k` labels, which know it at their own temperature only."""
    student_entropy: float
    """Entropy of the student's."""
    agreement: float
    """Share of tokens whose likeliest token is the same for both."""


class Trial(TypedDict):
    """One setting tried in a search, on validation questions alone."""

    learner: str
    """The learner searched for."""
    seed: int
    """The seed it was tried with."""
    values: dict[str, Any]
    """The settings, by the recipe's names."""
    validation: float | None
    """Validation accuracy."""
    chosen: bool
    """Whether the learner was trained with it."""


class Results(TypedDict):
    """Everything the report shows. `results.json` holds all keys but `run`."""

    schema: str
    """`mentorkd.results/2`."""
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
    decompositions: list[Decomposition]
    """Where the gain comes from, for every model whose arms can tell."""
    soft_labels: list[SoftLabelResult]
    """How mentors and students see the same tokens."""
    match: Literal["updates", "epochs", "tokens"] | None
    """What the recipe holds equal between arms; null where several runs are compared."""
    trials: list[Trial]
    """Settings tried by a search."""
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
