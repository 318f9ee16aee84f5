"""Rows for a `LiveEngine` that come at chosen times, and what it writes after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mentorkd.errors import MentorkdError
from mentorkd.generation.engine import SamplingParams
from mentorkd.generation.live import LiveEngine, LiveRow, Token

__all__ = ["Written", "write"]


class Written:
    """One row, and its tokens so far."""

    def __init__(
        self, engine: LiveEngine, prompt_ids: Sequence[int], params: SamplingParams, **options: object
    ) -> None:
        self.tokens: list[Token] = []
        self.errors: list[MentorkdError] = []
        self.cancel_after: int | None = None
        own: Any = {"request": self, **options}
        self.row = LiveRow(prompt_ids, params, engine.end_ids, self._add, self.errors.append, **own)

    def _add(self, token: Token) -> None:
        self.tokens.append(token)
        self.row.cancelled = len(self.tokens) + 1 == self.cancel_after  # it ends at its next token

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


def write(engine: LiveEngine, rows: Sequence[Written], *, every: int = 0) -> None:
    """Let an engine write rows: all at once, or one each time that it has asked `every` times for more."""
    waiting = [written.row for written in rows]
    asked = 0

    def take(live: int) -> list[LiveRow]:
        nonlocal asked
        asked += 1
        taken = waiting[:]
        if every:
            taken = waiting[:1] if asked % every == 1 or not live else []
        del waiting[: len(taken)]
        return taken

    engine.stream(take)
