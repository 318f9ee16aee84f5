"""Texts for clients who wait: an engine takes rows at any time and tells each token at once.

`Engine.sample` finishes a list of prompts. A `LiveEngine` works through an open-ended queue instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Protocol

from mentorkd.errors import MentorkdError, ModelError, explaining
from mentorkd.generation.engine import Engine, FinishReason, SamplingParams
from mentorkd.records import ModelKind, content_id

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

Scored = tuple[int, float]
"""A token id and its log-probability (natural logarithm) under the model's own distribution, at temperature 1."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a text. `finish_reason` is set in the last one."""

    id: int
    logprob: float | None = None
    likeliest: Sequence[Scored] = ()
    """The likeliest tokens at this place, best first; as many as the row asked for."""
    finish_reason: FinishReason | None = None


@dataclass(eq=False, slots=True)
class LiveRow:
    """A text that an engine writes after a prompt, token by token."""

    prompt_ids: Sequence[int]
    params: SamplingParams
    """`n` is 1."""
    end_ids: Collection[int]
    on_token: Callable[[Token], None]
    """Called by the engine's thread."""
    on_error: Callable[[MentorkdError], None]
    """Called instead of the last token, by any thread."""
    _: KW_ONLY
    request: object
    """Shared by the rows of one request."""
    sample: int = 0
    """The number of this text among those of its request."""
    seed: int | None = None
    """Makes the texts of a request repeatable; None draws at random."""
    likeliest: int | None = None
    """How many of the likeliest tokens to tell at each place; None leaves out all log-probabilities."""
    written: int = 0
    """Tokens so far."""
    ended: bool = False
    cancelled: bool = False
    """Set by any thread: the row ends at its next token."""

    def push(self, token: int, logprob: float | None = None, likeliest: Sequence[Scored] = ()) -> bool:
        """Tell the next token; whether the row ends with it."""
        self.written += 1
        finish: FinishReason | None = None
        if token in self.end_ids:
            finish = "stop"
        elif self.written == self.params.max_new_tokens:
            finish = "length"
        self.ended = finish is not None or self.cancelled
        self.on_token(Token(token, logprob, likeliest, finish))
        return self.ended

    def fail(self, error: MentorkdError) -> None:
        """Tell why the row has no more tokens, unless it has ended."""
        if not self.ended:
            self.ended = self.cancelled = True
            self.on_error(error)

    @property
    def settings(self) -> tuple[float, float, int]:
        return self.params.drawing

    @property
    def remaining(self) -> int:
        """Tokens that it may still write."""
        return self.params.max_new_tokens - self.written

    @property
    def repeatable(self) -> bool:
        """Whether its random draws must be the same at every call."""
        return self.seed is not None and not self.params.greedy

    @property
    def own_seed(self) -> int | None:
        """The seed of this text alone, below 2 ** 63; None draws at random."""
        return None if self.seed is None else int(content_id(str(self.seed), str(self.sample)), 16) >> 1


Take = Callable[[int], list[LiveRow]]
"""Gives the rows to begin, beside the given number of rows that are being written.

With 0 it waits for a row. An empty list then means that no more will come.
"""


class LiveEngine(Engine, Protocol):
    """An engine that also writes rows of different clients. It begins what `take` gives, and returns when there is no more.

    A row's tokens depend on the row alone, as far as it is greedy or has a seed. An error of a row reaches the row alone. One of the whole
    engine is raised and loses all rows that are being written; the engine can then be called again.
    """

    tokenizer: PreTrainedTokenizerBase
    kind: ModelKind

    @property
    def joins(self) -> bool:
        """Whether rows join a batch that is being written. Else it asks for rows once a batch is complete."""
        ...

    @property
    def config(self) -> PretrainedConfig: ...

    @property
    def end_ids(self) -> Collection[int]: ...

    def stream(self, take: Take) -> None: ...


def write_fixed(take: Take, write: Callable[[Sequence[LiveRow]], None], name: str) -> None:
    """Write the rows that wait in fixed batches, with the `write` of the engine `name`. An error of a batch is one of its rows alone."""
    while waiting := take(0):
        for batch in _fixed_batches(waiting):
            try:
                with explaining_engine(name):
                    write(batch)
                    if not all(row.ended or row.cancelled for row in batch):
                        raise ModelError(f"the {name} engine left a text without an end")
            except MentorkdError as error:
                for row in batch:
                    row.fail(error)


@contextmanager
def explaining_engine(name: str) -> Iterator[None]:
    """Turn every error of the engine `name` into one for its clients. A fault of the program is logged with its traceback."""
    try:
        with explaining():
            yield
    except MentorkdError:
        raise
    except Exception as error:
        log.exception("the %s engine failed", name)
        raise ModelError(f"the {name} engine failed: {type(error).__name__}: {error}") from error


def _fixed_batches(rows: Sequence[LiveRow]) -> Iterator[list[LiveRow]]:
    """Rows that an engine of fixed batches writes together: of equal settings, and those of a repeatable request alone.

    The random draws of such an engine belong to a batch, so a text with a seed must not have strangers beside it.
    """
    groups: dict[object, list[LiveRow]] = {}
    for row in rows:
        groups.setdefault((row.settings, row.request if row.repeatable else None), []).append(row)
    yield from groups.values()
