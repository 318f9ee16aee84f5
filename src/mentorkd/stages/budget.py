"""Budget: how many updates each arm of a comparison gets, so that no arm is trained more than another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mentorkd.data.encoding import Encoded
from mentorkd.recipe.learner import TrainingConfig
from mentorkd.records import ModelKind
from mentorkd.schedule import training_length, updates_for

__all__ = ["Arm", "budget"]


@dataclass(frozen=True)
class Arm:
    """A learner that is compared: its training rows, and how it would be trained on its own."""

    rows: Sequence[Encoded]
    kind: ModelKind
    config: TrainingConfig


def budget(arms: Mapping[str, Arm], match: Literal["updates", "tokens"], *, seed: int) -> dict[str, Any]:
    """The record of a budget: `number` is the most updates (or target tokens) that any arm would do by its own settings.

    For each arm: `rows`, its `own` updates and target tokens, and the `updates` it gets: as many, or so many that it is
    trained on as many target tokens; where its settings name a number of updates, that.
    """
    own = {name: training_length(arm.rows, arm.kind, arm.config, seed=seed) for name, arm in arms.items()}
    number = max(length.updates if match == "updates" else length.target_tokens for length in own.values())

    def given(arm: Arm) -> int:
        if arm.config.updates is not None:
            return arm.config.updates
        return number if match == "updates" else updates_for(number, arm.rows, arm.kind, arm.config, seed=seed)

    told = {
        name: {"rows": len(arm.rows), "own": asdict(own[name]), "updates": given(arm)} for name, arm in arms.items()
    }
    return {"match": match, "number": number, "arms": told}
