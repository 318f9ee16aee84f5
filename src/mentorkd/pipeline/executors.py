"""Where stages run: one after the other in this process, or several at a time, each in a worker process.

A worker reads stages from its stdin and writes progress, notes, warnings and records to its stdout. It ends when its stdin closes, so
none outlives the pipeline that started it, however the pipeline ended. What a worker leaves then is what a SIGTERM leaves: it ends
at once, or, while it asks a teacher, when the replies in flight are kept.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Set
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from mentorkd.errors import DataError, WorkerError, explaining
from mentorkd.pipeline import provenance
from mentorkd.pipeline.records import StageRecord
from mentorkd.pipeline.run_folder import RunFolder, Stage
from mentorkd.pipeline.stages import step_of
from mentorkd.recipe.schema import Recipe

StageProgress = Callable[[Stage, int, int], None]
Note = Callable[[str, Stage], None]

# Small models make hundreds of steps a second; nobody reads that fast.
_PROGRESS_SECONDS = 0.1
# By default oneDNN keeps 1,024 kernels, one for each shape of each product; texts come in many lengths.
_KERNELS = "128"
# Devices of GPU drivers on Linux: NVIDIA, AMD, and either under Windows.
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
# Kinds of stages that are checked before anything runs.
CHECKED_KINDS = frozenset({"annotate", "train", "evaluate"})
# A worker ends within milliseconds, unless a library holds it up.
_EXIT_SECONDS = 5


def run_stage(
    stage: Stage,
    recipe: Recipe,
    folder: RunFolder,
    progress: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> StageRecord:
    """Carry out a stage, publish its outputs, and return its record."""
    with explaining(stage.name, folder.root):
        from mentorkd.pipeline.context import RunContext  # imports torch

        context, step = RunContext(recipe, folder, progress, note), step_of(stage.kind)
        folder.log("started", stage=stage.name, fingerprint=stage.fingerprint)
        workdir = folder.begin(stage)
        try:
            with provenance.measured() as cost:
                record = step(context, stage, workdir)
        except DataError:
            folder.discard_if_empty(stage)
            raise
        if context.holds_gpu:
            cost.gpu_seconds, cost.accelerator = cost.seconds, provenance.accelerator()
        record = folder.publish(stage, replace(record, **asdict(cost), made_by=provenance.here()))
        folder.log("finished", stage=stage.name, fingerprint=stage.fingerprint, seconds=cost.seconds)
        return record


class StageExecutor(Protocol):
    """Carries out stages."""

    def check(self, kinds: Set[str]) -> None:
        """Refuse at once what would fail at a stage of these kinds, by CHECKED_KINDS. Called before any stage starts."""

    @property
    def free(self) -> bool:
        """Whether another stage may be started."""

    def start(self, stage: Stage) -> None:
        """Start a stage whose needs are finished."""

    def next_finished(self) -> tuple[Stage, StageRecord]:
        """Wait for one of the started stages; return it and its record. Raises what the stage raises."""

    def close(self) -> None:
        """Stop the stages that still run, as a SIGTERM would."""


class InlineExecutor:
    """Carries out one stage at a time, in this process."""

    def __init__(self, recipe: Recipe, folder: RunFolder, progress: StageProgress, note: Note) -> None:
        self.recipe, self.folder, self.progress, self.note = recipe, folder, progress, note
        self._stage: Stage | None = None

    def check(self, kinds: Set[str]) -> None:
        from mentorkd.pipeline.preflight import check

        check(self.recipe, kinds)

    @property
    def free(self) -> bool:
        return self._stage is None

    def start(self, stage: Stage) -> None:
        self._stage = stage

    def next_finished(self) -> tuple[Stage, StageRecord]:
        stage = self._stage
        assert stage is not None, "a stage is started before it finishes"
        progress = partial(self.progress, stage)
        record = run_stage(stage, self.recipe, self.folder, progress, lambda text: self.note(text, stage))
        self._stage = None
        return stage, record

    def close(self) -> None: ...


class ProcessExecutor:
    """Carries out several stages at a time, each in a process that has its share of the cores, and one GPU."""

    def __init__(self, jobs: int, recipe: Recipe, folder: RunFolder, progress: StageProgress, note: Note) -> None:
        self.progress, self.note = progress, note
        self._messages: _Messages = queue.SimpleQueue()
        self._running: dict[_Worker, Stage] = {}
        self._workers: list[_Worker] = []
        threads, gpus = max(1, provenance.cores() // jobs), _gpus() if recipe.device in ("auto", "cuda") else []
        for number in range(jobs):
            environment = {"OMP_NUM_THREADS": str(threads), "ONEDNN_PRIMITIVE_CACHE_CAPACITY": _KERNELS, **os.environ}
            if gpus:
                environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
            self._workers.append(_Worker(environment, self._messages, (number, sys.argv, recipe, folder)))

    def check(self, kinds: Set[str]) -> None:
        """A worker checks, because a worker imports torch anyway and this process never needs to."""
        self._workers[0].send(frozenset(kinds))
        self._next_message()

    @property
    def free(self) -> bool:
        return len(self._running) < len(self._workers)

    def start(self, stage: Stage) -> None:
        worker = next(worker for worker in self._workers if worker not in self._running)
        self._running[worker] = stage
        worker.send(stage)

    def next_finished(self) -> tuple[Stage, StageRecord]:
        while True:
            worker, event, value = self._next_message()
            stage = self._running.get(worker)
            assert stage is not None, "only a worker with a stage sends messages"
            if event == "progress":
                self.progress(stage, *value)
            elif event == "note":
                self.note(value, stage)
            else:
                del self._running[worker]
                return stage, value

    def _next_message(self) -> tuple[_Worker, str, Any]:
        """Wait for a message, and log the warnings before it. Raises what a worker raises, and WorkerError if a worker has ended."""
        worker, event, value = self._messages.get()
        while event == "warning":
            logger, level, text = value
            logging.getLogger(logger).log(level, "%s", text)
            worker, event, value = self._messages.get()
        if event == "ended":
            stage = self._running.get(worker)
            raise WorkerError(f"{stage.name if stage else 'a worker'}: its process {worker.ending()}")
        if event == "failed":
            error, where = value
            raise error from _WorkerTraceback(where)
        return worker, event, value

    def close(self) -> None:
        for worker in self._workers:
            worker.hang_up()
        for worker in self._workers:
            stage = self._running.get(worker)
            # Replies of a teacher that are in flight are paid for. How long they take is the recipe's `timeout`.
            worker.wait(None if stage is not None and stage.kind == "annotate" else _EXIT_SECONDS)


class _WorkerTraceback(Exception):
    """Shows, as the cause of an error, where it was raised in a worker."""


class _Worker:
    """One worker process, and a thread that reads its messages. It touches nothing before its first stage."""

    def __init__(self, environment: dict[str, str], messages: _Messages, setup: tuple[Any, ...]) -> None:
        # Not multiprocessing: its children run the caller's main module again, which need not be written for that. In a
        # session of its own, so that Ctrl-C reaches this process alone.
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path[:] = {sys.path!r}; from mentorkd.pipeline.executors import serve; serve()",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self._messages = messages
        self._unsent = [setup]
        threading.Thread(target=self._read_messages, daemon=True).start()

    def send(self, task: Stage | frozenset[str]) -> None:
        """Send a stage to carry out; to the first worker, before any stage, the kinds of stages to check."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, and `_read_messages` says so
            for value in (*self._unsent, task):
                pickle.dump(value, self._process.stdin)
            self._process.stdin.flush()
        self._unsent.clear()

    def ending(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"ended with exit code {code}; run the same command to go on"
        reason = " (out of memory? then take fewer --jobs)" if code == -signal.SIGKILL else ""
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
        with self._process.stdout as stream, suppress(EOFError, pickle.UnpicklingError):
            while True:
                self._messages.put((self, *pickle.load(stream)))
        self._messages.put((self, "ended", None))


_Messages = queue.SimpleQueue[tuple[_Worker, str, Any]]
"""Messages of all workers: the worker, the event (checked, progress, note, warning, finished, failed, ended), and its value."""


def _gpus() -> list[str]:
    """The CUDA devices that this process sees, as CUDA_VISIBLE_DEVICES calls them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return visible.split(",")
    if not may_have_gpu():
        return []
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def may_have_gpu() -> bool:
    """Whether there is a GPU driver. Only torch knows for certain, and its import takes seconds."""
    return shutil.which("nvidia-smi") is not None or any(Path(driver).exists() for driver in _DRIVERS)


def serve() -> None:
    """The program of a worker process: carry out the stages that come on stdin, until stdin closes."""
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with messages
    lock = threading.Lock()  # several threads may make progress

    def send(event: str, value: Any) -> None:
        with lock:
            pickle.dump((event, value), stream)
            stream.flush()

    logging.getLogger("mentorkd").addHandler(_SentWarnings(send))
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read_tasks, args=(tasks,), daemon=True).start()
    try:
        import mentorkd.pipeline.stages.train  # noqa: F401  (slow, and done while the other process checks the recipe)

        number, sys.argv, recipe, folder = tasks.get()
        task = tasks.get()
        if isinstance(task, frozenset):
            from mentorkd.pipeline.preflight import check

            check(recipe, task)
            send("checked", None)
            task = tasks.get()
        with folder.in_use(number):
            while True:
                send("finished", run_stage(task, recipe, folder, _throttled(send), partial(send, "note")))
                task = tasks.get()
    except BaseException as error:
        send("failed", (_picklable(error), "\n" + traceback.format_exc()))
        threading.Event().wait()  # for stdin to close


class _SentWarnings(logging.Handler):
    """Sends warnings to the other process, which logs them as its own: only it knows where they are to be shown."""

    def __init__(self, send: Callable[[str, Any], None]) -> None:
        super().__init__(logging.WARNING)
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send("warning", (record.name, record.levelno, record.getMessage()))


def _read_tasks(tasks: queue.SimpleQueue[Any]) -> None:
    with suppress(EOFError, pickle.UnpicklingError):
        while True:
            tasks.put(pickle.load(sys.stdin.buffer))
    os.kill(os.getpid(), signal.SIGTERM)


def _throttled(send: Callable[[str, Any], None]) -> Callable[[int, int], None]:
    """Progress that is sent at most every _PROGRESS_SECONDS, and at the end."""
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done >= total or now - last > _PROGRESS_SECONDS:
            last = now
            send("progress", (done, total))

    return progress


def _picklable(error: BaseException) -> BaseException:
    """The error, or an error with the same message if this one cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
