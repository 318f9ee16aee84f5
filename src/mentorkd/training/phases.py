"""The phases of a training under a limit of updates: a rate until validation stops improving, and a cool-down.

Everything follows from the accuracies that the training has logged, and its checkpoints hold these: a resumed training decides as
before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

LEAST_VALIDATIONS = 3
"""Validations in a row without a better accuracy that a plateau needs at least. Early in a training one of them is a large share of the
updates so far."""


@dataclass
class Phases:
    """The last update and the cool-down of a training, as far as its validations are known.

    Without `patience` the training ends at the limit. A cool-down that no plateau begins ends at the limit, too.
    """

    limit: int
    """The most updates."""
    patience: float | None = None
    """Share of the updates so far without a better accuracy after which there is a plateau; None never finds one."""
    cooldown: float = 0.0
    """Updates of the cool-down, as a share of those before it."""
    plateau: int | None = None
    """The update whose validation found the plateau."""

    @property
    def latest(self) -> int:
        """The last update at which a cool-down can begin and end within the limit."""
        return self.limit - round(self.limit * self.cooldown / (1 + self.cooldown))

    @property
    def end(self) -> int:
        """The last update."""
        if self.plateau is None:
            return self.limit
        return min(self.limit, self.plateau + math.ceil(self.plateau * self.cooldown))

    def rate(self, update: int) -> float:
        """The factor of the learning rate after `update` updates: 1 until the cool-down, which falls linearly to 0 at the end."""
        start = self.latest if self.plateau is None else self.plateau
        return 1.0 if update <= start else (self.end - update) / (self.end - start)

    def observe(self, log: Iterable[Mapping[str, Any]]) -> None:
        """Find the plateau in the rows of a Trainer's log. A plateau in a cool-down is none."""
        if self.patience is not None and self.plateau is None:
            accuracies = {int(row["step"]): row["eval_accuracy"] for row in log if "eval_accuracy" in row}
            before = {step: accuracy for step, accuracy in accuracies.items() if step <= self.latest}
            self.plateau = find_plateau(before, self.patience)


def find_plateau(accuracies: Mapping[int, float], patience: float) -> int | None:
    """The first update at which the best accuracy is older than a share of the updates so far; None without one.

    A training that has given no correct answer has not begun to learn, and has no plateau.
    """
    best_step, best, later = 0, 0.0, 0
    for step, accuracy in accuracies.items():
        if accuracy > best:
            best_step, best, later = step, accuracy, 0
            continue
        later += 1
        if best and later >= LEAST_VALIDATIONS and step - best_step >= patience * step:
            return step
    return None
