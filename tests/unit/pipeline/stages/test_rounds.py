"""Rounds: the log of all trainings, and a collapse when it happens."""

from __future__ import annotations

from types import SimpleNamespace

from made_up_records import own_texts, train_record
from mentorkd.pipeline.run_folder import Stage
from mentorkd.pipeline.stages.rounds import _joined, choose_round
from mentorkd.pipeline.stages.train import _warn_of_collapse
from mentorkd.recipe.learner import Learner


def test_the_log_counts_steps_over_all_rounds() -> None:
    logs = [
        [{"step": 1, "epoch": 0.5}, {"step": 2, "epoch": 1.0, "loss": 3.0}],
        [{"step": 1, "epoch": 0.25, "loss": 2.0}],
    ]
    assert _joined(logs) == [
        {"step": 1, "epoch": 0.5},
        {"step": 2, "epoch": 1.0, "loss": 3.0},
        {"step": 3, "epoch": 1.25, "loss": 2.0},
    ]


def test_the_best_round_is_chosen_and_the_last_of_equals() -> None:
    def best(*accuracies: float | None) -> int:
        return choose_round({n: train_record(validation_accuracy=one) for n, one in enumerate(accuracies)})[0]

    assert best(0.2, 0.5, 0.3) == 1
    assert best(0.5, 0.5, 0.3) == 1
    assert best(None, None) == 1


def test_a_collapse_is_a_note_with_advice() -> None:
    learner = Learner.model_validate(
        {"model": "m", "rationales": ["teacher", "self"], "own_texts": {}, "soft_labels": "mentor"}
    )

    def notes(**changes: object) -> list[str]:
        lines: list[str] = []
        before = SimpleNamespace(record_of=lambda kind, name: {"before": train_record(validation_accuracy=0.8)}[name])
        stage = Stage("s", "train", "", {"initial": "before"}, "", learner="own", round=2)
        _warn_of_collapse(SimpleNamespace(folder=before, note=lines.append), stage, learner, train_record(**changes))
        return lines

    [note] = notes(own_texts=own_texts(trained_entropy=0.2), validation_accuracy=0.3)
    assert note.startswith(
        "own, round 2: entropy fell from 1.500 to 0.200 nats per token and validation accuracy fell from 80.0 to 30.0 %"
    )
    assert "{self: forward_kl}" in note
    assert notes(own_texts=own_texts(), validation_accuracy=0.7) == []
    assert notes(validation_accuracy=0.1) == []  # not a round
