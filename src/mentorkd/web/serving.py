"""The trained learners of a run as models that write text for several clients at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mentorkd.generation.engine import FinishReason, SamplingParams


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a text, as it is written. `finish_reason` is set in the last piece of each sample."""

    text: str
    tokens: int
    """Tokens of this piece, the end token included. A token that adds no text yet comes with an empty piece."""
    finish_reason: FinishReason | None = None
    sample: int = 0
    """The number of the sample, below `SamplingParams.n`."""


class ServedLearners:
    """The learners of a run folder. A model is checked and loaded when it is first asked.

    Models are called `LEARNER@seed-N`; `LEARNER` alone is the learner with the recipe's first seed.
    Every method raises an error of `errors.py` with one line for the user.
    """

    def __init__(
        self, folder: Path, *, learner: str | None = None, seed: int | None = None, verify: bool = True
    ) -> None:
        """`learner` and `seed` limit what is served."""

    def models(self) -> list[str]:
        """The names of all models; the first is the student of the report's headline."""
        raise NotImplementedError

    def stream(
        self,
        model: str,
        prompt: str,
        params: SamplingParams,
        *,
        raw: bool = False,
        stop: Sequence[str] = (),
        seed: int | None = None,
    ) -> AsyncIterator[Delta]:
        """The text that a model writes, piece by piece. Closing the iterator ends the work on it.

        `prompt` is a question, rendered by the learner's own template (`eval_prompt`); `raw` passes it as it is.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Stop the threads of all loaded models."""
