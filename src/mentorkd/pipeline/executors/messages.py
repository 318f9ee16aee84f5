"""What a stage tells from another process: progress and warnings."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mentorkd.worker_processes import LoggedWarning, SentWarnings

# Small models make hundreds of steps a second; nobody reads that fast.
_PROGRESS_SECONDS = 0.1


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
