"""Engines of fixed batches: what a batch that fails does to its rows, and to others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from live_rows import Written, write
from mentorkd.errors import ModelError
from mentorkd.generation.engine import SamplingParams
from mentorkd.generation.live import LiveRow, Take, write_fixed

HOT = SamplingParams(max_new_tokens=2, temperature=2.0)


class Engine:
    """Writes the end token. At temperature 2 it does what it is told to."""

    end_ids = (1,)

    def __init__(self, hot: Any) -> None:
        self.hot = hot

    def stream(self, take: Take) -> None:
        write_fixed(take, self._write, "tiny")

    def _write(self, batch: Sequence[LiveRow]) -> None:
        if batch[0].params == HOT:
            self.hot(batch)
            return
        for row in batch:
            row.push(1)


def divide(batch: Sequence[LiveRow]) -> None:
    batch[0].push(1)
    raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize(
    ("hot", "message", "failed"),
    [
        (divide, "the tiny engine failed: ZeroDivisionError: division by zero", 1),
        (lambda batch: None, "the tiny engine left a text without an end", 2),
    ],
)
def test_an_error_of_a_batch_is_one_of_its_rows(hot: Any, message: str, failed: int) -> None:
    engine: Any = Engine(hot)
    lost = [Written(engine, [5], HOT) for _ in range(2)]
    others = [Written(engine, [5], SamplingParams(max_new_tokens=2, temperature=heat)) for heat in (0.0, 1.0)]
    write(engine, [*lost, *others])
    assert [row.ids for row in others] == [[1], [1]]
    assert not any(row.errors for row in others)
    errors = [error for row in lost for error in row.errors]
    assert [str(error) for error in errors] == [message] * failed
    assert all(isinstance(error, ModelError) for error in errors)
