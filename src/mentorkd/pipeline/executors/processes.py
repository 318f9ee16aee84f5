"""Several stages at a time, each in a worker process of this machine.

A worker reads stages from its stdin and writes progress, notes, warnings and records to its stdout. It ends when its stdin closes, so
none outlives the pipeline that started it, however the pipeline ended. What a worker leaves then is what a SIGTERM leaves: it ends
at once, or, while it asks a teacher, when the replies in flight are kept.
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
from collections.abc import Set
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mentorkd.errors import WorkerError
from mentorkd.pipeline import provenance
from mentorkd.pipeline.executors.carry_out import carry_out
from mentorkd.pipeline.executors.executor import Finished, Note, StageProgress
from mentorkd.pipeline.executors.messages import RemoteTraceback, SentWarnings, picklable, throttled
from mentorkd.pipeline.resources import visible_gpus, wanted
from mentorkd.pipeline.run_folder import RunFolder, Stage
from mentorkd.recipe.schema import Recipe

# By default oneDNN keeps 1,024 kernels, one for each shape of each product; texts come in many lengths.
_KERNELS = "128"
# A worker ends within milliseconds, unless a library holds it up.
_EXIT_SECONDS = 5


class _Task(NamedTuple):
    """What a worker is to do: to carry out a stage."""

    stage: Stage
    workdir: Path
    threads: int


class ProcessExecutor:
    """Carries out several stages at a time, each in a process that has its share of the cores, and one GPU."""

    def __init__(
        self, jobs: int, threads: int, recipe: Recipe, folder: RunFolder, progress: StageProgress, note: Note
    ) -> None:
        """`threads`: of a stage for which the recipe gives none."""
        self.recipe, self.folder, self.progress, self.note = recipe, folder, progress, note
        self._messages: _Messages = queue.SimpleQueue()
        self._running: dict[_Worker, _Task] = {}
        self._workers: list[_Worker] = []
        self._cores, self._threads = provenance.cores(), threads
        gpus = visible_gpus() if recipe.device in ("auto", "cuda") else []
        for number in range(jobs):
            environment = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": _KERNELS, **os.environ}
            environment["OMP_NUM_THREADS"] = str(self._threads)
            if gpus:
                environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
            self._workers.append(_Worker(environment, self._messages, (number, sys.argv, recipe, folder)))

    def check(self, kinds: Set[str]) -> None:
        """A worker checks, because a worker imports torch anyway and this process never needs to."""
        self._workers[0].send(frozenset(kinds))
        self._next_message(None)

    def free(self, stage: Stage) -> bool:
        """Whether a worker is idle, and the stage's threads have cores; a stage that wants more cores than there are runs alone."""
        if len(self._running) == len(self._workers):
            return False
        threads = self._threads_of(stage) + sum(task.threads for task in self._running.values())
        return not self._running or threads <= max(self._cores, self._threads * len(self._workers))

    def start(self, stage: Stage) -> None:
        worker = next(worker for worker in self._workers if worker not in self._running)
        task = self._running[worker] = _Task(stage, self.folder.begin(stage), self._threads_of(stage))
        worker.send(task)

    def _threads_of(self, stage: Stage) -> int:
        return wanted(self.recipe, stage).cpus or self._threads

    @property
    def running(self) -> int:
        """How many stages are started and not finished."""
        return len(self._running)

    def next_finished(self) -> Finished:
        while True:
            if (finished := self.poll(None)) is not None:
                return finished

    def poll(self, seconds: float | None) -> Finished | None:
        """Handle the next message that comes within `seconds`, None for any time; return a stage if the message is its end."""
        try:
            worker, event, value = self._next_message(seconds)
        except queue.Empty:
            return None
        task = self._running.get(worker)
        assert task is not None, "only a worker with a stage sends messages"
        if event == "progress":
            self.progress(task.stage, *value)
        elif event == "note":
            self.note(value, task.stage)
        else:
            del self._running[worker]
            return Finished(task.stage, task.workdir, value)
        return None

    def _next_message(self, seconds: float | None) -> tuple[_Worker, str, Any]:
        """Wait for a message, and log the warnings before it.

        Raises what a worker raises, WorkerError if a worker has ended, and queue.Empty if none comes within `seconds`.
        """
        worker, event, value = self._messages.get(timeout=seconds)
        while event == "warning":
            logger, level, text = value
            logging.getLogger(logger).log(level, "%s", text)
            worker, event, value = self._messages.get(timeout=seconds)
        if event == "ended":
            task = self._running.get(worker)
            raise WorkerError(f"{task.stage.name if task else 'a worker'}: its process {worker.ending()}")
        if event == "failed":
            error, where = value
            raise error from RemoteTraceback(where)
        return worker, event, value

    def close(self) -> None:
        for worker in self._workers:
            worker.hang_up()
        for worker in self._workers:
            task = self._running.get(worker)
            # Replies of a teacher that are in flight are paid for. How long they take is the recipe's `timeout`.
            worker.wait(None if task is not None and task.stage.kind == "annotate" else _EXIT_SECONDS)


class _Worker:
    """One worker process, and a thread that reads its messages. It touches nothing before its first stage."""

    def __init__(self, environment: dict[str, str], messages: _Messages, setup: tuple[Any, ...]) -> None:
        # Not multiprocessing: its children run the caller's main module again, which need not be written for that. In a
        # session of its own, so that Ctrl-C reaches this process alone.
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path[:] = {sys.path!r}; from mentorkd.pipeline.executors.processes import serve; serve()",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self._messages = messages
        self._unsent = [setup]
        threading.Thread(target=self._read_messages, daemon=True).start()

    def send(self, task: _Task | frozenset[str]) -> None:
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


def serve() -> None:
    """The program of a worker process: carry out the stages that come on stdin, until stdin closes."""
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
                stage, workdir, threads = task
                record = carry_out(
                    stage,
                    recipe,
                    folder,
                    workdir,
                    threads=threads,
                    progress=throttled(partial(send, "progress")),
                    note=partial(send, "note"),
                )
                send("finished", record)
                task = tasks.get()
    except BaseException as error:
        send("failed", (picklable(error), "\n" + traceback.format_exc()))
        threading.Event().wait()  # for stdin to close


def _read_tasks(tasks: queue.SimpleQueue[Any]) -> None:
    with suppress(EOFError, pickle.UnpicklingError):
        while True:
            tasks.put(pickle.load(sys.stdin.buffer))
    os.kill(os.getpid(), signal.SIGTERM)
