"""Symbolic math answers, graded by `math-verify` in a worker process that cannot block its caller.

Simplifying some formulas takes unlimited time or memory, and no exception ends that reliably. The worker therefore has a
wall-clock limit: after that time it is killed, the answer counts as `no_answer`, and a new worker replaces it. If the
caller is killed first, the worker ends by itself, at the end of its input or of its processor-time limit.
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
from typing import Any

from mentorkd.errors import DataError, MissingExtraError, TeacherError
from mentorkd.records import Verdict

_MEMORY_BYTES = 4 * 2**30
_START_SECONDS = 120.0
_SPARE_SECONDS = 2
"""Processor time beyond the wall-clock limit, so that a living caller always reaches its limit first."""


class MathVerifier:
    """Grades texts against symbolic gold answers. It is thread-safe: threads take turns.

    `seconds` limits the wall-clock time for one text. Raises MissingExtraError without `math-verify`.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise MissingExtraError("answer: math", "math")
        self.seconds = seconds
        self.killed = 0
        self._worker: _Worker | None = None
        self._turn = threading.Lock()

    def close(self) -> None:
        with self._turn:
            if self._worker is not None:
                self._worker.kill()
                self._worker = None

    def grade(self, text: str, gold: str) -> tuple[str | None, Verdict]:
        """The answer in `text`, in SymPy's notation, and the verdict. A text that exceeds the time limit is `no_answer`.

        Raises DataError if `gold` is empty or is not math.
        """
        fault = f"the gold answer is {gold!r}, expected a number or a formula in LaTeX; correct the data"
        if not gold.strip(" $."):
            raise DataError(fault)
        reply = self._ask({"text": text, "gold": gold})
        if reply is None:
            return None, "no_answer"
        if "error" in reply:
            raise DataError(fault)
        return reply["predicted"], reply["verdict"]

    def _ask(self, request: dict[str, str]) -> dict[str, Any] | None:
        with self._turn:
            if self._worker is None:
                self._worker = _Worker(self.seconds)
            reply = self._worker.ask(request, self.seconds)
            if reply is None:
                self._worker.kill()
                self._worker = None
                self.killed += 1
            return reply


class _Worker:
    """A process that reads requests and writes verdicts, one JSON line each."""

    def __init__(self, seconds: float) -> None:
        # Not multiprocessing: its children run the caller's main module again, which may not be written for that.
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import _serve; _serve({seconds!r})"
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
        if self._wait(_START_SECONDS) is None:
            self.kill()
            raise TeacherError("the math-verify worker did not start; try: python -c 'import math_verify'")

    def ask(self, request: dict[str, str], seconds: float) -> dict[str, Any] | None:
        """The worker's reply; None if the reply is late or the worker died."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self._wait(seconds)
        return None if line is None else dict(json.loads(line))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def _wait(self, seconds: float) -> str | None:
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
    """The worker: answer requests from stdin until stdin ends."""
    out = sys.stdout
    sys.stdout = sys.stderr  # output of libraries must not mix with the replies
    _limit("AS", _MEMORY_BYTES)
    _limit("CORE", 0)  # exceeding the time limit needs no core dump
    _verify("$\\frac{1}{2}$", "0.5")  # loads the grammars, which takes longer than grading
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        # The kernel enforces this limit even inside a C function, where a watching thread would not run.
        _limit("CPU", math.ceil(time.process_time() + seconds) + _SPARE_SECONDS)
        request = json.loads(line)
        print(json.dumps(_verify(request["text"], request["gold"])), file=out, flush=True)


def _limit(resource_name: str, most: int) -> None:
    """Limit a resource of this process. The hard limit stays, because a later call may have to raise the limit."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    name = getattr(resource, f"RLIMIT_{resource_name}")
    hard = resource.getrlimit(name)[1]
    resource.setrlimit(name, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _verify(text: str, gold: str) -> dict[str, Any]:
    # math-verify's own time limits are off: they use signals, which do not end a loop inside a C function.
    from math_verify import parse, verify

    try:
        expected = parse(gold, parsing_timeout=None) or parse(f"${gold}$", parsing_timeout=None)
        if not expected:
            return {"error": "gold"}
        answer = parse(text, parsing_timeout=None)
        if not answer:
            return {"predicted": None, "verdict": "no_answer"}
        is_correct = verify(expected, answer, timeout_seconds=None)
        return {"predicted": str(answer[0]), "verdict": "correct" if is_correct else "wrong"}
    except Exception:  # SymPy raises many kinds of errors, MemoryError and RecursionError among them
        return {"predicted": None, "verdict": "no_answer"}
