"""Rounds: of the trainings of a learner with own texts, the one with the best validation accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mentorkd.files import link
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.records import RoundOutcome, RoundsRecord, TrainRecord, best_round
from mentorkd.pipeline.run_folder import Stage
from mentorkd.pipeline.selection_log import SELECTION


def rounds(context: RunContext, stage: Stage, workdir: Path) -> RoundsRecord:
    """Publish the model and the selection of the best round as the learner's own, and the metrics of all rounds as one log."""
    names = {int(role.rpartition("/")[2]): name for role, name in stage.inputs.items()}
    best, record = choose_round({number: context.folder.record_of(TrainRecord, name) for number, name in names.items()})
    for output in {"model", SELECTION} & {*context.folder.record(names[best]).outputs}:
        link(context.folder.output(names[best], output), workdir / "out" / output)
    rows = _joined([context.folder.metrics(name) for name in names.values()])
    (workdir / "out" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return record


def _joined(logs: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of all trainings, with the steps and epochs counted over all of them."""
    rows: list[dict[str, Any]] = []
    for log in logs:
        before = {key: rows[-1][key] if rows else 0 for key in ("step", "epoch")}
        rows += [{**row, **{key: row[key] + before[key] for key in before}} for row in log]
    return rows


def choose_round(records: Mapping[int, TrainRecord]) -> tuple[int, RoundsRecord]:
    """The number of the best training of all (see `best_round`), and its record with the outcome of each."""
    outcomes = [
        RoundOutcome(
            number=number,
            updates=record.updates,
            target_tokens=record.target_tokens,
            seconds=record.seconds,
            validation_accuracy=record.validation_accuracy,
            own_texts=record.own_texts,
            frontier=record.frontier,
        )
        for number, record in records.items()
    ]
    best = best_round(outcomes).number
    before = [record for number, record in records.items() if number < best]
    of_all = {
        "kind": "rounds",
        "tokens": None,
        "updates": sum(outcome.updates for outcome in outcomes),
        "target_tokens": sum(outcome.target_tokens for outcome in outcomes),
        "epochs": round(sum(record.epochs for record in records.values()), 4),
        "best_step": records[best].best_step + sum(record.updates for record in before),
        "rounds": outcomes,
    }
    return best, RoundsRecord(**(vars(records[best]) | of_all))
