from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mentorkd.data.encoding import Example
from mentorkd.distillation.objectives.base import CrossEntropy, Student, Sums
from mentorkd.errors import TrainingError
from mentorkd.training import trainer
from mentorkd.training.checkpoints import last_checkpoint
from mentorkd.training.finite import Fault, FiniteLosses
from tiny_training import learner, rows_for, run


def row(name: str) -> Example:
    return Example(name, [], [])


def test_a_loss_is_checked_at_once_where_this_is_free() -> None:
    checked = FiniteLosses(runs_behind=False)
    checked.add(1, [row("a")], torch.tensor(2.0))
    with pytest.raises(TrainingError, match=r"^the loss became inf at step 2, .* stopped before that update;") as e:
        checked.add(2, [row("b"), row("c")], torch.tensor(torch.inf))
    assert "rationales in the batch: b, c." in str(e.value)


def test_the_first_fault_is_told_with_its_rows() -> None:
    checked = FiniteLosses(runs_behind=True)
    for step, value in enumerate([1.0, 2.0, torch.nan, torch.inf], start=5):
        checked.add(step, [row(f"r{step}")], torch.tensor(value))
    fault = checked.first_fault(8)
    assert fault is not None
    assert fault.update == 7
    assert str(fault.error).startswith(
        "the loss became nan at step 7, and training stopped after step 8, with nothing saved"
    )
    assert "rationales in the batch: r7." in str(fault.error)
    assert checked.first_fault(8) is None, "each loss is checked once"


class Breaking(CrossEntropy):
    """Its loss is not a number in one update."""

    def __init__(self, update: int) -> None:
        self.update, self.seen, self.rows = update, 0, list[str]()

    def sums(self, student: Student) -> Sums:
        self.seen += 1
        sums = super().sums(student)
        if self.seen != self.update:
            return sums
        self.rows = [each.rationale_id for each in student.rows]
        return Sums({kind: value * torch.nan for kind, value in sums.loss.items()}, sums.metrics)


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device runs behind, and a log step comes only at the end of a round: else each update of a short training is one."""
    monkeypatch.setattr(trainer, "runs_behind", lambda device: True)
    made = trainer.MentorTrainer.__init__

    def rarely(self: Any, **kwargs: Any) -> None:
        kwargs["args"].logging_steps = 1000
        made(self, **kwargs)

    monkeypatch.setattr(trainer.MentorTrainer, "__init__", rarely)


@pytest.mark.usefixtures("behind")
@pytest.mark.parametrize(
    ("broken", "stopped", "kept"),
    [(2, 2, None), (3, 4, "checkpoint-2")],
    ids=["in the update of a checkpoint", "before the next checkpoint"],
)
def test_a_device_that_runs_behind_saves_nothing_after_the_first_fault(
    broken: int, stopped: int, kept: str | None, tmp_path: Path
) -> None:
    validated: list[int] = []
    student, objective = learner(), Breaking(broken)

    def validate() -> float:
        validated.append(1)
        return 0.5

    with pytest.raises(TrainingError, match=f"at step {broken}, and training stopped after step {stopped}") as caught:
        run(student, rows_for(student, 8), tmp_path, objective=objective, epochs=3, validate=validate)
    assert len(objective.rows) == 4
    assert f"rationales in the batch: {', '.join(objective.rows)}." in str(caught.value)
    checkpoint = last_checkpoint(tmp_path)
    assert (checkpoint and checkpoint.name) == kept
    assert len(validated) == (kept is not None)


@pytest.mark.usefixtures("behind")
def test_between_logs_losses_are_checked_every_few_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "CHECK_EVERY", 3)
    looked: list[int] = []
    look = FiniteLosses.first_fault

    def looking(self: FiniteLosses, updates: int) -> Fault | None:
        looked.append(updates)
        return look(self, updates)

    monkeypatch.setattr(FiniteLosses, "first_fault", looking)
    student = learner()
    run(student, rows_for(student, 2), tmp_path, updates=7, batch_size=2)
    assert list(dict.fromkeys(looked)) == [3, 6, 7]
