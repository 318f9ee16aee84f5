"""Signals that wait for the end of a context. With a server and real processes: test_openai.py."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from mentorkd.teachers.interrupts import Interrupts


@pytest.fixture
def seen() -> Iterator[list[int]]:
    """The signals that reach a handler which only takes note of them."""
    noted: list[int] = []
    before = {number: signal.signal(number, lambda n, _: noted.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    yield noted
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_and_nothing_after_the_context_runs(seen: list[int], number: int) -> None:
    called: list[str] = []

    def run() -> None:
        with Interrupts() as interrupts:
            interrupts.call(lambda: called.append("at once"))
            signal.raise_signal(number)
            assert (called, seen) == (["at once"], [])
            interrupts.call(lambda: called.append("late"))
            signal.raise_signal(signal.SIGINT)
            assert (called, seen) == (["at once", "late"], [signal.SIGINT])

    with pytest.raises(KeyboardInterrupt):
        run()
    assert seen == [signal.SIGINT, number]


def test_a_signal_is_not_lost_in_an_error(seen: list[int]) -> None:
    def run() -> None:
        with Interrupts():
            signal.raise_signal(signal.SIGTERM)
            raise ValueError

    with pytest.raises(KeyboardInterrupt) as caught:
        run()
    assert (seen, type(caught.value.__context__)) == ([signal.SIGTERM], ValueError)


def test_without_a_signal_the_handlers_are_put_back(seen: list[int]) -> None:
    with Interrupts():
        pass
    signal.raise_signal(signal.SIGINT)
    assert seen == [signal.SIGINT]


def test_an_ignored_signal_stays_ignored(seen: list[int]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    with Interrupts():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_leave_signals_alone(seen: list[int]) -> None:
    def enter() -> None:
        with Interrupts():
            pass

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGTERM]
