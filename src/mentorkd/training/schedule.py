"""How long a training takes: its plan of micro-batches, by its own epochs or by a given number of updates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, Literal, get_args

from mentorkd.data.batching import BatchPlan, plan_batches
from mentorkd.data.encoding import Example, Task
from mentorkd.recipe.learner import TrainingConfig
from mentorkd.records import ModelKind

__all__ = ["Arm", "Length", "Schedule", "budget", "schedule_training", "training_length", "updates_for"]


@dataclass(frozen=True)
class Schedule:
    """The micro-batches of a training, and after which updates it stops to log, save and validate."""

    plan: BatchPlan
    accumulation: int
    """Micro-batches of the plan in an update, in each process."""
    updates: int
    rounds: list[int]
    """Updates that end a round: the ends of epochs, or `epochs` equal distances where the number of updates is given."""
    epoch_ends: list[int]
    """Updates that end a pass over the rows; the last may lie behind the last update."""

    def epoch_at(self, update: int) -> float:
        """Passes over the rows after so many updates."""
        whole = sum(end <= update for end in self.epoch_ends)
        if whole == len(self.epoch_ends):
            return float(whole)
        start, end = [0, *self.epoch_ends][whole : whole + 2]
        return whole + (update - start) / (end - start)


@dataclass(frozen=True)
class Length:
    """How much a training is."""

    updates: int
    target_tokens: int


def schedule_training(
    rows: Sequence[Example],
    kind: ModelKind,
    config: TrainingConfig,
    *,
    seed: int,
    processes: int = 1,
    updates: int | None = None,
) -> Schedule:
    """The schedule of `updates` optimiser steps, or of `config.updates`, or of whole epochs.

    With a number of updates, rows are cycled, and rounds end at equal distances, as many as there are epochs in `config`:
    so learners with unlike numbers of rows are trained, and validated, equally often.
    """
    updates = updates or config.updates
    step_by_step = any(row.task for row in rows)
    per_update = config.gradient_accumulation * processes
    plan = plan_batches(
        [row.padded_sides(kind) for row in rows],
        seed=seed,
        epochs=config.epochs if updates is None else None,
        batches=None if updates is None else updates * per_update,
        batch_size=None if config.tokens_per_batch else config.batch_size * (2 if step_by_step else 1),
        tokens_per_batch=config.tokens_per_batch,
        groups=[row.group for row in rows],
        window=config.length_window * per_update,
    )
    ends = [math.ceil(end / per_update) for end in plan.epoch_ends]
    rounds = ends
    if updates is not None:
        rounds = [math.ceil(updates * number / config.epochs) for number in range(1, config.epochs + 1)]
    if step_by_step:
        plan = _tasks_apart(plan, rows)
    accumulation = config.gradient_accumulation * (2 if step_by_step else 1)
    return Schedule(plan, accumulation, updates or ends[-1], rounds, ends)


def _tasks_apart(plan: BatchPlan, rows: Sequence[Example]) -> BatchPlan:
    """Each batch as two micro-batches, one a task: together, short answers would be padded to the length of rationales."""
    parts = [[row for row in batch if rows[row].task == task] for batch in plan.batches for task in get_args(Task)]
    return BatchPlan(parts, [2 * end for end in plan.epoch_ends])


def training_length(
    rows: Sequence[Example], kind: ModelKind, config: TrainingConfig, *, seed: int, processes: int = 1
) -> Length:
    """What a learner's own settings come to; arms are matched by the longest of them."""
    made = schedule_training(rows, kind, config, seed=seed, processes=processes)
    return Length(made.updates, sum(_target_tokens(rows, made.plan)))


def updates_for(
    target_tokens: int,
    rows: Sequence[Example],
    kind: ModelKind,
    config: TrainingConfig,
    *,
    seed: int,
    processes: int = 1,
) -> int:
    """The fewest updates, on cycled rows, that train on so many target tokens."""
    epochs = math.ceil(target_tokens / sum(len(row.target_ids) for row in rows))
    whole = config.model_copy(update={"epochs": max(1, epochs), "updates": None})
    made = schedule_training(rows, kind, whole, seed=seed, processes=processes)
    seen = accumulate(_target_tokens(rows, made.plan))
    batches = next(number for number, tokens in enumerate(seen, 1) if tokens >= target_tokens)
    return math.ceil(batches / (made.accumulation * processes))


def _target_tokens(rows: Sequence[Example], plan: BatchPlan) -> list[int]:
    """Target tokens of every micro-batch."""
    return [sum(len(rows[row].target_ids) for row in batch) for batch in plan.batches]


@dataclass(frozen=True)
class Arm:
    """A learner that is compared: its training rows, and how it would be trained on its own."""

    rows: Sequence[Example]
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
