"""What a stage tells from another process: progress, warnings and errors."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Small models make hundreds of steps a second; nobody reads that fast.
_PROGRESS_SECONDS = 0.1

LoggedWarning = tuple[str, int, str]
"""The logger's name, the level, and the text."""


class RemoteTraceback(Exception):
    """Shows, as the cause of an error, where it was raised in another process."""


class SentWarnings(logging.Handler):
    """Sends warnings to the process that shows them, which logs them as its own."""

    def __init__(self, send: Callable[[LoggedWarning], None]) -> None:
        super().__init__(logging.WARNING)
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send((record.name, record.levelno, record.getMessage()))


@contextmanager
def sending_warnings(send: Callable[[LoggedWarning], None]) -> Iterator[None]:
    """Send what mentorkd warns of in this process."""
    handler = SentWarnings(send)
    logging.getLogger("mentorkd").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("mentorkd").removeHandler(handler)


def throttled(
    send: Callable[[tuple[int, int]], None], seconds: float = _PROGRESS_SECONDS
) -> Callable[[int, int], None]:
    """Progress that is sent at most once in a number of seconds, and at the end."""
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done >= total or now - last > seconds:
            last = now
            send((done, total))

    return progress


def picklable(error: BaseException) -> BaseException:
    """The error, or an error with the same message if this one cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
