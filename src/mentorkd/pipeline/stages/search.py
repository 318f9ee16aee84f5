"""Search: of the trials of a learner, the one with the best validation accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mentorkd.files import link
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.records import Search, SearchRecord, TrainRecord, TrialOutcome
from mentorkd.pipeline.run_folder import Stage
from mentorkd.recipe.search import trials_of


def search(context: RunContext, stage: Stage, workdir: Path) -> SearchRecord:
    """Publish the model and the logs of the best trial as the learner's own."""
    trials = trials_of(context.recipe.learners[stage.learner])
    names = [stage.inputs[f"trial/{number}"] for number in range(len(trials))]
    best, record = choose_trial(trials, [context.folder.record_of(TrainRecord, name) for name in names])
    for output in context.folder.record(names[best]).outputs:
        link(context.folder.output(names[best], output), workdir / "out" / output)
    return record


def choose_trial(trials: Sequence[Mapping[str, Any]], records: Sequence[TrainRecord]) -> tuple[int, SearchRecord]:
    """The number of the best of `trials` (of equal ones the first), and the record of its training with all that was tried."""
    tried = []
    for values, record in zip(trials, records, strict=True):
        assert record.validation_accuracy is not None, "the recipe's checks refuse a search without validation"
        tried.append(TrialOutcome(dict(values), record.validation_accuracy))
    best = max(range(len(tried)), key=lambda number: (tried[number].validation_accuracy, -number))
    outcome = Search(tried, tried[best].values)
    return best, SearchRecord(**(vars(records[best]) | {"kind": "search", "tokens": None, "search": outcome}))
