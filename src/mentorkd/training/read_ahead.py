"""Batches that a thread makes while a device works on those before: collation, and reading soft labels from the disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from torch.utils.data import Dataset

from mentorkd.data.encoding import Example

AHEAD = 3
"""Micro-batches that are made before they are asked for; the loader itself asks for one more than is trained on."""


class Batches(Protocol):
    """Micro-batches by their number, each a function of it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


class ReadAhead(Dataset[dict[str, Any]]):
    """The same `batches`. A thread makes the next ones of a process that takes every `stride`-th, and calls `prepare` with their rows.

    An error is raised where its batch is asked for. `close` ends the thread.
    """

    def __init__(self, batches: Batches, stride: int, prepare: Callable[[Sequence[Example]], None]) -> None:
        self.batches, self.stride, self.prepare = batches, stride, prepare
        self._thread = ThreadPoolExecutor(1, "read-ahead")
        self._made: dict[int, Future[dict[str, Any]]] = {}

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        wanted = range(index, len(self), self.stride)[: AHEAD + 1]
        self._made = {n: self._made.get(n) or self._thread.submit(self._make, n) for n in wanted}
        return self._made[index].result()

    def _make(self, index: int) -> dict[str, Any]:
        batch = self.batches[index]
        for part in batch["parts"]:
            self.prepare(part["rows"])
        return batch

    def close(self) -> None:
        """Wait for the batch that is being made, and make no other."""
        self._thread.shutdown(cancel_futures=True)
