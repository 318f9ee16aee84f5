"""Which stage of a run starts next."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Sequence

from mentorkd.pipeline.run_folder import Stage

_PASSED = 32
"""Stages that are looked at, at most, to find one for a free place."""


class Schedule:
    """The stages of a run, each of which may start when all that it needs are finished.

    They start in the order of the plan or, `by_chain`, the stage first that has the longest chain of stages waiting for it.

    Args:
        running: the names of stages that have been started and are not finished.
    """

    def __init__(self, stages: Sequence[Stage], running: Collection[str], *, by_chain: bool) -> None:
        self._stages, self._running = stages, running
        self._numbers = {stage.name: number for number, stage in enumerate(stages)}
        self._lacking = [len(stage.needs) for stage in stages]
        self._readers: list[list[int]] = [[] for _ in stages]
        for number, stage in enumerate(stages):
            for need in stage.needs:
                self._readers[self._numbers[need]].append(number)
        self._ranks = [-length for length in self._chains()] if by_chain else [0] * len(stages)
        self._open = [number for number, lacking in enumerate(self._lacking) if not lacking]
        self._ready: list[tuple[int, int]] = []

    def settle(self, finished: Callable[[Stage], object | None]) -> Iterator[Stage]:
        """The stages that turn out to be finished already, each after those that it needs."""
        while self._open:
            number = heapq.heappop(self._open)
            stage = self._stages[number]
            if stage.name in self._running:
                continue
            if finished(stage):
                self.finish(stage)
                yield stage
            else:
                heapq.heappush(self._ready, (self._ranks[number], number))

    def start(self, free: Callable[[Stage], bool]) -> Stage | None:
        """Take the first stage for which there is a free place, and give it; None if there is none.

        A stage whose place is taken holds up the next ones no longer than a few of them.
        """
        passed: list[tuple[int, int]] = []
        try:
            while self._ready and len(passed) < _PASSED:
                item = heapq.heappop(self._ready)
                if free(stage := self._stages[item[1]]):
                    return stage
                passed.append(item)
            return None
        finally:
            for item in passed:
                heapq.heappush(self._ready, item)

    def finish(self, stage: Stage) -> None:
        """Count a stage as finished for those that wait for it."""
        for reader in self._readers[self._numbers[stage.name]]:
            self._lacking[reader] -= 1
            if not self._lacking[reader]:
                heapq.heappush(self._open, reader)

    def number(self, stage: Stage) -> int:
        """The place of a stage in the plan, from 1."""
        return 1 + self._numbers[stage.name]

    def _chains(self) -> list[int]:
        """For each stage, the length of the longest chain of stages that wait for it."""
        chains = [0] * len(self._stages)
        for number in reversed(range(len(self._stages))):
            for reader in self._readers[number]:
                chains[number] = max(chains[number], chains[reader] + 1)
        return chains


def most_at_once(stages: Sequence[Stage]) -> int:
    """How many of the stages can run at the same time, if each takes equally long."""
    level: dict[str, int] = {}
    for stage in stages:
        level[stage.name] = 1 + max((level.get(need, 0) for need in stage.needs), default=0)
    counts = [0] * (1 + max(level.values(), default=0))
    for each in level.values():
        counts[each] += 1
    return max(counts, default=1)
