"""What an executor is: it carries out stages somewhere, and hands their results to the pipeline, which alone publishes them."""

from __future__ import annotations

from collections.abc import Callable, Set
from pathlib import Path
from typing import NamedTuple, Protocol

from mentorkd.pipeline.records import StageRecord
from mentorkd.pipeline.run_folder import Stage

StageProgress = Callable[[Stage, int, int], None]
Note = Callable[[str, Stage], None]

CHECKED_KINDS = frozenset({"annotate", "train", "evaluate", "sample"})
"""Kinds of stages that are checked before anything runs."""


class Finished(NamedTuple):
    """A stage that is carried out and not yet published."""

    stage: Stage
    workdir: Path
    """The folder of the attempt whose outputs are to be published."""
    record: StageRecord


class StageExecutor(Protocol):
    """Carries out stages."""

    def check(self, kinds: Set[str]) -> None:
        """Refuse at once what would fail at a stage of these kinds. Called once, before any stage starts."""

    def free(self, stage: Stage) -> bool:
        """Whether this stage may be started now."""

    def start(self, stage: Stage) -> None:
        """Start a stage whose needs are finished."""

    def next_finished(self) -> Finished:
        """Wait for one of the started stages. Raises what the stage raises."""

    def close(self) -> None:
        """Stop the stages that still run, as a SIGTERM would."""
