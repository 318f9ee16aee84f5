"""The recipe: a graph of learners, as YAML checked by pydantic.

A learner is a model that is trained. `rationales` names the sources of its text, and `soft_labels` the mentors whose token
distributions it imitates. The other keys set how models are trained, sampled and graded.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, field_validator

from mentorkd.recipe.learner import (
    Learner,
    ResourcesConfig,
    SamplingConfig,
    SearchConfig,
    SelectConfig,
    StageKind,
    Strict,
    TrainingConfig,
)
from mentorkd.recipe.teacher import TeacherConfig, with_kind
from mentorkd.records import GOLD, SELF, TEACHER, AnswerKind, Split

_FILES = get_args(Split)
"""The task's files that may have a column mapping of their own."""


class DataConfig(Strict):
    """The folder of data files, and the handling of faults in them."""

    root: str = "."
    """Folder of relative data paths; itself relative to the recipe's folder, or to the working folder if given on the command line."""
    strict: bool = False
    """Treat counted data faults (duplicates, overlap of train and test, empty rationales, impossible answers) as errors."""


class TaskConfig(Strict):
    """The questions, and how their answers are graded."""

    name: str
    """Name of the task. A task of the paper (`svamp`, `tracking_shuffled_objects`, ...) sets its `answer` kind."""
    train: str
    """Training questions: a file, or `hub:NAME` for a Hugging Face data set. For a task of the paper, `train` may be left
    out together with `test`, and `teacher` with both: the paper's files are used."""
    test: str
    """Test questions. They are used once, after model selection."""
    validation: str | None = None
    """Validation questions; null uses `validation_share` of the training questions."""
    validation_share: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the training QUESTIONS (with all their rationales) held out for model selection."""
    unlabelled: str | None = None
    """Questions without answers, for learners that imitate their own texts (`self` among their `rationales`, and `soft_labels`).
    Answers in the file are ignored. A question that is also in `train`, `validation` or `test` is dropped here."""
    answer: AnswerKind | None = None
    """Kind of the answers, which sets how they are graded; null uses the kind of the known task."""
    choices: list[str] | None = None
    """Option letters of a choice task; null reads them from the text of each question."""
    grader: str | None = None
    """A function of yours that gives the verdict, for `answer: text`: `MODULE:FUNCTION` or `FILE.py:FUNCTION`, e.g. `overlap:grade`.
    The module is looked for beside the recipe first; null compares answers exactly."""
    columns: dict[str, str | dict[str, str]] = Field(default_factory=dict)
    """Column mapping for CSV, Parquet, JSONL and hub data: our field (`question`, `answer`, `rationale`, `completion`, `id`,
    `logprobs`) -> theirs, for all files of the task and for the teacher's. `train`, `test`, `validation` and `unlabelled` hold
    mappings of one file, which go before: `{answer: solution, test: {question: query}}`."""
    limit_train: int | None = Field(default=None, ge=1)
    """Number of training questions to use, from the first on (for trials); null uses all."""
    limit_test: int | None = Field(default=None, ge=1)
    """Number of test questions to use, from the first on (for trials); null uses all."""
    limit_unlabelled: int | None = Field(default=None, ge=1)
    """Number of unlabelled questions to use, from the first on; null uses all."""

    @field_validator("columns")
    @classmethod
    def _mappings_are_of_files(cls, columns: dict[str, Any]) -> dict[str, Any]:
        for key, value in columns.items():
            if isinstance(value, dict) != (key in _FILES):
                got = f"got `{key}: {value}`"
                raise ValueError(f"{got}; expected OURS: THEIRS, or a mapping of these under {', '.join(_FILES)}")
        return columns

    def columns_of(self, file: str) -> dict[str, str]:
        """The column mapping of one of the task's files, by split, or of `teacher`."""
        shared = {ours: theirs for ours, theirs in self.columns.items() if isinstance(theirs, str)}
        own = self.columns.get(file, {})
        return shared | (own if isinstance(own, dict) else {})


FILE_NAME = r'^[^\s.\-/\\:*?"<>|\x00-\x1f\x7f]([^/\\:*?"<>|\x00-\x1f\x7f]*[^\s/\\:*?"<>|\x00-\x1f\x7f])?$'
"""A name for a folder of any system, which starts neither as a hidden folder nor as an option."""

MOST_SEEDS = 1000
"""Seeds of a recipe."""

MOST_SHARDS = 10_000
"""Shards of a stage."""

# The name of a sweep's variant (`student@kd_weight=0.3`), or a name that the recipe gives.
_NAME = r"^([A-Za-z0-9_-]+@[A-Za-z0-9@=+,._-]+|[A-Za-z0-9][A-Za-z0-9_-]*)$"


class Variant(Strict):
    """A learner that a sweep made from another."""

    of: str
    """The name of the learner in the recipe with the sweep."""
    values: dict[str, Any]
    """The sweep's keys, with their values for this variant."""


class Recipe(Strict):
    """Questions, a teacher, and a graph of learners."""

    name: str = Field(pattern=FILE_NAME)
    """Name of the recipe, and of the run folder: runs/<name>. It may have letters of any script, and spaces."""
    data: DataConfig = DataConfig()
    task: TaskConfig
    teacher: Annotated[TeacherConfig, Field(discriminator="kind"), BeforeValidator(with_kind)]
    """Source of the first rationales. `kind` may be left out if `rationales` names a file."""
    learners: dict[Annotated[str, Field(pattern=_NAME)], Learner] = Field(min_length=1)
    """The learners by name, in the order of the report."""
    training: TrainingConfig = TrainingConfig()
    """Defaults of every learner's `training`."""
    sampling: SamplingConfig = SamplingConfig()
    """Defaults of every learner's `sampling`."""
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(
        default_factory=lambda: [42], min_length=1, max_length=MOST_SEEDS
    )
    """Seeds of initial weights, data order, dropout and sampling. The whole graph is trained once per seed."""
    shards: Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_SHARDS)] = "auto"
    """Parts of the questions that are written (`augment`), scored, evaluated, or annotated by a local teacher, each by a stage of its own,
    so that several machines share the work and a failure reaches one part. auto: one for every 4,096 questions that the stage
    reads. Sampled texts depend on this number, and never on the machine. A stage that is finished in one part stays finished."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device of the models; auto uses an accelerator if there is one."""
    resources: dict[StageKind, ResourcesConfig] = Field(default_factory=dict)
    """Threads and GPUs of stages by kind: `{train: {cpus: 2, gpus: 1}, augment: {gpus: 0.5}}`."""
    protocol: Literal["fair", "paper"] = "fair"
    """`paper` gives keys that are left out the paper's values: equal epochs for all arms, the best epoch chosen on the test set, no
    validation split, no tau^2, no clipping, repeated rationales kept. The report marks every number chosen on the test set."""
    match: Literal["updates", "epochs", "tokens", "compute", "plateau"] = "updates"
    """Quantity that is equal for all arms (trained learners that no other learner names): optimiser steps, epochs, target
    tokens, or floating-point operations. With `updates` or `tokens`, each arm gets the largest number that any arm's own epochs give;
    rows are cycled. With `compute`, an arm's number is that of its training and of all that it learns from: the training of its
    mentors and of other sources, their writing and scoring. With `plateau`, each arm is trained until it learns no more
    (`training.patience`), within one limit (`training.updates`)."""
    compute: float | None = Field(default=None, gt=0)
    """Floating-point operations of each arm with `match: compute`; null takes those of the arm with the most, by its own length."""
    search: SearchConfig | None = None
    """Settings to choose by validation, for every arm that has no `search` of its own."""
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    """Lists of values for keys like `student.kd_weight`. Each learner that a key reaches gets one variant per combination of values,
    of which there may be 1,000."""
    variants: dict[str, Variant] = Field(default_factory=dict)
    """The variants of the sweep; written by mentorkd."""

    @field_validator("shards", mode="before")
    @classmethod
    def _shards_are_counted(cls, value: Any) -> Any:
        if value == "auto" or (type(value) is int and 1 <= value <= MOST_SHARDS):
            return value
        raise ValueError(f"got {value!r}; expected auto, or a number from 1 to {MOST_SHARDS:,}")

    def filter_of(self, reader: str, source: str) -> SelectConfig:
        """The filters of a reader on a source: the teacher, `gold`, another learner, or the reader itself."""
        own = self.learners[reader].reads.get(source)
        return self.select_of(source) if own is None else own

    def select_of(self, source: str) -> SelectConfig:
        """The filters of a source's rationales for readers without their own."""
        if source in (GOLD, SELF):
            return SelectConfig()
        return self.teacher.select if source == TEACHER else self.learners[source].select
