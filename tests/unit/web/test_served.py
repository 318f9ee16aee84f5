from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mentorkd.pipeline.run_folder import RunFolder
from mentorkd.web.served import Served
from mentorkd.web.serving import ServedLearners


def test_who_asks_first_at_the_same_time_shares_the_learners(small_run: Path) -> None:
    served, together = Served(), threading.Barrier(4)

    def ask(_: int) -> ServedLearners:
        together.wait()
        with served.of(small_run / "run") as learners:
            return learners

    with ThreadPoolExecutor(4) as pool:
        assert len({id(each) for each in pool.map(ask, range(4))}) == 1


def test_learners_that_are_trained_again_are_closed_after_their_last_answer(
    small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[ServedLearners] = []
    done = threading.Event()
    monkeypatch.setattr(ServedLearners, "close", lambda learners: (closed.append(learners), done.set()))
    served, run = Served(), small_run / "run"
    with served.of(run) as old:
        os.utime(RunFolder(run).mark("learners/student/seed-1/train"))
        with served.of(run) as new:
            assert new is not old
        assert closed == []
    assert done.wait(10)
    assert closed == [old]
    served.close()
    assert closed == [old, new]
