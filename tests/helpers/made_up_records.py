"""A made-up record of a training."""

from __future__ import annotations

from typing import Any

from mentorkd.pipeline.records import FilterRow, TrainRecord
from mentorkd.records import EncodingCounts

__all__ = ["train_record"]


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
