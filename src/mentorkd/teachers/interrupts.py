"""Ctrl-C and SIGTERM while a teacher is asked: what is in flight is paid for, so it is waited for and kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """A context in which the first Ctrl-C or SIGTERM calls what `call` was given, and acts when the context ends.

    A second one acts at once. Only the main thread can handle signals; in another the context does nothing.
    """

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._received: int | None = None
        self._callback: Callable[[], object] = lambda: None

    def call(self, callback: Callable[[], object]) -> None:
        """Call this at the first signal, or now if it has come. A handler of signals calls it, so it must do next to nothing."""
        self._callback = callback
        if self._received is not None:
            callback()

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # An ignored signal stays ignored (`nohup`); None is a handler that Python could not put back.
                if signal.getsignal(number) not in (None, signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._put_back()
        if self._received is not None:
            signal.raise_signal(self._received)
            raise KeyboardInterrupt  # a handler that only takes note must not make half an annotation a whole one

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        self._put_back()
        self._callback()

    def _put_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
