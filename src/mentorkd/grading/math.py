"""Symbolic math answers, graded by `math-verify` in a worker process that cannot hang its caller.

Simplifying the wrong formula takes forever or all memory, and no exception can be trusted to end it. So the worker has
a wall-clock limit: it is killed when that has passed, the answer counts as `no_answer`, and a new worker takes over.
Should its caller be killed first, it ends by itself: at the end of its input, or of the processor time it was given.
"""

from __future__ import annotations

import importlib.util
import json
import math
import queue
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any

from mentorkd.errors import DataError, MissingExtraError, TeacherError
from mentorkd.records import Verdict

__all__ = ["MathVerifier"]

_MEMORY_BYTES = 4 * 2**30
_START_SECONDS = 120.0
_SPARE_SECONDS = 2
"""Processor time beyond the wall-clock limit, so that the caller, if it lives, is always the first to lose patience."""


class MathVerifier:
    """Grades texts against symbolic gold answers; safe under several threads, which take turns.

    `seconds` bounds the grading of one text by the wall clock. Raises MissingExtraError without `math-verify`.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise MissingExtraError("answer: math", "math")
        self.seconds = seconds
        self.killed = 0
        self._worker: _Worker | None = None
        self._turn = threading.Lock()

    def __enter__(self) -> MathVerifier:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._turn:
            if self._worker is not None:
                self._worker.kill()
                self._worker = None

    def grade(self, text: str, gold: str) -> tuple[str | None, Verdict]:
        """The answer found in `text`, as SymPy writes it, and the verdict; what takes too long is `no_answer`.

        Raises DataError if `gold` cannot be read as math.
        """
        reply = self._ask({"text": text, "gold": gold})
        if reply is None:
            return None, "no_answer"
        if "error" in reply:
            raise DataError(f"the gold answer is {gold!r}, expected a number or a formula in LaTeX; correct the data")
        return reply["predicted"], reply["verdict"]

    def _ask(self, question: dict[str, str]) -> dict[str, Any] | None:
        with self._turn:
            if self._worker is None:
                self._worker = _Worker(self.seconds)
            reply = self._worker.ask(question, self.seconds)
            if reply is None:
                self._worker.kill()
                self._worker = None
                self.killed += 1
            return reply


class _Worker:
    """One process that reads questions and writes verdicts, a JSON line each."""

    def __init__(self, seconds: float) -> None:
        # Not multiprocessing: its children run the caller's main module again, which need not be written for that.
        code = f"from mentorkd.grading.math import _serve; _serve({seconds!r})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, name="math-verify", daemon=True)
        self._listener.start()
        if self._hear(_START_SECONDS) is None:
            self.kill()
            raise TeacherError("the math-verify worker did not start; try: python -c 'import math_verify'")

    def ask(self, question: dict[str, str], seconds: float) -> dict[str, Any] | None:
        """The worker's reply; None if it is late or the worker died."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self._hear(seconds)
        return None if line is None else dict(json.loads(line))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def _hear(self, seconds: float) -> str | None:
        try:
            return self._lines.get(timeout=seconds)
        except queue.Empty:
            return None

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)


def _serve(seconds: float) -> None:
    """The worker: answer questions from stdin until it ends."""
    out = sys.stdout
    sys.stdout = sys.stderr  # what libraries print must not stand among the replies
    _limit("AS", _MEMORY_BYTES)
    _limit("CORE", 0)  # out of time is no crash to look into
    _judge("$\\frac{1}{2}$", "0.5")  # loads the grammars, which takes longer than any grading
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        # The kernel ends what goes beyond, inside a C function too, where no watching thread would get its turn.
        _limit("CPU", math.ceil(time.process_time() + seconds) + _SPARE_SECONDS)
        question = json.loads(line)
        print(json.dumps(_judge(question["text"], question["gold"])), file=out, flush=True)


def _limit(resource_name: str, most: int) -> None:
    """Bound what this process may take; the hard limit stays, since a later call may have to raise the bound."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    name = getattr(resource, f"RLIMIT_{resource_name}")
    hard = resource.getrlimit(name)[1]
    resource.setrlimit(name, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _judge(text: str, gold: str) -> dict[str, Any]:
    # Their own limits are off: they rest on signals, which do not end a loop inside a C function.
    from math_verify import parse, verify

    try:
        wanted = parse(gold, parsing_timeout=None) or parse(f"${gold}$", parsing_timeout=None)
        if not wanted:
            return {"error": "gold"}
        found = parse(text, parsing_timeout=None)
        if not found:
            return {"predicted": None, "verdict": "no_answer"}
        right = verify(wanted, found, timeout_seconds=None)
        return {"predicted": str(found[0]), "verdict": "correct" if right else "wrong"}
    except Exception:  # SymPy fails in every way there is, memory and recursion among them
        return {"predicted": None, "verdict": "no_answer"}
