"""The texts of a list of prompts that the decoding loop has still to write."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field

from mentorkd.errors import MentorkdError
from mentorkd.generation.engine import SamplingParams

REFILL_SHARE = 8
"""Rows join a batch once more than one row in REFILL_SHARE has ended, because reading a prompt takes a pass of the model."""


@dataclass(eq=False, slots=True)
class TextRow:
    """A text that the loop writes after a prompt."""

    prompt_ids: Sequence[int]
    params: SamplingParams
    end_ids: Collection[int]
    _: KW_ONLY
    own_seed: int | None
    stopped: Callable[[Sequence[int]], bool] | None = None
    """Whether the ids that are written end the text."""
    likeliest: None = None
    ids: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def settings(self) -> tuple[float, float, int]:
        return self.params.drawing

    @property
    def remaining(self) -> int:
        return self.params.max_new_tokens - len(self.ids)

    def push(self, token: int, logprob: float | None = None, likeliest: object = ()) -> bool:
        """Take the next token; whether the row ends with it."""
        self.ids.append(token)
        self.ended = (
            token in self.end_ids
            or len(self.ids) == self.params.max_new_tokens
            or (self.stopped is not None and self.stopped(self.ids))
        )
        return self.ended

    def fail(self, error: MentorkdError) -> None:
        raise error

    def begin_again(self) -> None:
        self.ids, self.ended = [], False


class Backlog:
    """Rows in batches. A batch begins when the one before has ended; with `refill`, rows join as soon as others have left.

    Batches that tokens limit grow as prompts become shorter. So rows no longer join once the batch of the next row is twice as large: they
    begin with it.
    """

    def __init__(self, batches: Iterable[Sequence[TextRow]], *, refill: bool) -> None:
        self._rows = deque((row, len(batch)) for batch in batches for row in batch)
        self._refill, self._room = refill, 0

    def take(self, live: int) -> list[TextRow]:
        """The rows that join a number of others."""
        if not self._rows:
            return []
        _, size = self._rows[0]
        if not live:
            self._room = max(self._room, size)
        free = self._room - live
        if live and (not self._refill or size >= 2 * self._room or free * REFILL_SHARE <= self._room):
            return []
        return [self._rows.popleft()[0] for _ in range(min(free, len(self._rows)))]
