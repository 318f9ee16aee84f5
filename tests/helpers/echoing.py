"""A worker that sends back what it gets, and values that only one of the two processes can read."""

from __future__ import annotations

import os
from typing import Any

from mentorkd.worker_processes import serving

__all__ = ["UnreadableIn", "serve"]


class UnreadableIn:
    """A value whose reading fails in one process."""

    def __init__(self, process: int) -> None:
        if process == os.getpid():
            raise ImportError("no module named absent")
        self.process = process

    def __reduce__(self) -> tuple[Any, ...]:
        return UnreadableIn, (self.process,)


def serve() -> None:
    with serving() as (send, receive):
        while True:
            task = receive()
            if task == "who":
                task = os.getpid()
            send("echo", task)
