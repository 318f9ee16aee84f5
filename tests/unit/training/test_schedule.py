from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from mentorkd.data.encoding import Example
from mentorkd.distillation.objectives.step_by_step import StepByStep
from mentorkd.recipe.learner import TrainingConfig
from mentorkd.training.schedule import (
    DECODING_COST,
    Length,
    rounds_a_validation,
    schedule_training,
    training_length,
    updates_for,
)
from tiny_training import learner, paired_rows, rows_for, run


def rows(count: int, **about: Any) -> list[Example]:
    return [Example(f"r{n}", [5] * (n % 5 + 2), [6] * (n % 7 + 3), **about) for n in range(count)]


def config(**settings: Any) -> TrainingConfig:
    return TrainingConfig(**{"epochs": 4, "batch_size": 4, **settings})


def test_without_a_number_of_updates_rounds_are_epochs() -> None:
    schedule = schedule_training(rows(10), "seq2seq", config(), seed=0)
    assert (schedule.updates, schedule.rounds, schedule.epoch_ends) == (12, [3, 6, 9, 12], [3, 6, 9, 12])
    assert [schedule.epoch_at(step) for step in (3, 4, 12)] == [1, pytest.approx(4 / 3), 4]


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_with_a_number_of_updates_rounds_are_equal_distances_and_epochs_are_passes(kind: str) -> None:
    schedule = schedule_training(rows(10), kind, config(updates=20), seed=0)  # type: ignore[arg-type]
    assert len(schedule.plan.batches) == schedule.updates == 20
    assert schedule.rounds == [5, 10, 15, 20]
    assert schedule.epoch_at(20) == pytest.approx(20 / 3)
    whole = schedule_training(rows(10), kind, config(epochs=7), seed=0)  # type: ignore[arg-type]
    assert schedule.plan.batches == whole.plan.batches[:20]


def test_the_given_number_overrides_the_recipes_and_counts_whole_accumulation_steps() -> None:
    schedule = schedule_training(
        rows(10), "seq2seq", config(updates=9, gradient_accumulation=2, processes=2), seed=0, updates=5
    )
    assert (schedule.updates, len(schedule.plan.batches)) == (5, 20)
    assert schedule.rounds == [2, 3, 4, 5]


def test_arms_of_different_sizes_can_get_equal_updates_or_tokens() -> None:
    small, large = rows(10), rows(31)
    lengths = [training_length(arm, "seq2seq", config(), seed=0) for arm in (small, large)]
    assert lengths[0] == Length(12, 4 * sum(len(row.target_ids) for row in small))
    assert lengths[1] == Length(32, 4 * sum(len(row.target_ids) for row in large))
    updates = updates_for(lengths[1].target_tokens, small, "seq2seq", config(), seed=0)
    plan = schedule_training(small, "seq2seq", config(), seed=0, updates=updates).plan
    tokens = [sum(len(small[row].target_ids) for row in batch) for batch in plan.batches]
    assert sum(tokens) >= lengths[1].target_tokens > sum(tokens[:-1])


@pytest.mark.parametrize("several", ["gradient_accumulation", "processes"])
def test_updates_for_counts_steps_of_several_micro_batches(several: str) -> None:
    every = rows(8)
    tokens = sum(len(row.target_ids) for row in every)
    how = config(batch_size=1, **{several: 2})
    assert updates_for(2 * tokens, every, "causal", how, seed=0) == 8
    assert updates_for(1, every, "causal", how, seed=0) == 1


def test_step_by_step_a_batch_counts_rationales_and_is_two_micro_batches() -> None:
    every = [Example(f"r{n}", [5], [6], f"r{n}", task) for n in range(9) for task in ("predict", "explain")]  # type: ignore[arg-type]
    every.append(Example("bare", [5], [6], None, "predict"))  # an answer without a rationale
    schedule = schedule_training(every, "seq2seq", config(batch_size=2, gradient_accumulation=3), seed=0)
    assert schedule.accumulation == 6
    assert schedule.updates == -(-len(schedule.plan.batches) // 6)
    for answers, reasons in zip(schedule.plan.batches[::2], schedule.plan.batches[1::2], strict=True):
        assert 1 <= len(answers) <= 3
        assert {every[row].task for row in answers} == {"predict"}
        assert {every[row].task for row in reasons} <= {"explain"}
        names = [{every[row].rationale_id for row in part} for part in (answers, reasons)]
        assert names[0] - {"bare"} == names[1]
    tokens = training_length(every, "seq2seq", config(), seed=0)
    assert updates_for(tokens.target_tokens, every, "seq2seq", config(), seed=0) == tokens.updates
    assert len(schedule_training(every, "seq2seq", config(), seed=0, updates=7).plan.batches) == 14


def test_empty_micro_batches_add_nothing_to_a_training(tmp_path: Path) -> None:
    """A bare answer has no row with the task explain."""
    student = learner()
    rows = [*paired_rows(student, 2, step_by_step=True), *paired_rows(student, 3, step_by_step=True)[-2:-1]]
    result = run(student, rows, tmp_path, objective=StepByStep(), batch_size=1)
    assert result.updates == 3
    assert all(math.isfinite(row["loss"]) for row in result.history)
    assert sum(row["tokens"] for row in result.history) == sum(len(row.target_ids) for row in rows)


@pytest.mark.parametrize(("questions", "interval"), [(0, 1), (1, 1), (3, 2), (8, 4), (1000, 20)])
def test_validations_take_a_share_of_a_trainings_cost(questions: int, interval: int) -> None:
    every = rows(35)  # of 4 source and 6 target tokens on average
    schedule = schedule_training(every, "seq2seq", config(epochs=20), seed=0)
    assert rounds_a_validation(schedule, every, questions) == interval
    count = math.ceil(20 / interval)
    training = 3 * 20 * sum(row.length for row in every)
    validation = questions * DECODING_COST * sum(len(row.target_ids) for row in every) / len(every)
    assert count == 1 or count * validation <= 0.15 * training
    assert interval == 1 or math.ceil(20 / (interval - 1)) * validation > 0.15 * training


def test_an_interval_of_validations_is_found_and_the_end_is_validated(tmp_path: Path) -> None:
    student = learner()
    result = run(
        student,
        rows_for(student, 8),
        tmp_path,
        epochs=7,
        validate_every="auto",
        validate=lambda: 0.5,
        questions=4,
    )
    assert result.validate_every is not None
    assert result.validate_every > 1
    ends = [2 * number for number in range(1, 8)]
    steps = [row["step"] for row in result.history if "validation_accuracy" in row]
    assert steps == sorted({*ends[result.validate_every - 1 :: result.validate_every], 14})
