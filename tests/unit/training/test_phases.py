"""Trainings that end at a plateau of their validation accuracy, with a cool-down or without."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mentorkd.errors import TrainingError
from mentorkd.training.checkpoints import last_checkpoint
from mentorkd.training.phases import Phases, find_plateau
from mentorkd.training.train import TrainingResult
from tiny_training import assert_same, learner, rows_for, run
from train_to_plateau import Killed, train_to_plateau
from two_processes import start_two


@pytest.mark.parametrize(
    ("accuracies", "patience", "found"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 0.25, None),
        ([0.1, 0.5, 0.4, 0.5, 0.3, 0.9], 0.25, 50),  # an equal accuracy is no better one
        ([0.5, 0.1, 0.1], 0.25, None),  # two validations are too few
        ([0.5, 0.1, 0.1, 0.1], 0.25, 40),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 0.25, None),  # it has not begun to learn
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.7, 0.7, 0.7], 0.25, 110),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.7, 0.7, 0.7], 0.3, None),
    ],
)
def test_a_plateau_is_a_share_of_the_updates_without_a_better_accuracy(
    accuracies: list[float], patience: float, found: int | None
) -> None:
    assert find_plateau({10 * n: accuracy for n, accuracy in enumerate(accuracies, 1)}, patience) == found


def log(accuracies: Sequence[float], distance: int) -> list[dict[str, float]]:
    return [{"step": distance * n, "eval_accuracy": accuracy} for n, accuracy in enumerate(accuracies, 1)]


def test_the_rate_is_constant_until_the_plateau_and_then_falls_to_0() -> None:
    phases = Phases(100, patience=0.25, cooldown=0.2)
    phases.observe(log([0.5, 0.5, 0.5, 0.5], 10))
    assert (phases.plateau, phases.end) == (40, 48)
    assert [phases.rate(update) for update in (0, 39, 40, 41, 44, 47, 48)] == [1, 1, 1, 7 / 8, 0.5, 1 / 8, 0]


def test_without_a_plateau_the_cool_down_ends_at_the_limit() -> None:
    phases = Phases(120, patience=0.25, cooldown=0.2)
    phases.observe(log([0.1 * n for n in range(1, 8)], 12))
    assert (phases.plateau, phases.latest, phases.end) == (None, 100, 120)
    assert [phases.rate(update) for update in (0, 100, 110, 119, 120)] == [1, 1, 0.5, 1 / 20, 0]
    phases.observe([{"step": 12, "eval_accuracy": 0.9}, *log([0.1] * 9, 12)[1:]])
    assert phases.plateau == 48


def test_a_plateau_in_the_cool_down_is_none() -> None:
    phases = Phases(120, patience=0.25, cooldown=0.2)
    phases.observe(log([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.6, 0.6, 0.6], 12))
    assert (phases.plateau, phases.end) == (None, 120)


@pytest.mark.parametrize(("limit", "cooldown"), [(1, 0.2), (3, 1.0), (7, 0.01), (100, 0.0)])
def test_every_length_has_an_end_within_the_limit(limit: int, cooldown: float) -> None:
    for plateau in (None, *range(1, limit + 1)):
        phases = Phases(limit, 0.25, cooldown, plateau)
        assert 0 <= phases.end <= limit
        assert all(0 <= phases.rate(update) <= 1 for update in range(phases.end + 1))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingResult, dict[str, torch.Tensor]]:
    return train_to_plateau(tmp_path_factory.mktemp("undisturbed") / "run")[:2]


def test_a_training_cools_down_after_its_plateau(tmp_path: Path) -> None:
    result, _, steps = train_to_plateau(tmp_path)
    assert (result.updates, result.phases.plateau, result.phases.limit) == (26, 20, 40)
    assert [row["step"] for row in result.history if "validation_accuracy" in row] == [4, 8, 12, 16, 20, 24, 26]
    assert (result.best_step, result.validation_accuracy) == (26, 0.6)
    rates = {row["step"]: row["learning_rate"] for row in result.history if "loss" in row}
    expected = [0.0, 0.25, 0.5, 0.75] + 17 * [1.0] + [5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert list(rates) == list(range(1, 27))
    assert list(rates.values()) == pytest.approx([3e-3 * share for share in expected], abs=1e-12)
    assert steps[20][1] == 40
    assert steps[-1] == (26, 26)


def test_without_a_cool_down_it_ends_at_the_plateau(tmp_path: Path) -> None:
    result, _, _ = train_to_plateau(tmp_path, cooldown=0.0, schedule="linear")
    assert (result.updates, result.phases.plateau, result.best_step) == (20, 20, 20)
    assert last_checkpoint(tmp_path).name == "checkpoint-20"  # type: ignore[union-attr]


@pytest.mark.parametrize(("killed_at", "kept"), [(18, 16), (21, 20), (25, 24)])
def test_a_resumed_training_decides_alike(
    killed_at: int, kept: int, undisturbed: tuple[TrainingResult, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    """Killed before the plateau, just after it, and in the cool-down."""
    with pytest.raises(Killed):
        train_to_plateau(tmp_path, killed_at=killed_at)
    assert last_checkpoint(tmp_path).name == f"checkpoint-{kept}"  # type: ignore[union-attr]
    torch.manual_seed(99)
    result, resumed, _ = train_to_plateau(tmp_path)
    assert result == undisturbed[0]
    assert_same(resumed, undisturbed[1], rtol=0, atol=0)


@pytest.mark.parametrize("cooldown", [0.3, 0.0])
def test_a_training_that_was_finished_does_no_further_update(cooldown: float, tmp_path: Path) -> None:
    """As when the process is killed between the last checkpoint and what is made of it."""
    first, whole, _ = train_to_plateau(tmp_path, cooldown=cooldown)
    again, same, steps = train_to_plateau(tmp_path, cooldown=cooldown)
    assert steps == [(first.updates, first.updates)]
    assert again == first
    assert_same(same, whole, rtol=0, atol=0)


def test_patience_needs_validation(tmp_path: Path) -> None:
    loaded = learner()
    with pytest.raises(TrainingError, match="got `patience` without validation"):
        run(loaded, rows_for(loaded, 4), tmp_path, patience=0.25)


@pytest.mark.slow
def test_two_processes_decide_alike(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    two = start_two("train_to_plateau.py", tmp_path / "two")
    result, trained, _ = train_to_plateau(tmp_path / "one", dropout=False, gradient_accumulation=2)
    assert [process.wait(timeout=200) for process in two] == [0, 0]
    history = json.loads((tmp_path / "two" / "history.json").read_text())
    assert [row["step"] for row in history] == [row["step"] for row in result.history]
    assert history[-1]["step"] == result.updates == 26
    assert_same(load_file(tmp_path / "two" / "trained.safetensors"), trained, rtol=1e-3, atol=1e-4)
