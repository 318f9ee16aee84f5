"""One file for each kind of stage: what the stage reads, does, writes and records.

A stage is a function of the run's context, the stage and a working folder. The working folder survives a kill. The function
leaves its outputs under `out/` there and returns its record. What else the working folder holds is removed afterwards.

A new kind of stage is a file here with its function in `step_of`, its record in `records`, and its code version and place in
`graph`. `plan` estimates its rows and tokens if it has any.
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
    """The function that carries out the stages of a kind. Imported here, because most import torch."""
    from mentorkd.pipeline.stages.annotate import annotate
    from mentorkd.pipeline.stages.augment import augment
    from mentorkd.pipeline.stages.budget import budget
    from mentorkd.pipeline.stages.curate import curate
    from mentorkd.pipeline.stages.evaluate import evaluate
    from mentorkd.pipeline.stages.prepare import prepare
    from mentorkd.pipeline.stages.report import report
    from mentorkd.pipeline.stages.rounds import rounds
    from mentorkd.pipeline.stages.sample import sample
    from mentorkd.pipeline.stages.score import score
    from mentorkd.pipeline.stages.search import search
    from mentorkd.pipeline.stages.train import train

    steps: dict[str, Step] = {
        "prepare": prepare,
        "annotate": annotate,
        "curate": curate,
        "budget": budget,
        "score": score,
        "train": train,
        "rounds": rounds,
        "search": search,
        "augment": augment,
        "evaluate": evaluate,
        "sample": sample,
        "report": report,
    }
    return steps[kind]
