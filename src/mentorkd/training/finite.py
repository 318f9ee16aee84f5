"""The check that losses are finite. A GPU must be waited for to tell, so its losses are kept and looked at every few updates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mentorkd.data.encoding import Example
from mentorkd.errors import TrainingError

CHECK_EVERY = 16
"""Updates from one check to the next, unless something is logged, validated or saved before."""


class Fault(NamedTuple):
    """A loss that is not finite."""

    update: int
    error: TrainingError


class FiniteLosses:
    """Checks the losses of a training: each at once or, if the device `runs_behind`, those since the last check together."""

    def __init__(self, *, runs_behind: bool) -> None:
        self.runs_behind = runs_behind
        self._unchecked: list[tuple[int, Sequence[Example], Tensor]] = []

    def add(self, update: int, rows: Sequence[Example], loss: Tensor) -> None:
        """Take the loss of some rows of an update that is about to be made. Raises TrainingError if it is checked at once."""
        if self.runs_behind:
            self._unchecked.append((update, rows, loss.detach()))
        elif not math.isfinite(value := loss.item()):
            raise _error(value, update, rows, "before that update")

    def first_fault(self, updates: int) -> Fault | None:
        """The first of the losses since the last check that is not finite. `updates` have been made."""
        unchecked, self._unchecked = self._unchecked, []
        values = torch.stack([loss for *_, loss in unchecked]).tolist() if unchecked else []
        for value, (update, rows, _) in zip(values, unchecked, strict=True):
            if not math.isfinite(value):
                return Fault(
                    update, _error(value, update, rows, f"after step {updates}, with nothing saved in between")
                )
        return None


def _error(value: float, update: int, rows: Sequence[Example], stopped: str) -> TrainingError:
    return TrainingError(
        f"the loss became {value} at step {update}, and training stopped {stopped}; rationales in the batch: "
        f"{', '.join(row.rationale_id for row in rows)}. Lower the learning rate or set `precision: float32`; checkpoints of "
        "finished epochs are kept"
    )
