"""Length of a training: its plan of micro-batches, by its own epochs or by a given number of updates, and matched updates."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any, Literal, get_args

from mentorkd.data.batching import Batches, BatchPlan, plan_batches, sides_of
from mentorkd.data.encoding import Example
from mentorkd.errors import TrainingError
from mentorkd.recipe.learner import VALIDATION_SHARE, TrainingConfig
from mentorkd.recipe.objectives import Task
from mentorkd.records import ModelKind


@dataclass(frozen=True)
class Schedule:
    """The micro-batches of a training, and the updates after which it logs, saves and validates."""

    plan: BatchPlan
    accumulation: int
    """Micro-batches of the plan an update, in each process."""
    updates: int
    rounds: list[int]
    """Updates that end a round: the ends of epochs, or `epochs` equal distances if the number of updates is given."""
    epoch_ends: list[int]
    """Updates that end a pass over the rows; the last can be after the last update."""

    def epoch_at(self, update: int) -> float:
        """Passes over the rows after `update` updates."""
        whole = sum(end <= update for end in self.epoch_ends)
        if whole == len(self.epoch_ends):
            return float(whole)
        start, end = [0, *self.epoch_ends][whole : whole + 2]
        return whole + (update - start) / (end - start)

    def until(self, update: int, processes: int) -> Schedule:
        """The schedule without the updates after `update`. Its rounds are those of all."""
        if update == self.updates:
            return self
        plan = BatchPlan(self.plan.batches[: update * self.accumulation * processes], self.plan.epoch_ends)
        return replace(self, plan=plan, updates=update)


@dataclass(frozen=True)
class Length:
    """Updates and target tokens of a training."""

    updates: int
    target_tokens: int


def schedule_training(
    rows: Sequence[Example],
    kind: ModelKind,
    config: TrainingConfig,
    *,
    seed: int,
    updates: int | None = None,
) -> Schedule:
    """The schedule of `updates` optimiser steps, or of `config.updates`, or of whole epochs.

    With a number of updates, rows are cycled, and rounds end at equal distances, as many as `config` has epochs. So learners with
    different numbers of rows are trained and validated equally often. `batch_size` counts rationales. Objectives with tasks get one
    micro-batch a task, unless rows are packed.
    """
    updates = updates or config.updates
    task_of = [row.task for row in rows]
    tasks = [task for task in get_args(Task) if task in task_of] or [None]
    per_update = config.gradient_accumulation * config.processes
    plan = plan_batches(
        sides_of(rows, kind),
        seed=seed,
        epochs=config.epochs if updates is None else None,
        batches=None if updates is None else updates * per_update,
        batch_size=None if config.tokens_per_batch else config.batch_size * len(tasks),
        tokens_per_batch=config.tokens_per_batch,
        groups=[row.group for row in rows],
        window=config.length_window * per_update,
        packed=config.split == "packed",
    )
    ends = [math.ceil(end / per_update) for end in plan.epoch_ends]
    rounds = ends
    if updates is not None:
        rounds = [math.ceil(updates * number / config.epochs) for number in range(1, config.epochs + 1)]
    micro_batches = 1 if config.split == "packed" else len(tasks)
    if micro_batches > 1:  # together, short answers would be padded to the length of rationales
        parts = ([row for row in batch if task_of[row] == task] for batch in plan.batches for task in tasks)
        plan = BatchPlan(Batches(parts), [len(tasks) * end for end in plan.epoch_ends])
    return Schedule(plan, config.gradient_accumulation * micro_batches, updates or ends[-1], rounds, ends)


DECODING_COST = 12
"""The forward passes over a token in a batch of training whose time a decoded token takes: decoding reads all weights for a token of each
question. Fixed and not measured, because a training that is resumed must validate after the same updates."""


def rounds_a_validation(schedule: Schedule, rows: Sequence[Example], questions: int) -> int:
    """The fewest rounds from one validation to the next with which validations take at most `VALIDATION_SHARE`.

    An update costs three forward passes over its source and target tokens (one forward, two backward). A validation costs
    `DECODING_COST` a token of as many answers of the mean target length.
    """
    lengths = array("i", (row.length for row in rows))
    training = 3 * sum(_tokens(lengths, schedule.plan))
    validation = questions * DECODING_COST * sum(_target_lengths(rows)) / len(rows)
    affordable = int(VALIDATION_SHARE * training / validation) if validation else len(schedule.rounds)
    return math.ceil(len(schedule.rounds) / max(1, affordable))


def training_length(rows: Sequence[Example], kind: ModelKind, config: TrainingConfig, *, seed: int) -> Length:
    """The length of a training by the learner's own settings; 0 without rows, unless they give a number of updates."""
    if not rows:
        return Length(config.updates or 0, 0)
    schedule = schedule_training(rows, kind, config, seed=seed)
    return Length(schedule.updates, sum(_tokens(_target_lengths(rows), schedule.plan)))


def updates_for(
    target_tokens: int, rows: Sequence[Example], kind: ModelKind, config: TrainingConfig, *, seed: int
) -> int:
    """The fewest updates, on cycled rows, that train on at least `target_tokens` target tokens."""
    lengths = _target_lengths(rows)
    epochs = math.ceil(target_tokens / sum(lengths))
    whole = config.model_copy(update={"epochs": max(1, epochs), "updates": None})
    schedule = schedule_training(rows, kind, whole, seed=seed)
    totals = accumulate(_tokens(lengths, schedule.plan))
    batches = next(number for number, tokens in enumerate(totals, 1) if tokens >= target_tokens)
    return math.ceil(batches / (schedule.accumulation * config.processes))


def _target_lengths(rows: Sequence[Example]) -> array[int]:
    return array("i", (len(row.target_ids) for row in rows))


def _tokens(lengths: Sequence[int], plan: BatchPlan) -> Iterator[int]:
    """Tokens of every micro-batch."""
    return (sum(lengths[row] for row in batch) for batch in plan.batches)


Matched = Literal["updates", "tokens", "compute"]
"""What a budget holds equal between arms."""


@dataclass(frozen=True)
class Arm:
    """A learner of a comparison: its training rows and its own training settings."""

    rows: Sequence[Example]
    kind: ModelKind
    config: TrainingConfig
    operations_a_token: int = 0
    """Floating-point operations of its training, a target token."""
    operations_before: int = 0
    """Those of all that it learns from."""

    def operations(self, target_tokens: int) -> int:
        return self.operations_before + self.operations_a_token * target_tokens


def match_updates(
    arms: Mapping[str, Arm], match: Matched, *, seed: int, operations: float | None = None
) -> dict[str, Any]:
    """Matched updates of arms: each is trained as long as the longest of them would be by its own settings.

    Returns `match`, `number` (the most updates, target tokens or floating-point operations of any arm by its own settings; for
    `compute`, `operations` instead if they are given), and for each arm its `rows`, its `own` updates and target tokens, and its
    matched `updates`: `number` itself, or the fewest that train on `number` target tokens, or with which the arm and all that it learns
    from take at least `number` operations. An arm whose settings give a number of updates keeps that, but with `compute`.

    Raises TrainingError for an arm for whose training `number` operations leave nothing.
    """
    own = {name: training_length(arm.rows, arm.kind, arm.config, seed=seed) for name, arm in arms.items()}
    if match == "compute":
        most = max(arms[name].operations(length.target_tokens) for name, length in own.items())
        number = most if operations is None else round(operations)
        updates = {name: _updates_of_compute(name, arm, own[name], number, seed=seed) for name, arm in arms.items()}
    else:
        number = max(length.updates if match == "updates" else length.target_tokens for length in own.values())
        updates = {
            name: arm.config.updates
            or (number if match == "updates" else updates_for(number, arm.rows, arm.kind, arm.config, seed=seed))
            for name, arm in arms.items()
        }
    records: dict[str, dict[str, Any]] = {}
    for name, arm in arms.items():
        before = {"operations_before": arm.operations_before} if match == "compute" else {}
        records[name] = {"rows": len(arm.rows), "own": asdict(own[name]), "updates": updates[name], **before}
    return {"match": match, "number": number, "arms": records}


def _updates_of_compute(name: str, arm: Arm, own: Length, number: int, *, seed: int) -> int:
    if arm.operations(own.target_tokens) == number:
        return own.updates
    tokens = math.ceil((number - arm.operations_before) / arm.operations_a_token)
    if tokens < 1:
        raise TrainingError(
            f"{name}: what it learns from takes {arm.operations_before:.3g} floating-point operations, and `match: compute` gives "
            f"{number:.3g} to each arm; raise `compute`, or train its mentors for fewer updates"
        )
    return updates_for(tokens, arm.rows, arm.kind, arm.config, seed=seed)
