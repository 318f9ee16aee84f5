"""What a teacher is to a run: five methods, whichever way it gets its rationales.

A new kind of teacher takes settings in `mentorkd.recipe.teacher`, a class with these methods, and a case of `open_teacher`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mentorkd.records import Progress, Question, Rationale
from mentorkd.teachers.dry_run import DryRun

if TYPE_CHECKING:
    import torch


class Description(NamedTuple):
    """A teacher in a few words."""

    name: str
    """`recorded`, or the model and where it runs."""
    sampling: str = ""
    """How its replies are sampled; empty if nobody is asked."""


@dataclass(frozen=True)
class TeacherEstimate:
    """What an annotation will give and take."""

    rationales: int
    """How many rationales the teacher gives, of the training questions' first round if it is asked in rounds."""
    max_tokens: int | None = None
    """The longest rationale that it may write; None if `recorded` has them all."""
    recorded: Sequence[Rationale] = ()
    """The rationales themselves, where they are there before the annotation."""
    characters: float = 0
    """The mean length of their texts."""
    faults: Sequence[str] = ()
    """What is wrong with them, a line each; see `Annotation.faults`."""
    dry_run: DryRun | None = None
    """Requests, tokens and dollars; None if nobody is asked."""


@dataclass(frozen=True)
class AnnotationContext:
    """What a run offers to its teacher."""

    root: Path
    """The run folder."""
    engines: Path
    """A folder in which generation engines keep what they make of a model."""
    device: Callable[[], torch.device]
    """Gives the device for a model that runs here, which the stage then holds to its end."""
    on_progress: Progress
    note: Callable[[str], None]
    """Shows a line to the user."""
    accept_missing: bool = False
    """Take the annotation as finished even if most samples got no reply."""


@dataclass(frozen=True)
class Annotation:
    """The rationales of a teacher, correct and wrong ones alike, and what the run records beside them."""

    rationales: Sequence[Rationale]
    faults: list[str] = field(default_factory=list)
    """What is wrong with the rationales, a line each."""
    account: Mapping[str, Any] | None = None
    """The fields of the report's TeacherAccount, apart from what training kept; None if nobody was asked."""
    tokens: int | None = None
    """Tokens of all prompts and replies behind the rationales; None if nobody was asked."""


class Teacher(Protocol):
    """The source of a recipe's first rationales. To open one reads no file and imports neither torch nor a client."""

    def check(self) -> None:
        """Raise a MentorkdError, before anything runs, for what would fail later: no key, no package, a faulty prompt."""

    def identity(self) -> list[Any]:
        """What decides the rationales, as JSON values: a finished annotation is kept as long as this stays equal. The first holds the
        settings. Hub models that these name (by the `model_keys` of the config) are hashed by name and commit."""

    def describe(self) -> Description:
        """The teacher in words, for model cards and the report."""

    def estimate(self, questions: Sequence[Question], root: Path, *, roughly: bool = False) -> TeacherEstimate:
        """What an annotation will give and take. Asks for nothing.

        Args:
            questions: the questions of every split.
            root: the run folder, which may hold replies of an earlier run.
            roughly: count tokens by characters, even if the recipe names a tokenizer, which would have to be loaded.
        """

    def annotate(self, questions: Sequence[Question], context: AnnotationContext) -> Annotation:
        """The rationales of `questions`, which are those of every split.

        A teacher that is asked gets the training questions alone. Raises DataError for data that cannot be used,
        BudgetError if the recipe's budget ends it, and TeacherError or ModelError if the teacher cannot be asked, or if no
        sample got a reply, or if most got none and the context does not accept that.
        """
