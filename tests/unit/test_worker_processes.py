"""What cannot be read in one process is an error in the other, and no process waits for it."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator

import pytest

from echoing import UnreadableIn
from mentorkd.worker_processes import Messages, Worker, failure

SECONDS = 30


@pytest.fixture
def messages() -> Messages:
    return queue.SimpleQueue()


@pytest.fixture
def worker(messages: Messages) -> Iterator[Worker]:
    worker = Worker("echoing:serve", os.environ, messages, "setup")
    yield worker
    worker.hang_up()
    worker.wait(SECONDS)


def test_a_task_that_cannot_be_read_fails_and_the_worker_still_ends(worker: Worker, messages: Messages) -> None:
    worker.send("who")
    assert messages.get(timeout=SECONDS)[1:] == ("echo", "setup")
    _, _, process = messages.get(timeout=SECONDS)
    unreadable = UnreadableIn(0)
    unreadable.process = process
    worker.send(unreadable)
    _, event, value = messages.get(timeout=SECONDS)
    assert (event, str(failure(value))) == ("failed", "no module named absent")
    worker.hang_up()
    assert messages.get(timeout=SECONDS)[1] == "ended"
    assert "SIGTERM" in worker.ending("")


def test_a_message_that_cannot_be_read_is_a_failure(worker: Worker, messages: Messages) -> None:
    unreadable = UnreadableIn(0)
    unreadable.process = os.getpid()
    worker.send(unreadable)
    assert messages.get(timeout=SECONDS)[1:] == ("echo", "setup")
    _, event, value = messages.get(timeout=SECONDS)
    assert (event, str(failure(value))) == ("failed", "no module named absent")
    assert "UnreadableIn" in str(failure(value).__cause__) or "__init__" in str(failure(value).__cause__)
