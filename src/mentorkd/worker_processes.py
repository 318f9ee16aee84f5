"""Worker processes: programs that read tasks from stdin and write messages to stdout, both as pickles.

A worker ends when its stdin closes, so none outlives the process that started it, however that process ended. What a worker leaves
then is what a SIGTERM leaves: it ends at once, or, while it asks a teacher, when the replies in flight are kept.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import IO, Any

Send = Callable[[str, Any], None]
"""Sends a message: an event (progress, note, warning, finished, failed, ...) and its value."""

Receive = Callable[[], Any]
"""Waits for a task."""

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


def log_warning(warning: LoggedWarning) -> None:
    """Log a warning of another process as one of this."""
    logger, level, text = warning
    logging.getLogger(logger).log(level, "%s", text)


class Worker:
    """One worker process, and a thread that puts its messages into `messages`. It touches nothing before its first task."""

    def __init__(
        self,
        program: str,
        environment: Mapping[str, str],
        messages: Messages,
        setup: Any,
        *,
        log: IO[bytes] | None = None,
    ) -> None:
        """`program`: the function that the process runs, as `module:function`; `setup` is its first task, sent with the second.

        What it and its libraries print goes to `log`, or to the stderr of this process.
        """
        module, _, function = program.partition(":")
        # Not multiprocessing: its children run the caller's main module again, which need not be written for that. In a
        # session of its own, so that Ctrl-C reaches this process alone.
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                # The garbage collector takes a fifth of the time of imports, and finds nothing.
                f"import gc, sys; gc.disable(); sys.path[:] = {sys.path!r}; from {module} import {function}; "
                f"gc.enable(); {function}()",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=dict(environment),
            start_new_session=True,
        )
        self._messages = messages
        self._unsent = [setup]
        threading.Thread(target=self._read_messages, daemon=True).start()

    def send(self, task: Any) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, and `_read_messages` says so
            for value in (*self._unsent, task):
                pickle.dump(value, self._process.stdin)
            self._process.stdin.flush()
        self._unsent.clear()

    def ending(self, out_of_memory: str) -> str:
        """How the process ended, in words; `out_of_memory` is the advice for the likely reason of a SIGKILL."""
        code = self._process.wait()
        if code >= 0:
            return f"ended with exit code {code}; run the same command to go on"
        reason = f" (out of memory? then {out_of_memory})" if code == -signal.SIGKILL else ""
        return f"was ended by {signal.Signals(-code).name}{reason}; run the same command to go on"

    def hang_up(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def wait(self, seconds: float | None) -> None:
        """Wait until it has ended, and end it by force after `seconds`; None waits for as long as it takes."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read_messages(self) -> None:
        assert self._process.stdout is not None
        last: tuple[str, Any] = ("ended", None)
        try:
            with self._process.stdout as stream, suppress(EOFError, pickle.UnpicklingError):
                while True:
                    self._messages.put((self, *pickle.load(stream)))
        except BaseException as error:  # a message needs a module or memory that this process lacks
            last = "failed", (error, "\n" + traceback.format_exc())
        finally:
            self._messages.put((self, *last))


Messages = queue.SimpleQueue[tuple[Worker, str, Any]]
"""Messages of several workers: the worker, the event (`ended` or `failed` is the last), and its value."""


def failure(value: tuple[BaseException, str]) -> BaseException:
    """The error that a worker raised, the value of the event `failed`, with its place in the worker as its cause."""
    error, where = value
    error.__cause__ = RemoteTraceback(where)
    return error


@contextmanager
def serving() -> Iterator[tuple[Send, Receive]]:
    """In a worker: what sends messages to its owner, and what receives its tasks.

    Warnings of mentorkd are sent. An error of the block is sent as `failed`. After the block, the process waits for its stdin to
    close, which ends it at any time.
    """
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with messages
    lock = threading.Lock()  # several threads may make progress

    def send(event: str, value: Any) -> None:
        with lock:
            pickle.dump((event, value), stream)
            stream.flush()

    logging.getLogger("mentorkd").addHandler(SentWarnings(partial(send, "warning")))
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read_tasks, args=(tasks,), daemon=True).start()
    try:
        yield send, partial(_next, tasks)
    except BaseException as error:
        send("failed", (picklable(error), "\n" + traceback.format_exc()))
    threading.Event().wait()


def _next(tasks: queue.SimpleQueue[Any]) -> Any:
    task = tasks.get()
    if isinstance(task, BaseException):
        raise task
    return task


def _read_tasks(tasks: queue.SimpleQueue[Any]) -> None:
    """Put the tasks, or the error of reading one, into a queue, until stdin closes."""
    stream = sys.stdin.buffer
    try:
        with suppress(EOFError, pickle.UnpicklingError):
            while True:
                tasks.put(pickle.load(stream))
    except BaseException as error:  # a task needs a module or memory that this process lacks
        tasks.put(error)
        while stream.read(2**16):
            pass
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


def picklable(error: BaseException) -> BaseException:
    """The error, or an error with the same message if this one cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
