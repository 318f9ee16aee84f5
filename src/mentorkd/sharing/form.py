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

    write: Callable[[Source, Path, str | None], None]
    """Writes into an empty folder; the last argument is one of `dtypes`, or None for a form without any."""
    dtypes: Sequence[str] = ()
    """The types of weights to choose from; the first is the default."""
    open: Callable[[Source, Path, str | None], Engine] | None = None
    """An engine over what was written. None for a form that is no model."""
    served: bool = False
    """Whether what was written is a Hugging Face folder, which servers serve."""
