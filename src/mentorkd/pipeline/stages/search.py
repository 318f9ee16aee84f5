"""Search: of the trials of a learner, the one with the best validation accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["choose_trial"]

OWN = {"stage", "kind", "learner", "seed", "fingerprint", "target", "outputs", "seconds", "peak_memory_mb", "tokens"}
"""What a trial recorded of itself; all else that the best one recorded holds for the learner."""


def choose_trial(
    trials: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]
) -> tuple[int, dict[str, Any]]:
    """The number of the best of `trials` (of equal ones the first), and the learner's record.

    It is that of the best trial's training, with all that was tried under `search`: `tried` has a trial's `values` and its
    `validation_accuracy`, `chosen` the best one's values.
    """
    found = [record["validation_accuracy"] for record in records]
    best = max(range(len(found)), key=lambda number: (found[number], -number))
    tried = [
        {"values": dict(values), "validation_accuracy": accuracy}
        for values, accuracy in zip(trials, found, strict=True)
    ]
    kept = {key: value for key, value in records[best].items() if key not in OWN}
    return best, {**kept, "search": {"tried": tried, "chosen": dict(trials[best])}}
