"""What a form of export is: how it is written, and how it is opened again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mentorkd.generation.engine import Engine
from mentorkd.sharing.source import Source


@dataclass(frozen=True)
class Form:
    """A form in which a learner of a run, or what was written in the run, leaves its folder."""

    write: Callable[[Source, Path, str | None], str | None]
    """Writes into an empty folder; the last argument is one of `dtypes`, or None for a form without any. Returns how a model of
    this form is used, for the section of its card; None for one that is used as the learner's own card says, and for no model."""
    dtypes: Sequence[str] = ()
    """The types of weights to choose from; the first is the default."""
    open: Callable[[Source, Path, str | None], Engine] | None = None
    """An engine over what was written. None for a form that is no model."""
    chooses: Sequence[str] = ("learner", "seed")
    """What is chosen of the run; of the others it has all."""
    served: bool = False
    """Whether what was written is a Hugging Face folder, which servers serve."""
