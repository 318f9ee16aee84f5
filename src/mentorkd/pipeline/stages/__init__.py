"""One file for each kind of stage: what the stage reads, does, writes and records.

A stage is a function of the run's context, the stage and a working folder. The working folder survives a kill. The function
leaves its outputs under `out/` there and returns its record. What else the working folder holds is removed afterwards.

A new kind of stage is a file here with a case in `step_of`, its record in `records`, and its code version and place in `graph`.
`plan` estimates its rows and tokens if it has any.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mentorkd.pipeline.records import StageRecord
from mentorkd.pipeline.run_folder import Stage

if TYPE_CHECKING:
    from mentorkd.pipeline.context import RunContext

Step = Callable[["RunContext", Stage, Path], StageRecord]


def step_of(kind: str) -> Step:
    """The function that carries out the stages of a kind. Imported here, because most of them import torch."""
    match kind:
        case "prepare":
            from mentorkd.pipeline.stages.prepare import prepare

            return prepare
        case "annotate":
            from mentorkd.pipeline.stages.annotate import annotate

            return annotate
        case "budget":
            from mentorkd.pipeline.stages.budget import budget

            return budget
        case "score":
            from mentorkd.pipeline.stages.score import score

            return score
        case "train":
            from mentorkd.pipeline.stages.train import train

            return train
        case "search":
            from mentorkd.pipeline.stages.search import search

            return search
        case "augment":
            from mentorkd.pipeline.stages.augment import augment

            return augment
        case "evaluate":
            from mentorkd.pipeline.stages.evaluate import evaluate

            return evaluate
        case "report":
            from mentorkd.pipeline.stages.report import report

            return report
    raise AssertionError(f"no stage is of the kind {kind}")
