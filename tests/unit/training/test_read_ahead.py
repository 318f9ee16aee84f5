from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from damage import flip
from mentorkd.data.encoding import Example
from mentorkd.distillation.objectives.soft_labels import Distillation
from mentorkd.distillation.scoring import score
from mentorkd.distillation.soft_labels import StoredSoftLabels
from mentorkd.errors import StoreError
from mentorkd.training import train as training
from mentorkd.training.read_ahead import AHEAD, ReadAhead
from tiny_training import learner, losses, rows_for, run


class Numbered:
    """Batches of one row whose id is the batch's number; records which were made, and by which thread."""

    def __init__(self, count: int, broken: int | None = None) -> None:
        self.count, self.broken = count, broken
        self.made: list[int] = []
        self.threads: set[int] = set()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == self.broken:
            raise StoreError(f"batch {index}")
        self.made.append(index)
        self.threads.add(threading.get_ident())
        return {"parts": [{"rows": [Example(str(index), [], [])]}]}


def ids(batch: dict[str, Any]) -> list[str]:
    return [row.rationale_id for part in batch["parts"] for row in part["rows"]]


def test_batches_are_the_same_and_each_is_made_once_in_order() -> None:
    batches = Numbered(11)
    prepared: list[str] = []
    with closing(
        ReadAhead(batches, 2, lambda rows: prepared.extend(row.rationale_id for row in rows))
    ) as ahead:  # the second of two processes
        assert [ids(ahead[n]) for n in range(1, 11, 2)] == [[str(n)] for n in range(1, 11, 2)]
    assert batches.made == [1, 3, 5, 7, 9]
    assert prepared == ["1", "3", "5", "7", "9"]
    assert threading.get_ident() not in batches.threads


def test_no_more_is_made_than_is_asked_for_soon() -> None:
    batches = Numbered(100)
    with closing(ReadAhead(batches, 1, lambda rows: None)) as ahead:
        ahead[0]
    assert len(batches.made) <= AHEAD + 1
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())


def test_an_error_is_raised_where_its_batch_is_asked_for() -> None:
    with closing(ReadAhead(Numbered(5, broken=2), 1, lambda rows: None)) as ahead:
        assert [ids(ahead[n]) for n in (0, 1)] == [["0"], ["1"]]
        with pytest.raises(StoreError, match="batch 2"):
            ahead[2]


@pytest.fixture
def in_a_thread(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trainings make their batches in a thread, as on a GPU; the ids that it read ahead."""
    read: list[str] = []

    def ahead(batches: Any, objective: Distillation, device: torch.device) -> Any:
        def prepare(rows: Sequence[Example]) -> None:
            objective.read_ahead(rows)
            read.extend(row.rationale_id for row in rows)

        return closing(ReadAhead(batches, batches.processes, prepare))

    monkeypatch.setattr(training, "_read_ahead", ahead)
    return read


def imitating(folder: Path) -> Distillation:
    return Distillation([(1.0, StoredSoftLabels([folder], device=torch.device("cpu")))], 0.5, 2.0, True, "forward_kl")


def test_a_training_whose_soft_labels_are_read_ahead_is_the_same(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    mentor, store = learner(seed=1), tmp_path / "store"
    rows = rows_for(mentor, 6)
    how: dict[str, Any] = {"mode": "hidden", "top_k": 8, "temperature": 2.0, "mentor_digest": "m", "target": "arrow"}
    score(mentor, rows, folder=store, bfloat16=False, on_progress=lambda done, total: None, **how)
    changes: dict[str, Any] = {"updates": 2, "batch_size": 2}
    alone = losses(run(learner(seed=2), rows, tmp_path / "alone", objective=imitating(store), **changes))
    read = request.getfixturevalue("in_a_thread")
    objective = imitating(store)
    assert losses(run(learner(seed=2), rows, tmp_path / "ahead", objective=objective, **changes)) == alone
    assert len(read) == 4
    [source] = objective.mentors
    assert isinstance(source, StoredSoftLabels)
    assert not source._read, "what was read ahead is used once"

    flip(store / "hidden.bin", random.Random(0))
    threads = threading.active_count()
    with pytest.raises(StoreError, match=r"the soft labels of rationale \w+ are damaged"):
        run(learner(seed=2), rows, tmp_path / "damaged", objective=imitating(store), updates=1, batch_size=6)
    assert threading.active_count() == threads
