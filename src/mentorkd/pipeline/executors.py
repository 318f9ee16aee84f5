"""Stages at work: one after the other in this process, or several at a time, each in a worker process.

A worker is given stages on its stdin and tells on its stdout what comes of them. It ends at once when its stdin closes,
so none outlives the pipeline that started it, however that ended; what it leaves is what a kill leaves.
"""

from __future__ import annotations

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
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mentorkd.errors import DataError, WorkerError
from mentorkd.pipeline import provenance
from mentorkd.pipeline.run_folder import RunFolder, Stage
from mentorkd.recipe.schema import Recipe

if TYPE_CHECKING:
    from mentorkd.pipeline.work import Work

__all__ = ["InlineExecutor", "ProcessExecutor", "StageExecutor", "run_stage", "serve"]

Progress = Callable[[Stage, int, int], None]
Note = Callable[[str, Stage], None]

# Small models make hundreds of steps a second; nobody reads that fast.
PROGRESS_SECONDS = 0.1
# oneDNN keeps a kernel for each shape of each product, 1,024 of them if nobody says otherwise; texts come in many lengths.
KERNELS = "128"
# Devices of GPU drivers on Linux: NVIDIA, AMD, and either under Windows.
DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
# Kinds of stages that are checked before anything runs.
CHECKED = frozenset({"annotate", "train", "evaluate"})
# A worker ends within milliseconds, unless a library holds it up.
PATIENCE_SECONDS = 5


def run_stage(stage: Stage, work: Work, folder: RunFolder) -> dict[str, Any]:
    """Do what a stage does, publish what it made, and return its record."""
    folder.log("started", stage=stage.name, fingerprint=stage.fingerprint)
    place = folder.begin(stage)
    do: Callable[[Stage, Path], dict[str, Any]] = getattr(work, stage.kind)
    work.holds_gpu = False
    try:
        with provenance.measured() as cost:
            made = do(stage, place)
    except DataError:
        folder.discard_if_empty(stage)
        raise
    if work.holds_gpu:
        cost.gpu_seconds, cost.accelerator = cost.seconds, provenance.accelerator()
    record = folder.publish(stage, {**made, **asdict(cost), "made_by": provenance.here()})
    folder.log("finished", stage=stage.name, fingerprint=stage.fingerprint, seconds=cost.seconds)
    return record


class StageExecutor(Protocol):
    """Those who carry out stages."""

    def check(self, kinds: Set[str]) -> None:
        """Refuse at once what would fail at a stage of these kinds, before anything is written. Comes first, if at all."""

    @property
    def free(self) -> bool:
        """Whether another stage may be started."""

    def start(self, stage: Stage) -> None: ...

    def next_finished(self) -> tuple[Stage, dict[str, Any]]:
        """Wait for one of the started stages; it and its record. Raises what a stage raises."""

    def close(self) -> None:
        """Stop what is still at work, as a kill would."""


class InlineExecutor:
    """Carries out one stage at a time, in this process."""

    def __init__(self, recipe: Recipe, folder: RunFolder, progress: Progress, note: Note) -> None:
        self.recipe, self.folder, self.progress, self.note = recipe, folder, progress, note
        self._stage: Stage | None = None
        self._work: Work | None = None

    def check(self, kinds: Set[str]) -> None:
        if kinds & CHECKED:  # to find that all is done must not wait for torch
            from mentorkd.pipeline.preflight import check

            check(self.recipe, kinds)

    @property
    def free(self) -> bool:
        return self._stage is None

    def start(self, stage: Stage) -> None:
        self._stage = stage

    def next_finished(self) -> tuple[Stage, dict[str, Any]]:
        stage = self._stage
        assert stage is not None, "a stage is started before it finishes"
        if self._work is None:
            from mentorkd.pipeline.work import Work

            self._work = Work(self.recipe, self.folder, lambda done, total: None, lambda text: None)
        self._work.progress = lambda done, total: self.progress(stage, done, total)
        self._work.note = lambda text: self.note(text, stage)
        record = run_stage(stage, self._work, self.folder)
        self._stage = None
        return stage, record

    def close(self) -> None: ...


class ProcessExecutor:
    """Carries out several stages at a time, each in a process that has its share of the cores, and one GPU."""

    def __init__(self, jobs: int, recipe: Recipe, folder: RunFolder, progress: Progress, note: Note) -> None:
        self.progress, self.note = progress, note
        self._heard: queue.SimpleQueue[tuple[_Worker, str, Any]] = queue.SimpleQueue()
        self._busy: dict[_Worker, Stage] = {}
        self._all: list[_Worker] = []
        threads, gpus = max(1, provenance.cores() // jobs), _gpus() if recipe.device in ("auto", "cuda") else []
        for number in range(jobs):
            environment = {"OMP_NUM_THREADS": str(threads), "ONEDNN_PRIMITIVE_CACHE_CAPACITY": KERNELS, **os.environ}
            if gpus:
                environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
            self._all.append(_Worker(environment, self._heard, (number, sys.argv, recipe, folder.root)))

    def check(self, kinds: Set[str]) -> None:
        """A worker does it, which has to import torch anyway: this process never needs to."""
        if kinds & CHECKED:
            self._all[0].send(frozenset(kinds))
            self._next()

    @property
    def free(self) -> bool:
        return len(self._busy) < len(self._all)

    def start(self, stage: Stage) -> None:
        worker = next(worker for worker in self._all if worker not in self._busy)
        self._busy[worker] = stage
        worker.send(stage)

    def next_finished(self) -> tuple[Stage, dict[str, Any]]:
        while True:
            worker, what, value = self._next()
            stage = self._busy.get(worker)
            assert stage is not None, "an idle worker tells of nothing else"
            if what == "progress":
                self.progress(stage, *value)
            elif what == "note":
                self.note(value, stage)
            else:
                del self._busy[worker]
                return stage, value

    def _next(self) -> tuple[_Worker, str, Any]:
        """What is heard next. Raises what a worker raises, and WorkerError where one has ended."""
        worker, what, value = self._heard.get()
        if what == "ended":
            stage = self._busy.get(worker)
            raise WorkerError(f"{stage.name if stage else 'a worker'}: its process {worker.ending()}")
        if what == "failed":
            error, where = value
            raise error from _Elsewhere(where)
        return worker, what, value

    def close(self) -> None:
        for worker in self._all:
            worker.hang_up()
        for worker in self._all:
            worker.wait()


class _Elsewhere(Exception):
    """Shows, as the cause of an error, where it was raised in a worker."""


class _Worker:
    """One worker process, and a thread that listens to it. It touches nothing before its first stage."""

    def __init__(
        self, environment: dict[str, str], heard: queue.SimpleQueue[tuple[_Worker, str, Any]], about: tuple[Any, ...]
    ) -> None:
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
        self._heard = heard
        self._untold = [about]
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, task: Stage | frozenset[str]) -> None:
        """A stage to carry out; to the first worker, before any, kinds of stages to check."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has died, and is heard to
            for value in (*self._untold, task):
                pickle.dump(value, self._process.stdin)
            self._process.stdin.flush()
        self._untold.clear()

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

    def wait(self) -> None:
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream, suppress(EOFError, pickle.UnpicklingError):
            while True:
                self._heard.put((self, *pickle.load(stream)))
        self._heard.put((self, "ended", None))


def _gpus() -> list[str]:
    """The CUDA devices that this process sees, as CUDA_VISIBLE_DEVICES calls them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return visible.split(",")
    if not a_gpu_may_be_there():
        return []
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def a_gpu_may_be_there() -> bool:
    """Whether there is a driver; for certain only torch knows, whose import takes seconds."""
    return shutil.which("nvidia-smi") is not None or any(Path(driver).exists() for driver in DRIVERS)


def serve() -> None:
    """What a worker process does: carry out the stages that come on stdin, until it closes."""
    telling = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not come between
    lock = threading.Lock()  # several threads may make progress

    def tell(what: str, value: Any) -> None:
        with lock:
            pickle.dump((what, value), telling)
            telling.flush()

    asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    try:
        from mentorkd.pipeline.work import (
            Work,  # slow to import, and done while the other process still checks the recipe
        )

        number, sys.argv, recipe, root = asked.get()
        task = asked.get()
        if isinstance(task, frozenset):
            from mentorkd.pipeline.preflight import check

            check(recipe, task)
            tell("checked", None)
            task = asked.get()
        folder = RunFolder(root)
        with folder.in_use(number):
            work = Work(recipe, folder, _now_and_then(tell), lambda text: tell("note", text))
            while True:
                tell("finished", run_stage(task, work, folder))
                task = asked.get()
    except BaseException as error:
        tell("failed", (_portable(error), "\n" + traceback.format_exc()))
        threading.Event().wait()  # for stdin to close


def _listen(asked: queue.SimpleQueue[Any]) -> None:
    with suppress(EOFError, pickle.UnpicklingError):
        while True:
            asked.put(pickle.load(sys.stdin.buffer))
    os._exit(0)


def _now_and_then(tell: Callable[[str, Any], None]) -> Callable[[int, int], None]:
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done >= total or now - last > PROGRESS_SECONDS:
            last = now
            tell("progress", (done, total))

    return progress


def _portable(error: BaseException) -> BaseException:
    """The error, or where it cannot be sent to another process, one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
