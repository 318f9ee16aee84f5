"""The recipe: a graph of learners, as YAML checked by pydantic.

A learner is a model that is trained. `rationales` names whom it learns text from, `soft_labels` whose token
distributions it imitates. Everything else here is how the models are trained, sampled and graded.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mentorkd.recipe.learner import (
    Learner,
    SamplingConfig,
    SearchConfig,
    SelectConfig,
    Strict,
    TrainingConfig,
)
from mentorkd.recipe.teacher import TeacherConfig, with_kind
from mentorkd.records import GOLD, TEACHER, AnswerKind

__all__ = [
    "DataConfig",
    "Recipe",
    "TaskConfig",
    "Variant",
]


class DataConfig(Strict):
    """Where data files are, and how faults in them are met."""

    root: str = "."
    """Folder that relative data paths start from; itself relative to the recipe's folder (to the working folder when
    given on the command line)."""
    strict: bool = False
    """Turn counted data faults (duplicates, overlap of train and test, empty rationales, impossible answers) into errors."""


class TaskConfig(Strict):
    """The questions and how their answers are graded."""

    name: str
    """Name of the task; one of the paper's keys (`svamp`, `tracking_shuffled_objects`, ...) brings its `answer` kind."""
    train: str
    """Training questions: a file, or `hub:NAME` for a Hugging Face data set. May be left out with `test` for a task of the
    paper, and `teacher` with both: they are its own files."""
    test: str
    """Test questions, read once, after model selection."""
    validation: str | None = None
    """Validation questions; null takes `validation_share` of the training questions instead."""
    validation_share: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the training QUESTIONS (with all their rationales) held out for model selection."""
    answer: AnswerKind | None = None
    """How answers are graded; null takes the known task's kind."""
    choices: list[str] | None = None
    """Option letters of a choice task; null reads them from each question's own text."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column mapping for CSV, Parquet, JSONL and hub data: our field (`question`, `answer`, `rationale`, `completion`) -> theirs."""
    limit_train: int | None = Field(default=None, ge=1)
    """Keep only the first so many training questions (for trials)."""
    limit_test: int | None = Field(default=None, ge=1)
    """Keep only the first so many test questions (for trials)."""


# A variant's name of a sweep (`student@kd_weight=0.3`), or a name that people give.
_NAME = r"^([A-Za-z0-9_-]+@[A-Za-z0-9@=+,._-]+|[A-Za-z0-9][A-Za-z0-9_-]*)$"


class Variant(Strict):
    """A learner that a sweep made of another."""

    of: str
    """The learner as the recipe names it."""
    values: dict[str, Any]
    """What was swept for it: the sweep's keys and their values here."""


class Recipe(Strict):
    """Questions, a teacher, and a graph of learners."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run folder: runs/<name>."""
    data: DataConfig = DataConfig()
    task: TaskConfig
    teacher: Annotated[
        TeacherConfig,
        Field(discriminator="kind"),
        BeforeValidator(with_kind),
    ]
    """Where the first rationales come from. `kind` may be left out where `rationales` names a file."""
    learners: dict[Annotated[str, Field(pattern=_NAME)], Learner] = Field(min_length=1)
    """The learners by name; the order is the order of the report."""
    training: TrainingConfig = TrainingConfig()
    """Defaults of every learner's `training`."""
    sampling: SamplingConfig = SamplingConfig()
    """Defaults of every learner's `sampling`."""
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(default_factory=lambda: [42], min_length=1)
    """The whole graph is trained once a seed (initial weights, data order, dropout, sampling)."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where models run; auto takes an accelerator if there is one."""
    protocol: Literal["fair", "paper"] = "fair"
    """`paper` sets what is not given as the paper has it: arms after equal epochs, chosen on the test set, no validation split,
    no tau^2, no clipping, repeated rationales kept. The report marks every number that was so chosen."""
    match: Literal["updates", "epochs", "tokens"] = "updates"
    """What is equal for all arms, the trained learners that no other one names: optimiser steps, epochs, or target tokens. Of
    updates and tokens each gets the most that any would have of its own epochs; rows are cycled."""
    search: SearchConfig | None = None
    """Settings to choose by validation, for every arm that has no `search` of its own."""
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    """Values for keys like `student.kd_weight`: of every learner that a key reaches there is one of each combination."""
    variants: dict[str, Variant] = Field(default_factory=dict)
    """What the sweep came to; written by the tool."""

    def filter_of(self, reader: str, source: str) -> SelectConfig:
        """The filter through which a learner reads a source: the teacher, `gold` or another learner."""
        own = self.learners[reader].reads.get(source)
        return self.select_of(source) if own is None else own

    def select_of(self, source: str) -> SelectConfig:
        """The filter for the rationales of a source, whoever reads them."""
        if source == GOLD:
            return SelectConfig()
        return self.teacher.select if source == TEACHER else self.learners[source].select
