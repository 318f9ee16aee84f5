"""What finished stages record: one dataclass a kind of stage, written as JSON to the run folder's marks and manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from mentorkd.files.seals import FileSeal
from mentorkd.recipe.aliases import RECORDED_NAMES
from mentorkd.records import EncodingCounts, Prediction, Question, Rationale, Split, Verdict

_OMITTED_IF_NONE = {"asked", "chat", "files", "tokens", "counted_in", "equations", "unread", "checkpoint_format"}
_OMITTED_IF_NONE |= {"own_texts", "rounds", "frontier", "fold", "plateau", "validate_every"}
_OMITTED_IF_NONE |= {"operations_before", "dtype"}
_OMITTED_IF_NONE |= {"chunks", "unlabelled_chunks", "mentor_too_long", "without_logprobs"}
"""JSON has these keys only where they have a value. All other keys are always there, with null for None."""

_OMITTED_IF_ZERO = {"unended", "without_tokens"}


def _fields(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {
        key: value
        for key, value in pairs
        if not (value is None and key in _OMITTED_IF_NONE) and not (value == 0 and key in _OMITTED_IF_ZERO)
    }


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What every finished stage records. A stage sets `tokens` and the fields of its kind; publication sets the others.

    Fields that marks of earlier versions may lack have a default.
    """

    stage: str = ""
    """The stage's name."""
    fingerprint: str = ""
    target: str = ""
    """Folder of the outputs, relative to the run folder."""
    outputs: list[str] = field(default_factory=list)
    """Names of the files and folders in `target` that the stage made."""
    files: dict[str, FileSeal] | None = None
    """Size and hash of every output file, by its path in `target`; empty for soft labels, which have checksums of their own. None
    in marks of earlier versions."""
    needs: list[str] = field(default_factory=list)
    """Names of the stages that it read from."""
    kind: str = ""
    learner: str | None = None
    seed: int | None = None
    tokens: int | None = None
    """Tokens that a model read or wrote; None for stages without a model."""
    seconds: float = 0.0
    cpu_seconds: float | None = None
    gpu_seconds: float | None = None
    peak_memory_mb: float | None = None
    accelerator: str | None = None
    made_by: dict[str, Any] | None = None
    """Command, git commit, versions and host; see `provenance.here`."""

    def as_json(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return asdict(self, dict_factory=_fields)


@dataclass(frozen=True, kw_only=True)
class PrepareRecord(StageRecord):
    """The questions of the task."""

    kind: str = "prepare"
    questions: dict[Split, int]
    """By split; `unlabelled` only where the recipe names such questions."""
    faults: list[str]
    """A line for each kind of fault in the data."""


@dataclass(frozen=True)
class TeacherUsage:
    """What a teacher did and cost; the fields are those of the report's `TeacherAccount`."""

    questions: int
    solved: int
    samples: int
    replies: int
    correct: int
    accuracy: float | None
    cut: int
    refused: int
    empty: int
    malformed: int
    lost: int
    requests: int
    cached: int
    input_tokens: int
    output_tokens: int
    dollars: float | None
    unsure_dollars: float | None


@dataclass(frozen=True, kw_only=True)
class AnnotateRecord(StageRecord):
    """The teacher's rationales by verdict, and what the teacher did for them."""

    kind: str = "annotate"
    rationales: dict[Verdict, int]
    faults: list[str]
    asked: TeacherUsage | None = None
    """None for recorded rationales."""


@dataclass(frozen=True, kw_only=True)
class CurateRecord(StageRecord):
    """The teacher's rationales by verdict after the decisions of the overlay, and what these did."""

    kind: str = "curate"
    rationales: dict[Verdict, int]
    before: int
    """Rationales that the teacher gave."""
    rejected: int
    edited: int
    unmatched: int
    """Decisions about rationales that the teacher does not have."""


@dataclass(frozen=True)
class OwnLength:
    """How long an arm's training is by its own settings."""

    updates: int
    target_tokens: int


@dataclass(frozen=True)
class ArmUpdates:
    """The optimiser updates that the budget gives an arm."""

    rows: int
    own: OwnLength
    updates: int
    operations_before: int | None = None
    """Floating-point operations of all that it learns from; None where these are not matched."""


@dataclass(frozen=True, kw_only=True)
class BudgetRecord(StageRecord):
    """How many updates each arm gets."""

    kind: str = "budget"
    match: Literal["updates", "tokens", "compute"]
    number: int
    """The most updates, or target tokens, that any arm would do by its own settings; or the floating-point operations of each."""
    arms: dict[str, ArmUpdates]
    """By learner."""


@dataclass(frozen=True)
class FilterRow:
    """Rationales of a source before and after a filter."""

    source: str
    filter: Annotated[str, BeforeValidator(lambda name: RECORDED_NAMES.get(name, name))]
    before: int
    after: int
    counted_in: Literal["tokens", "characters"] | None = None
    """What a limit of length counts; None for other filters."""
    equations: int | None = None
    """Equations in the rationales; None for filters that check none."""
    unread: int | None = None
    """Equations that could not be read."""


@dataclass(frozen=True)
class ChatRecord:
    """The chat template with which a model's prompts were made."""

    template: str
    """Hash of its text, which is saved with the model."""
    date: str | None
    """The date that a template which asks for today's was given; None for others."""


@dataclass(frozen=True, kw_only=True)
class OwnTexts:
    """The texts that a learner wrote for a round, and what its training made of it.

    Divergences and entropies are means over the tokens of a sample of the texts, in nats. `writer` is the model that wrote them, and
    `trained` the model after the round's training. Without a mentor, or with one that gives likelihoods of chunks alone, the
    values of the mentor are None.
    """

    texts: int
    verdicts: dict[Verdict, int]
    mean_tokens: float
    """Tokens of a text, the end token included."""
    unfinished: float
    """Share of the texts without an end token."""
    reencoded: float | None
    """Share of the imitated texts that have another number of tokens when they are encoded again than when they were sampled."""
    writer_kl: float | None
    """KL(writer || mentor), with several mentors by their weights."""
    trained_kl: float | None
    """KL(trained || mentor)."""
    writer_entropy: float
    trained_entropy: float
    overlap: float | None
    """Share of the ten likeliest tokens of the writer that are among those of the mentor."""
    staleness: float
    """KL(writer || trained): how far the training moved from the distribution that its texts are samples of."""


@dataclass(frozen=True)
class FrontierCounts:
    """The weights of a source's questions by the share of correct own texts."""

    source: str
    questions: int
    at_floor: int
    """Questions whose weight is the floor, because all or nearly all own texts are correct, or wrong."""


@dataclass(frozen=True, kw_only=True)
class RoundOutcome:
    """One training of a learner with own texts."""

    number: int
    updates: int
    target_tokens: int
    seconds: float
    validation_accuracy: float | None
    own_texts: OwnTexts | None = None
    """None for the training before the first own texts."""
    frontier: list[FrontierCounts] | None = None
    """Where questions have weights."""


def best_round(rounds: Sequence[RoundOutcome]) -> RoundOutcome:
    """The training with the best validation accuracy. Of equal accuracies, and without validation, the last is the best."""
    return max(rounds, key=lambda outcome: (outcome.validation_accuracy or 0.0, outcome.number))


@dataclass(frozen=True)
class Plateau:
    """How a training with `patience` ended."""

    limit: int
    """The most updates that it could do."""
    found: int | None
    """The update whose validation found the plateau; None where the limit ended the training."""

    @property
    def text(self) -> str:
        """`plateau at update 400`."""
        return f"no plateau by the limit of {self.limit}" if self.found is None else f"plateau at update {self.found}"


@dataclass(frozen=True, kw_only=True)
class TrainRecord(StageRecord):
    """A learner's rows, the length of its training, and its validation."""

    kind: str = "train"
    filters: list[FilterRow]
    encoding: EncodingCounts
    rows: int
    updates: int
    epochs: float
    """Passes over the rows."""
    target_tokens: int
    """Target tokens trained on, repetitions included."""
    matched: Literal["updates", "tokens", "compute"] | None
    """What the budget held equal between arms; None for a learner without a budget."""
    best_step: int
    """The update whose weights are kept."""
    validation_accuracy: float | None
    fused_loss: bool
    precision: str
    chat: ChatRecord | None = None
    """The chat template of its prompts; None for a model without one."""
    soft_labels: list[dict[str, Any]] = field(default_factory=list)
    """One row for each mentor: the fields of the report's `SoftLabelResult` without learner and seed."""
    parameters: int
    checkpoint_format: int | None = None
    """2 where checkpoints held the model's own state dict; None where they were in the form of `from_pretrained`, from which the
    weights of some families came back wrong (see `outdated`)."""
    own_texts: OwnTexts | None = None
    """Of a round with own texts."""
    frontier: list[FrontierCounts] | None = None
    """Of a round with weights by question."""
    rounds: list[RoundOutcome] | None = None
    """All trainings of a learner with own texts."""
    plateau: Plateau | None = None
    """Of a training with `patience`."""
    validate_every: int | None = None
    """The rounds from one validation to the next that `validate_every: auto` took."""
    fold: int | None = None
    """The part of the questions that was held out of a cross-fitted mentor's training."""


@dataclass(frozen=True, kw_only=True)
class RoundsRecord(TrainRecord):
    """What the training of the best round recorded, but with the length of all rounds. `tokens` is None: the rounds record theirs."""

    kind: str = "rounds"


@dataclass(frozen=True)
class TrialOutcome:
    """The settings of one trial of a search, and its validation accuracy."""

    values: dict[str, Any]
    validation_accuracy: float


@dataclass(frozen=True)
class Search:
    """All trials of a search, and the settings of the best one."""

    tried: list[TrialOutcome]
    chosen: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SearchRecord(TrainRecord):
    """What the training of the best trial recorded, and all trials. `tokens` is None: the trials record theirs."""

    kind: str = "search"
    search: Search


@dataclass(frozen=True, kw_only=True)
class ScoreRecord(StageRecord):
    """A store of soft labels: its rows, its form (`hidden`, `top_k` or `chunks`) and its size."""

    kind: str = "score"
    rows: int
    form: str
    bytes: int
    chunks: int | None = None
    """Of the form `chunks`."""
    unlabelled_chunks: int | None = None
    """Chunks without a likelihood: of a token that is unknown to one side, or that a teacher's reply does not cover."""
    mentor_too_long: int | None = None
    """Texts without a label, because they exceed the mentor's positions."""
    without_logprobs: int | None = None
    """Rationales of a teacher without log-probabilities."""


@dataclass(frozen=True, kw_only=True)
class AugmentRecord(StageRecord):
    """A learner's rationales by verdict, and the engine that sampled them."""

    kind: str = "augment"
    rationales: dict[Verdict, int]
    engine: str
    dtype: str | None = None
    """Of the weights; None where they were as saved."""


@dataclass(frozen=True, kw_only=True)
class EvaluateRecord(StageRecord):
    """A learner's test predictions by verdict, and the engine that sampled them."""

    kind: str = "evaluate"
    predictions: dict[Verdict, int]
    engine: str
    dtype: str | None = None
    """Of the weights; None where they were as saved."""


@dataclass(frozen=True, kw_only=True)
class SampleRecord(StageRecord):
    """A learner's sampled answers to the test questions by verdict, and the engine that sampled them."""

    kind: str = "sample"
    predictions: dict[Verdict, int]
    engine: str
    dtype: str | None = None
    """Of the weights; None where they were as saved."""


@dataclass(frozen=True, kw_only=True)
class ReportRecord(StageRecord):
    """How many learners and test questions the report compares."""

    kind: str = "report"
    learners: int
    test_questions: int


RECORDS: dict[str, type[StageRecord]] = {
    kind.kind: kind
    for kind in (
        PrepareRecord,
        AnnotateRecord,
        CurateRecord,
        BudgetRecord,
        TrainRecord,
        RoundsRecord,
        SearchRecord,
        ScoreRecord,
        AugmentRecord,
        EvaluateRecord,
        SampleRecord,
        ReportRecord,
    )
}
"""The record of each kind of stage."""

R = TypeVar("R", bound=StageRecord)


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(RECORDS[kind])


def parse(kind: type[R], values: Mapping[str, Any]) -> R:
    """The record that plain values make; unknown keys are left out. Raises pydantic.ValidationError for a missing key."""
    record: R = _adapter(kind.kind).validate_python(values)
    return record


def read_record(mark: Mapping[str, Any]) -> StageRecord | None:
    """The record that a mark holds; None for one that another version of mentorkd wrote and this one cannot read."""
    kind = RECORDS.get(mark.get("kind", ""))
    try:
        return None if kind is None else parse(kind, mark)
    except ValidationError:
        return None


def count_verdicts(records: Iterable[Rationale | Prediction]) -> dict[Verdict, int]:
    """How many rationales or predictions have each verdict; `ungraded` only where there are some."""
    counts: dict[Verdict, int] = {"correct": 0, "wrong": 0, "no_answer": 0}
    return counts | Counter(record.verdict for record in records)


def sum_verdicts(counts: Iterable[Mapping[Verdict, int]]) -> dict[Verdict, int]:
    """The counts of several records by verdict."""
    total: Counter[Verdict] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def sum_usage(parts: Sequence[TeacherUsage]) -> TeacherUsage:
    """What a teacher did and cost for several parts of the questions; a sum is None where a part's number is."""
    sums: dict[str, Any] = {}
    for each in fields(TeacherUsage):
        values = [getattr(part, each.name) for part in parts]
        sums[each.name] = None if None in values else sum(values)
    replies = sums["replies"]
    return TeacherUsage(**sums | {"accuracy": sums["correct"] / replies if replies else None})


def count_splits(questions: Iterable[Question]) -> dict[Split, int]:
    """How many questions each split has; `unlabelled` only where there are some."""
    counts: dict[Split, int] = {"train": 0, "validation": 0, "test": 0}
    return counts | Counter(question.split for question in questions)
