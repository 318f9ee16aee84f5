"""Learning curves: rows of metrics.jsonl thinned to what a plot can show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mentorkd.reporting.schema_details import Curve, TrainingPoint, ValidationPoint

__all__ = ["MOST_POINTS", "build_curve"]

MOST_POINTS = 200


def build_curve(learner: str, seed: int, rows: Sequence[Mapping[str, Any]]) -> Curve:
    """The curve of one model; more than `MOST_POINTS` losses are averaged in equal groups, validations are all kept."""
    losses = [row for row in rows if _number(row.get("loss")) is not None]
    size = max(1, math.ceil(len(losses) / MOST_POINTS))
    validation: list[ValidationPoint] = [
        {"step": row["step"], "epoch": _number(row.get("epoch")), "accuracy": accuracy}
        for row in rows
        if (accuracy := _number(row.get("validation_accuracy"))) is not None
    ]
    return {
        "learner": learner,
        "seed": seed,
        "training": [_point(losses[start : start + size]) for start in range(0, len(losses), size)],
        "validation": validation,
    }


def _point(group: Sequence[Mapping[str, Any]]) -> TrainingPoint:
    return {
        "step": group[-1]["step"],
        "epoch": _number(group[-1].get("epoch")),
        "loss": _mean(row.get("loss") for row in group),
        "ce": _mean(row.get("ce") for row in group),
        "divergence": _mean(row.get("divergence") for row in group),
    }


def _mean(values: Iterable[Any]) -> float | None:
    numbers = [number for value in values if (number := _number(value)) is not None]
    return round(math.fsum(numbers) / len(numbers), 6) if numbers else None


def _number(value: Any) -> float | None:
    """JSON has no NaN and no infinity; a point that is neither drawn nor averaged is null."""
    return round(float(value), 6) if isinstance(value, int | float) and math.isfinite(value) else None
