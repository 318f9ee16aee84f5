"""One stage in several processes of a machine, which share its work by torch.distributed.

Each process carries out the same function on the same stage, in the same working folder. The first of them alone writes files, shows
progress and notes, and returns the record.
"""

from __future__ import annotations

import gc
import os
import queue
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed

from mentorkd.errors import MentorkdError, TrainingError, WorkerError, explaining
from mentorkd.pipeline import provenance
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.executors.imports import import_stages
from mentorkd.pipeline.executors.messages import throttled
from mentorkd.pipeline.records import StageRecord
from mentorkd.pipeline.run_folder import Stage, is_remote
from mentorkd.training.processes import missing_devices
from mentorkd.worker_processes import Messages, Worker, failure, log_warning, serving

R = TypeVar("R", bound=StageRecord)

Work = Callable[[RunContext, Stage, Path], R | None]
"""A stage's work in one of several processes, the first of which returns the record. Each process imports the function by name."""

# A process that ends is noticed at once, so the others need no limit of their own. They wait for as long as the slowest generates.
_TIMEOUT = timedelta(days=7)
# A process ends within milliseconds, unless a library holds it up.
_EXIT_SECONDS = 5
# After a process is killed, the others may fail before its end is seen.
_GRACE_SECONDS = 2


def work_together(processes: int, work: Work[R], context: RunContext, stage: Stage, workdir: Path) -> R:
    """Carry out `work` in `processes` processes; return the record of the first.

    An error of one of them is raised here, and ends the others. Raises WorkerError for one that was killed. They end when this
    process does, however it ends.
    """
    gc.collect()  # earlier stages of this process keep memory of a GPU that the first process needs
    torch.cuda.empty_cache()
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    messages: Messages = queue.SimpleQueue()
    setup = (sys.argv, context.recipe, context.folder)
    workers: list[Worker] = []
    try:
        for rank in range(processes):
            environment = _environment(rank, processes, store.port)
            workers.append(Worker("mentorkd.pipeline.process_group:serve", environment, messages, setup))
            workers[-1].send((work, stage, workdir))
        records = _finish(workers, messages, context, stage)
    finally:
        for worker in workers:
            worker.hang_up()
        for worker in workers:
            worker.wait(_EXIT_SECONDS)
    context.costs += [cost for _, cost in records.values()]
    record: R = records[workers[0]][0]
    return record


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torch.distributed and accelerate read. Each process has an equal share of this one's threads."""
    return {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // processes)),
    }


def _finish(
    workers: list[Worker], messages: Messages, context: RunContext, stage: Stage
) -> dict[Worker, tuple[Any, provenance.Cost]]:
    """The records and costs of all processes, once all have finished. Progress and notes of the first are shown here."""
    finished: dict[Worker, tuple[Any, provenance.Cost]] = {}
    while len(finished) < len(workers):
        worker, event, value = messages.get()
        if event == "finished":
            finished[worker] = value
        elif event == "failed":
            _raise_if_killed(workers, messages, stage, value[0])
            raise failure(value)
        elif event == "ended":
            raise _killed(workers, worker, stage)
        elif worker is workers[0]:
            _show(context, event, value)
    return finished


def _show(context: RunContext, event: str, value: Any) -> None:
    if event == "progress":
        context.progress(*value)
    elif event == "note":
        context.note(value)
    else:
        log_warning(value)


def _raise_if_killed(workers: list[Worker], messages: Messages, stage: Stage, error: BaseException) -> None:
    """Raise WorkerError if a process fails because another one was killed: it says only that a connection closed."""
    deadline = time.monotonic() + (0 if isinstance(error, MentorkdError) else _GRACE_SECONDS)
    while (left := deadline - time.monotonic()) > 0:
        try:
            worker, event, _ = messages.get(timeout=left)
        except queue.Empty:
            return
        if event == "ended":
            raise _killed(workers, worker, stage)


def _killed(workers: list[Worker], worker: Worker, stage: Stage) -> WorkerError:
    ending = worker.ending("take smaller batches, or fewer `training.processes`")
    return WorkerError(f"{stage.name}: process {workers.index(worker) + 1} of {len(workers)} {ending}")


def serve() -> None:
    """The program of one of the processes."""
    with serving() as (send, receive):
        import_stages()
        sys.argv, recipe, folder = receive()
        work, stage, workdir = receive()
        context = RunContext(recipe, folder, throttled(partial(send, "progress")), partial(send, "note"))
        if missing := missing_devices(int(os.environ["WORLD_SIZE"]), context.device):
            raise TrainingError(f"{stage.name}: {missing}")
        # An attempt on another machine has a folder of its own, and nobody waits for it.
        name = f"{os.getppid()}-{os.environ['RANK']}"
        lock = nullcontext() if is_remote(workdir) else folder.in_use(name)
        with explaining(stage.name, folder.root), lock:
            _join(context.device.type)
            with provenance.measured() as cost:
                record = work(context, stage, workdir)
            if context.holds_gpu:
                cost.gpu_seconds, cost.accelerator = cost.seconds, provenance.accelerator()
        send("finished", (record, cost))  # the owner ends this process now


def _join(device_type: str) -> None:
    """Become one of the group's processes, with a GPU of its own where there are any.

    The group stays open until the process ends: a process that failed must not make the others fail too, before its error is known.
    """
    rank, on_gpu = int(os.environ["RANK"]), device_type == "cuda"
    if on_gpu:
        torch.cuda.set_device(rank)
    else:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=distributed.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False),  # type: ignore[attr-defined]
        rank=rank,
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=_TIMEOUT,
    )
