"""Made-up records of stages."""

from __future__ import annotations

from typing import Any

from mentorkd.pipeline.records import FilterRow, OwnTexts, PrepareRecord, TrainRecord
from mentorkd.records import EncodingCounts

__all__ = ["own_texts", "prepare_record", "train_record"]


def prepare_record(**more: int) -> PrepareRecord:
    """The record of a task's questions; `more` are further splits."""
    return PrepareRecord(questions={"train": 40, "validation": 6, "test": 10, **more}, faults=[])  # type: ignore[typeddict-unknown-key]


def own_texts(**changes: Any) -> OwnTexts:
    """What a learner wrote for a round, as it is imitated: 80 texts, a quarter of them correct."""
    values: dict[str, Any] = {
        "texts": 80,
        "verdicts": {"correct": 20, "wrong": 50, "no_answer": 10},
        "mean_tokens": 22.04,
        "unfinished": 0.125,
        "reencoded": 0.05,
        "writer_kl": 0.707,
        "trained_kl": 0.616,
        "writer_entropy": 1.5,
        "trained_entropy": 1.4,
        "overlap": 0.45,
        "staleness": 0.082,
    }
    return OwnTexts(**(values | changes))


def train_record(*, kept: int = 8, **changes: Any) -> TrainRecord:
    """The record of a training on `kept` rows; one more was too long."""
    values: dict[str, Any] = {
        "filters": [FilterRow("teacher", "correct", kept + 1, kept + 1)],
        "encoding": EncodingCounts(kept + 1, kept, 1, 0, 0, 20 * kept),
        "rows": kept,
        "updates": 5,
        "epochs": 1.0,
        "target_tokens": 20 * kept,
        "matched": None,
        "best_step": 5,
        "validation_accuracy": 0.5,
        "fused_loss": True,
        "precision": "float32",
        "parameters": 1000,
    }
    return TrainRecord(**(values | changes))
