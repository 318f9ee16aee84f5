"""Several stages at a time, each in a worker process of this machine."""

from __future__ import annotations

import os
import queue
import sys
from collections.abc import Set
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mentorkd.errors import WorkerError
from mentorkd.pipeline import provenance
from mentorkd.pipeline.executors.executor import Finished, Note, StageProgress
from mentorkd.pipeline.executors.imports import import_stages
from mentorkd.pipeline.executors.messages import throttled
from mentorkd.pipeline.executors.run_stage import run_stage
from mentorkd.pipeline.resources import groups_of_gpus, wanted
from mentorkd.pipeline.run_folder import RunFolder, Stage
from mentorkd.recipe.schema import Recipe
from mentorkd.worker_processes import Messages, Worker, failure, log_warning, serving

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
    """Carries out several stages at a time, each in a process that has its share of the cores, and one GPU or one group of them."""

    def __init__(
        self,
        jobs: int,
        threads: int,
        recipe: Recipe,
        folder: RunFolder,
        progress: StageProgress,
        note: Note,
        *,
        started: int = 1,
    ) -> None:
        """`threads`: of a stage for which the recipe gives none; `started`: how many of the workers start at once, and not when they
        are needed."""
        self.recipe, self.folder, self.progress, self.note = recipe, folder, progress, note
        self._messages: Messages = queue.SimpleQueue()
        self._running: dict[Worker, _Task] = {}
        self._workers: list[Worker] = []
        self._jobs, self._cores, self._threads = jobs, provenance.cores(), threads
        self._gpus = groups_of_gpus(recipe)
        self._next: str | None = None
        """A stage that waits for more cores, and before which no other starts."""
        for _ in range(started):
            self._start_worker()

    def _start_worker(self) -> Worker:
        number = len(self._workers)
        environment = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": _KERNELS, **os.environ}
        environment["OMP_NUM_THREADS"] = str(self._threads)
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[number % len(self._gpus)]
        setup = (number, sys.argv, self.recipe, self.folder)
        worker = Worker("mentorkd.pipeline.executors.processes:serve", environment, self._messages, setup)
        self._workers.append(worker)
        return worker

    def check(self, kinds: Set[str]) -> None:
        """A worker checks, because a worker imports torch anyway and this process never needs to."""
        self._workers[0].send(frozenset(kinds))
        self._next_message(None)

    def free(self, stage: Stage) -> bool:
        """Whether a job is free, and the stage's threads have cores; a stage that wants more cores than there are runs alone."""
        if len(self._running) == self._jobs or self._next not in (None, stage.name):
            return False
        threads = self._threads_of(stage) + sum(task.threads for task in self._running.values())
        if not self._running or threads <= max(self._cores, self._threads * self._jobs):
            self._next = None
            return True
        self._next = stage.name  # smaller stages would take its cores again and again
        return False

    def start(self, stage: Stage) -> None:
        idle = (worker for worker in self._workers if worker not in self._running)
        worker = next(idle, None) or self._start_worker()
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

    def _next_message(self, seconds: float | None) -> tuple[Worker, str, Any]:
        """Wait for a message, and log the warnings before it.

        Raises what a worker raises, WorkerError if a worker has ended, and queue.Empty if none comes within `seconds`.
        """
        worker, event, value = self._messages.get(timeout=seconds)
        while event == "warning":
            log_warning(value)
            worker, event, value = self._messages.get(timeout=seconds)
        if event == "ended":
            task, ending = self._running.get(worker), worker.ending("take fewer --jobs")
            raise WorkerError(f"{task.stage.name if task else 'a worker'}: its process {ending}")
        if event == "failed":
            raise failure(value)
        return worker, event, value

    def close(self) -> None:
        for worker in self._workers:
            worker.hang_up()
        for worker in self._workers:
            task = self._running.get(worker)
            # Replies of a teacher that are in flight are paid for. How long they take is the recipe's `timeout`.
            worker.wait(None if task is not None and task.stage.kind == "annotate" else _EXIT_SECONDS)


def serve() -> None:
    """The program of a worker process: carry out the stages that come on stdin, until stdin closes."""
    with serving() as (send, receive):
        import_stages()  # slow, and done while the other process checks the recipe

        number, sys.argv, recipe, folder = receive()
        task = receive()
        if isinstance(task, frozenset):
            from mentorkd.pipeline.preflight import check

            check(recipe, task)
            send("checked", None)
            task = receive()
        with folder.in_use(number):
            while True:
                stage, workdir, threads = task
                record = run_stage(
                    stage,
                    recipe,
                    folder,
                    workdir,
                    threads=threads,
                    progress=throttled(partial(send, "progress")),
                    note=partial(send, "note"),
                )
                send("finished", record)
                task = receive()
