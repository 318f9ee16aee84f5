"""Where stages run: one after the other in this process, or several at a time, each in a worker process."""

from __future__ import annotations

import os
import queue
import shutil
import sys
from collections.abc import Callable, Set
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from mentorkd.errors import DataError, WorkerError, explaining
from mentorkd.pipeline import provenance
from mentorkd.pipeline.records import StageRecord
from mentorkd.pipeline.run_folder import RunFolder, Stage
from mentorkd.pipeline.stages import step_of
from mentorkd.pipeline.worker_processes import Messages, Worker, failure, log_warning, serving, throttled
from mentorkd.recipe.schema import Recipe

StageProgress = Callable[[Stage, int, int], None]
Note = Callable[[str, Stage], None]

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
        cost.include(context.costs)
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
        self._messages: Messages = queue.SimpleQueue()
        self._running: dict[Worker, Stage] = {}
        self._workers: list[Worker] = []
        threads, gpus = max(1, provenance.cores() // jobs), _gpus() if recipe.device in ("auto", "cuda") else []
        for number in range(jobs):
            environment = {"OMP_NUM_THREADS": str(threads), "ONEDNN_PRIMITIVE_CACHE_CAPACITY": _KERNELS, **os.environ}
            if gpus:
                environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
            setup = (number, sys.argv, recipe, folder)
            self._workers.append(Worker("mentorkd.pipeline.executors:serve", environment, self._messages, setup))

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

    def _next_message(self) -> tuple[Worker, str, Any]:
        """Wait for a message, and log the warnings before it. Raises what a worker raises, and WorkerError if a worker has ended."""
        worker, event, value = self._messages.get()
        while event == "warning":
            log_warning(value)
            worker, event, value = self._messages.get()
        if event == "ended":
            stage = self._running.get(worker)
            ending = worker.ending("take fewer --jobs")
            raise WorkerError(f"{stage.name if stage else 'a worker'}: its process {ending}")
        if event == "failed":
            raise failure(value)
        return worker, event, value

    def close(self) -> None:
        for worker in self._workers:
            worker.hang_up()
        for worker in self._workers:
            stage = self._running.get(worker)
            # Replies of a teacher that are in flight are paid for. How long they take is the recipe's `timeout`.
            worker.wait(None if stage is not None and stage.kind == "annotate" else _EXIT_SECONDS)


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
    with serving() as (send, tasks):
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
                send("finished", run_stage(task, recipe, folder, throttled(send), partial(send, "note")))
                task = tasks.get()
