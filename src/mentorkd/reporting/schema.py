"""The schema of `results.json` and `run.json`: plain JSON, described field by field.

The recipe, the data and the seeds determine `results.json`: two undisturbed runs on one machine give the same bytes.
`run.json`, the `run` key of `Results`, has what varies between runs: time, memory, host, versions. Accuracies and
differences are shares from 0 to 1, not per cent. `docs/results-schema.md` has the same descriptions as tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict, TypeVar, cast

from mentorkd.records import AnswerKind, Verdict

SCHEMA = "mentorkd.results/3"
"""Value of `Results.schema`; the number increases when a field changes its meaning or is removed."""

Bounds = list[float]
"""A 95 % interval as [low, high]."""

Row = TypeVar("Row")


def row_of(kind: type[Row], values: Mapping[str, Any]) -> Row:
    """The values as a row of this kind: its fields in its order; None for absent values."""
    return cast(Row, {name: values.get(name) for name in kind.__annotations__})


class TaskResult(TypedDict):
    """The task."""

    name: str
    """The task's name in the recipe."""
    kind: AnswerKind
    """Kind of answer, which determines grading: number, choice, yes_no, text or math."""
    train: int
    """Training questions."""
    validation: int
    """Validation questions; 0 without a validation set."""
    test: int
    """Test questions."""


class TestQuestion(TypedDict):
    """A test question."""

    id: str
    """Content id."""
    text: str
    """Text."""
    answer: str
    """Gold answer."""


class TrainingData(TypedDict):
    """What all learners of a run learn from. Equal digests mean equal data, in any order."""

    questions: int
    """Number of training questions."""
    questions_digest: str
    """Digest of their content ids."""
    rationales: int
    """Number of different rationales of the teacher, before all filters."""
    rationales_digest: str
    """Digest of their questions and texts."""


class SeedResult(TypedDict):
    """One model of a learner (one seed) on the test questions."""

    seed: int
    """Seed of the training."""
    questions: int
    """Test questions answered."""
    correct: int
    """Questions answered correctly."""
    no_answer: int
    """Questions for which the text has no answer of the task's kind; they count as not correct."""
    cut: int
    """Answers truncated at `max_new_tokens`; the text before the cut is graded."""
    accuracy: float
    """`correct` / `questions`."""
    interval: Bounds
    """Wilson's interval of `accuracy`."""
    tokens_per_answer: float
    """Mean number of generated tokens."""
    verdicts: str
    """One character for each of `questions`, in their order: 1 for a correct answer, else 0."""


class LearnerResult(TypedDict):
    """One learner of the recipe, over all its seeds."""

    name: str
    """The learner's name in the recipe."""
    model: str
    """The model that training starts from."""
    model_key: str
    """Equal for learners that start from the same model."""
    parameters: int | None
    """Number of parameters; null if unknown."""
    role: Literal["mentor", "student", "baseline", "untrained"]
    """mentor: another learner learns from it; student: it learns from a mentor, from its own texts, or from another learner's weights;
    baseline: it learns only from the teacher or the gold answers; untrained: the model without training."""
    rationales: list[str]
    """Sources of its rationales; `self` are its own texts; empty for an untrained model."""
    initial: str | None
    """The learner from whose trained weights it starts; null if it starts from `model`."""
    folds: int
    """Trainings of a cross-fitted mentor, each without one part of the questions; 1 without cross-fitting."""
    imitates: dict[str, float]
    """Mentors of its soft labels, with their weights (sum 1); empty without soft labels."""
    scorers: list[str]
    """Learners whose perplexity, or whose questions, filter its rationales."""
    filters: dict[str, Any]
    """Source -> filters of its rationales for this learner."""
    run: str | None
    """Its run, where several runs are compared; else null."""
    objective: str
    """Its objective, by the name in the recipe."""
    kd_weight: float | dict[str, float] | None
    """w of (1 - w) CE + w KL; by source where sources differ; null without soft labels."""
    temperature: float | dict[str, float] | None
    """Softmax temperature of the divergence; by source where sources differ; null without soft labels, and for chunk likelihoods."""
    select_on: Literal["validation", "test", "last"]
    """The questions that selected its epoch; last: no selection, the weights of the last epoch."""
    on_test: bool
    """Whether the test set influenced it: its epoch, or that of a learner it learns from, was selected on test questions."""
    validation: float | None
    """Validation accuracy at the selected epoch, mean over seeds; null without validation. With `select_on: test` in
    `settings` it was measured on the test questions."""
    searched: dict[str, list[Any]]
    """Settings selected by a search on validation questions, one value for each seed; the others are in `settings`."""
    swept: dict[str, Any]
    """Values of the recipe's `sweep` for this variant, by key; empty outside a sweep."""
    variant_of: str | None
    """The learner of the recipe that was swept; null outside a sweep."""
    leads: bool
    """Whether it represents the variants of its learner: the best one on validation questions; true outside a sweep."""
    arm: bool
    """Whether it is an arm of the experiment: trained, and not used by another learner."""
    rows: list[int]
    """Training rows, one number for each trained seed (as in the next three fields). Step-by-Step has two rows per rationale."""
    updates: list[int]
    """Optimiser updates."""
    target_tokens: list[int]
    """Target tokens trained on, including repetitions."""
    epochs: list[float]
    """Passes over the rows."""
    plateaus: list[int | None]
    """The update at which each seed's training found the plateau of its validation accuracy (`patience`); null where its limit of
    updates ended it before. Empty for trainings of a given length."""
    settings: dict[str, Any]
    """Settings of training and evaluation, with the recipe's names; equal in a fair comparison."""
    distillation: dict[str, Any]
    """Further settings of soft labels and of own texts, with the recipe's names; empty without both."""
    accuracy: float | None
    """Mean over seeds; null without predictions."""
    interval: Bounds | None
    """Wilson's interval of `accuracy`; with several seeds, for the effective number of trials."""
    peers: list[str]
    """Further learners of its model, whose scatter over seeds contributes to `interval`."""
    standard_error: float | None
    """Standard error over seeds; null with fewer than two."""
    no_answer: float | None
    """Share of texts without an answer, over all seeds."""
    cut: float | None
    """Share of answers truncated at `max_new_tokens`, over all seeds."""
    tokens_per_answer: float | None
    """Mean number of generated tokens, over all seeds."""
    per_seed: list[SeedResult]
    """The seeds with predictions, in the recipe's order."""


class ContrastResult(TypedDict):
    """The test of a weighted sum of accuracies; fields of every comparison and of every part of a decomposition."""

    interval: Bounds
    """Student's t interval: the sum, plus or minus t x `standard_error`; not corrected for the number of tests."""
    standard_error: float
    """Standard error over questions and seeds; with one seed, over questions alone."""
    freedom: float
    """Degrees of freedom of `standard_error`."""
    factor: float
    """Ratio of `standard_error` to that of question sampling alone; 1 with one seed or where seeds agree."""
    scatter: float | None
    """Standard deviation of the sum from seed to seed, beyond what the questions explain; null with one seed."""
    scatter_interval: Bounds | None
    """The scatter that is compatible with these seeds; null with one seed."""
    detectable: float
    """Minimum detectable effect: smallest true value that a repetition of this design detects with 80 % power; above 1: none."""
    detectable_interval: Bounds | None
    """Minimum detectable effect at both ends of `scatter_interval`; null with one seed."""
    peers: list[str]
    """Further learners of the same models, whose scatter over seeds contributes to the estimate."""
    p_value: float
    """Two-sided p by Student's t; at least 2^(1-k), where k questions differ."""
    p_adjusted: float
    """`p_value` after Holm's correction over `corrected_for` tests."""
    family: Literal["headline", "parts", "pairs"]
    """The tests corrected together. headline: the first headline pair, by itself; parts: the parts of all decompositions; pairs: all
    other pairs."""
    corrected_for: int
    """Number of tests in the family."""


class ComparisonResult(ContrastResult):
    """Learner `a` against learner `b`, paired by question and seed. It also has the fields of `ContrastResult`."""

    a: str
    """The learner whose gain is measured."""
    b: str
    """The learner it is compared with."""
    difference: float
    """Accuracy of `a` minus accuracy of `b`, mean over `seeds`."""
    only_a: int
    """(question, seed) pairs that only `a` answered correctly."""
    only_b: int
    """(question, seed) pairs that only `b` answered correctly."""
    questions: int
    """Test questions compared."""
    seeds: list[int]
    """Seeds of both learners; without shared seeds, the seeds of `a`."""
    paired_with: list[int]
    """Seeds of `b`, paired with those of `a`; they differ only without shared seeds (comparisons of runs)."""
    on_test: bool
    """Whether the test set influenced either learner."""
    unmatched: str | None
    """Their numbers of optimiser updates (target tokens with `match: tokens`, operations with `match: compute`) where these differ, and
    with `match: plateau` the learners that were trained to no plateau; else null."""
    outcome: Literal["a_better", "b_better", "unclear"]
    """a_better or b_better requires both `p_adjusted` < 0.05 and an interval without 0."""
    verdict: str
    """The outcome as a sentence."""
    headline: bool
    """Whether the pair is a student against a learner of the same model that learns only from the teacher."""


class Headline(TypedDict):
    """The result of the main hypothesis of the recipe."""

    statement: str
    """The verdict of the headline comparison, or the reason why there is none."""
    comparison: int | None
    """Index into `comparisons`; null if the recipe has no student with its baseline."""
    controls: list[int]
    """Indexes into `comparisons`: the student against self-taught learners, which learn from learners of its own model alone. What is
    left of the gain there is what a larger mentor adds."""


class GainPart(ContrastResult):
    """One part of a decomposition: a weighted sum of accuracies. It also has the fields of `ContrastResult`.

    A part that is a pair has the numbers of the pair in `comparisons`.
    """

    part: Literal["more_updates", "rationales", "soft_labels", "interaction", "total"]
    """What was added. interaction: the gain of both together beyond the sum of their gains; total: the full gain over the base."""
    arms: dict[str, int]
    """The weighted sum: learner -> weight."""
    gain: float
    """Value of the sum, a share; mean over seeds."""
    shown: bool
    """Whether the gain differs from 0: `p_adjusted` below 0.05 and an interval without 0."""
    on_test: bool
    """Whether the test set influenced any of `arms`."""
    note: str | None
    """Further differences between these arms; null without any."""


class Decomposition(TypedDict):
    """Sources of a student's gain, from arms of one model that differ in their training data. All parts except `total` add up."""

    model: str
    """The model of all arms."""
    base: str
    """The arm that learns only from the teacher."""
    longer: str | None
    """The same arm with more updates; null if `base` has as many updates as the other arms."""
    rationales: str | None
    """The arm with mentor rationales; null if the recipe has none."""
    soft_labels: str | None
    """The arm with soft labels on the teacher's rationales only; null if the recipe has none."""
    both: str
    """The arm with both."""
    parts: list[GainPart]
    """The parts that can be estimated from these arms."""
    statement: str
    """The parts in a sentence."""
    missing: list[str]
    """Parts that cannot be estimated, each with the missing arm."""
    questions: int
    """Test questions."""
    seeds: list[int]
    """Seeds shared by all arms."""


class SoftLabelResult(TypedDict):
    """Predictions of a mentor and its trained student for the same target tokens. In nats, at temperature 1."""

    learner: str
    """The student."""
    seed: int
    """The seed."""
    mentor: str
    """The mentor; several mentors have one row each."""
    rationales: int
    """Training rationales sampled."""
    tokens: int
    """Target tokens of these rationales; all numbers here are means over them."""
    mentor_nll: float | None
    """Negative log-likelihood of the targets under the mentor; null if `top_k` labels do not contain it."""
    student_nll: float
    """Negative log-likelihood of the targets under the student."""
    mentor_entropy: float | None
    """Entropy of the mentor's distributions; null for `top_k` labels, which have it only at their own temperature."""
    student_entropy: float
    """Entropy of the student's distributions."""
    agreement: float | None
    """Share of target positions with the same most likely token under both models; null for chunk likelihoods."""


class Trial(TypedDict):
    """One setting tried in a search, on validation questions only."""

    learner: str
    """The learner whose settings are searched."""
    seed: int
    """The seed of the trial."""
    values: dict[str, Any]
    """The settings, with the recipe's names."""
    validation: float | None
    """Validation accuracy."""
    chosen: bool
    """Whether the search selected it."""


class SampledShare(TypedDict):
    """A share of the test questions that are answered correctly in some way, from sampled texts."""

    share: float
    """Mean over questions and seeds."""
    interval: Bounds
    """Wilson's interval of `share`, for the effective number of trials: the unit is the question with all its seeds and texts."""
    per_seed: list[float]
    """`share` of each seed."""


class PassAtK(SampledShare):
    """The estimated share of questions with a correct answer among k texts. It also has the fields of `SampledShare`."""

    k: int
    """Number of texts; with as many as were sampled, the share is counted. Else it is the unbiased estimate from all of them,
    1 - C(n - c, k) / C(n, k) for c correct texts of n (Chen et al. 2021, arXiv 2107.03374)."""


class MajorityVote(SampledShare):
    """The answer that most of a question's texts have (self-consistency, Wang et al. 2022, arXiv 2203.11171).

    Of equally frequent answers, the one that was sampled first is taken. A text without an answer does not vote; a question without any
    answer counts as not correct. It also has the fields of `SampledShare`.
    """

    ties: float
    """Share of questions, over all seeds, with several most frequent answers."""
    gain: float | None
    """`share` minus the accuracy of the greedy answers, paired by question and seed; null where these are unknown."""
    gain_interval: Bounds | None
    """Student's t interval of `gain`, not corrected for the number of learners; null where `gain` is."""


class SampledResult(TypedDict):
    """Several sampled answers of one learner to each test question."""

    learner: str
    """The learner."""
    seeds: list[int]
    """Its seeds, in the order of `per_seed`."""
    samples: int
    """Texts sampled for each question and seed."""
    temperature: float
    """Softmax temperature of the sampling."""
    top_p: float
    """Probability mass of the nucleus; 1 without nucleus sampling."""
    top_k: int
    """Number of most likely tokens to sample from; 0 for all."""
    no_answer: float
    """Share of texts without an answer."""
    pass_at_k: list[PassAtK]
    """For k = 1, 2, 4, ... and `samples`. For k = 1 it is the mean accuracy of the texts."""
    vote: MajorityVote | None
    """The majority vote; null where it was not asked for."""


class OwnTextsResult(TypedDict):
    """The texts that a learner wrote for a round, before the training of the round.

    Divergences and entropies are means over the tokens of a sample of the texts, in nats. The writer is the model that wrote
    them, and the trained model is the one after the training on them.
    """

    texts: int
    """Texts written."""
    verdicts: dict[Verdict, int]
    """Texts by verdict; `ungraded` are those for questions without an answer."""
    mean_tokens: float
    """Mean length in tokens, the end token included."""
    unfinished: float
    """Share of the texts without an end token."""
    reencoded: float | None
    """Share of the imitated texts that have another number of tokens when they are encoded again; null without soft labels."""
    writer_kl: float | None
    """KL(writer, mentor), with several mentors by their weights; null if no mentor gives whole distributions."""
    trained_kl: float | None
    """KL(trained model, mentor)."""
    writer_entropy: float
    """Entropy of the writer's distributions."""
    trained_entropy: float
    """Entropy of the trained model's distributions."""
    overlap: float | None
    """Share of the writer's ten most likely tokens that are among those of the mentor."""
    staleness: float
    """KL(writer, trained model): how far the training moved from the distribution that its texts are samples of."""


class FrontierResult(TypedDict):
    """The weights of the questions of one source by the share of correct own texts (`weight: frontier`)."""

    source: str
    """The source whose questions have weights."""
    questions: int
    """Questions with a weight."""
    at_floor: int
    """Questions whose weight is the floor, because nearly all own texts are correct, or nearly all are wrong."""


class RoundResult(TypedDict):
    """One training of a learner with own texts. Its time is in `RoundCostResult`."""

    learner: str
    """The learner."""
    seed: int
    """The seed."""
    round: int
    """Number of the training. Number 0 reads no own texts."""
    updates: int
    """Optimiser updates of this training."""
    target_tokens: int
    """Target tokens of this training, repetitions included."""
    validation: float | None
    """Validation accuracy; null without validation."""
    chosen: bool
    """Whether its model became the learner: the best validation accuracy, the last of equals."""
    own_texts: OwnTextsResult | None
    """Its own texts; null for number 0."""
    frontier: list[FrontierResult]
    """Weights of questions; empty without."""


class Results(TypedDict):
    """Everything that the report shows. `results.json` has all keys except `run`."""

    schema: str
    """`mentorkd.results/3`."""
    name: str
    """The recipe's name."""
    task: TaskResult
    """The task."""
    seeds: list[int]
    """The recipe's seeds."""
    questions: list[TestQuestion]
    """The test questions, in the order of `verdicts`."""
    training: TrainingData | None
    """Identity of the training questions and of the teacher's rationales; null for a comparison of several runs."""
    headline: Headline
    """The main result."""
    warnings: list[str]
    """Reasons to trust the numbers less; shown before everything else."""
    protocol: list[str]
    """How the numbers were obtained, as sentences."""
    learners: list[LearnerResult]
    """The learners, in the recipe's order."""
    comparisons: list[ComparisonResult]
    """All pairs of learners with paired seeds; headline pairs first."""
    decompositions: list[Decomposition]
    """Sources of the gain, for every model with the required arms."""
    soft_labels: list[SoftLabelResult]
    """Predictions of mentors and students for the same tokens."""
    match: Literal["updates", "epochs", "tokens", "compute", "plateau"] | None
    """The quantity that the recipe matches between arms; null for a comparison of several runs."""
    trials: list[Trial]
    """Settings tried by searches."""
    rounds: list[RoundResult]
    """Trainings of the learners that read their own texts."""
    sampled: list[SampledResult]
    """Majority vote and pass@k of the learners with `test_samples`, in the recipe's order."""
    filters: list[FilterCount]
    """Number of rationales before and after each filter."""
    dropped: list[DroppedRows]
    """Training rows over the length limits."""
    curves: list[Curve]
    """Learning curves."""
    differing: Examples
    """Test questions on which learners differ."""
    written: Examples
    """Training questions with rationales of the teacher and the mentors."""
    faults: list[str]
    """Faults in the data."""
    run: RunFacts
    """Cost and environment of this run; stored in `run.json`."""


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
    """Equations seen by `arithmetic`, including those it could not check; null for other filters."""
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
    flops: float | None
    """Floating-point operations so far: 6 a parameter and token of its training, and before it those of everything that it learns from
    (training 6; writing and scoring 2), without the teacher's. Tokens are those of the texts; null where a number is unknown."""


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
    """correct, wrong, no_answer, or ungraded (the question had no gold answer when the text was written)."""
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
    """The cost of one stage, with all of its shards."""

    name: str
    """Name of the stage in the run folder."""
    needs: list[str]
    """Names of its input stages."""
    dollars: float | None
    """Cost of its queries to the teacher; null without any."""
    stage: str
    """Kind of stage: annotate, train, augment, score, evaluate or sample."""
    learner: str | None
    """The learner it belongs to."""
    seed: int | None
    """The seed."""
    seconds: float | None
    """Wall-clock time; of shards, the sum."""
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
    """The cost of one learner, mean over seeds. `own`: its training and evaluation, with all trials, rounds and folds, and with
    the writing and scoring of its own texts. `whole`: also all stages it depends on (the training, augmentation and scoring of its
    mentors, the teacher), each in full, as if no other learner used them. Stages of kind `budget`, which read the rows of other
    arms to match updates, belong to no learner."""

    learner: str
    """The learner."""
    stages: dict[str, list[str]]
    """Seed -> names of the stages that train and evaluate it."""
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


class RoundCostResult(TypedDict):
    """The wall-clock time of one round of own texts."""

    learner: str
    """The learner."""
    seed: int
    """The seed."""
    round: int
    """Number of the training."""
    writing_seconds: float | None
    """Time in which the learner wrote its texts; null for number 0."""
    scoring_seconds: float | None
    """Time in which the mentors scored them; null if no mentor did."""
    training_seconds: float | None
    """Time of the training, validation included."""


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
    """Replies that could not be parsed, over all attempts at this run."""
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
    """One row for each learner whose costs are known."""
    rounds: list[RoundCostResult]
    """One row for each training of a learner with own texts, unless its settings are searched."""
    accelerator: str | None
    """The accelerators that stages held; null if all ran only on the processor."""
    teacher: TeacherAccount | None
    """Work and cost of the teacher; null for recorded rationales."""
    recipe_digest: str | None
    """Digest of the recipe in the run folder; null for a comparison of several runs."""
    manifest: dict[str, Any]
    """Command, git commit, versions and host of the stages behind the results; a list where stages differ. `report` has the
    values that differ for the report itself, if it was written again later."""
