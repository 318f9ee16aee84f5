"""Stages on the nodes of a Ray cluster.

A stage is one Ray task, with the processors and GPUs of its kind. This process, the driver, keeps the graph, the lock and the marks;
it alone publishes. Stages that take no model, and teachers behind an endpoint, run in a worker process beside the driver: one
cache, one budget, one limit of requests, and keys never leave this machine.

Ray's own retries are off. A stage whose node is lost, or whose process is killed, starts again in the folder of a new attempt, so
that a node that comes back cannot write into anything. An error of the stage itself stops the run, as on one machine.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from mentorkd.errors import MachineError, MissingExtraError, RunError, WorkerError
from mentorkd.pipeline.executors.executor import Finished, Note, StageProgress
from mentorkd.pipeline.executors.imports import import_stages
from mentorkd.pipeline.executors.messages import sending_warnings, throttled
from mentorkd.pipeline.executors.nodes import (
    SharedFolder,
    amount,
    check_nodes,
    describe,
    lacks,
    last_line,
    live_nodes,
    name_of,
    node_id,
)
from mentorkd.pipeline.executors.processes import ProcessExecutor
from mentorkd.pipeline.executors.run_stage import run_stage
from mentorkd.pipeline.resources import wanted
from mentorkd.pipeline.run_folder import STATUS, RunFolder, Stage
from mentorkd.pipeline.scratch import Scratch
from mentorkd.recipe.learner import StageKind
from mentorkd.recipe.schema import Recipe
from mentorkd.worker_processes import LoggedWarning, RemoteTraceback, log_warning, picklable

if TYPE_CHECKING:
    import ray

_MOST_LOSSES = 3
"""How often a stage may lose its node or its process."""
_WAIT_SECONDS = 0.5
_STATUS_SECONDS = 0.5
_NODES_SECONDS = 5
_ANSWER_SECONDS = 5
_AHEAD = 2
"""Stages that wait on the cluster for a free processor, for each that runs: none idles while the driver publishes."""
_ENVIRONMENT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "TOKENIZERS_PARALLELISM": "false"}

_DRIVER_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no request leaves the cluster
    # By default a connection to a machine that is cut off is given up after seven minutes.
    "RAY_grpc_client_keepalive_time_ms": "20000",
    "RAY_grpc_client_keepalive_timeout_ms": "20000",
}


@dataclass
class Attempt:
    """A stage on the cluster."""

    stage: Stage
    workdir: Path
    losses: int = 0
    out_of_memory: bool = False
    notes: int = 0
    """How many of its notes and warnings have been shown."""
    status: dict[str, Any] = field(default_factory=dict)


class _Outcome(NamedTuple):
    """What a task returns: a record, or an error with the place where it was raised; and all that it noted."""

    value: Any
    where: str | None
    status: dict[str, Any]
    unfit: str | None = None
    """Why the node cannot run stages at all."""


class RayExecutor:
    """Carries out stages on a Ray cluster.

    Args:
        address: of the cluster; `ray` finds a running one, or starts one on this machine.
        scratch: a folder of the nodes' own disks, for copies of models and soft labels.
        stages: those that are to run, whose needs are compared with what the nodes have.
    """

    def __init__(
        self,
        address: str,
        scratch: Path | None,
        stages: Sequence[Stage],
        recipe: Recipe,
        folder: RunFolder,
        progress: StageProgress,
        note: Note,
    ) -> None:
        self.recipe, self.folder, self.progress, self.note = recipe, folder, progress, note
        self._attempts: dict[ray.ObjectRef[Any], Attempt] = {}
        self._waiting_noted: set[str] = set()
        if recipe.teacher.has_shards and recipe.teacher.cache is not None:
            raise RunError(
                f"got teacher.cache {recipe.teacher.cache} for a local teacher on a cluster, whose nodes cannot share this file; leave "
                "it out (each shard keeps its own replies until it is finished)"
            )
        self._shared = SharedFolder.of(folder.root, scratch, recipe)
        self._owned = _connect(address)
        import ray

        try:
            self._shared.prepare()
            self._nodes, self._looked = live_nodes(), time.monotonic()
            # For the whole run: a stage whose node is lost waits for another with a GPU, and does not go on without.
            self._has_gpus = any(node["Resources"].get("GPU") for node in self._nodes)
            remote = [stage for stage in stages if self._is_remote(stage)]
            self._check_resources(remote)
            check_nodes(self._nodes, self._shared)
            self._most = max(map(self._needs, remote), default=(1, 0.0))
            on_nodes = RunFolder(
                self._shared.root, verify=folder.verify, scratch=None if scratch is None else Scratch(scratch)
            )
            self._run = ray.put((recipe, on_nodes, self._shared, sys.argv))
            # A process that has used a GPU keeps memory there, so it is not used again. Ray takes this number at the declaration alone.
            self._on_cpu, self._on_gpu = ray.remote(_run), ray.remote(max_calls=1)(_run)
            self._here = ProcessExecutor(1, 1, recipe, folder, progress, note)
        except BaseException:
            self._disconnect()
            raise

    def check(self, kinds: Set[str]) -> None:
        """What asks an endpoint is checked here, and models on a node with the most that a stage takes."""
        import ray

        if here := kinds & {"annotate"} if not self.recipe.teacher.has_shards else frozenset[str]():
            self._here.check(here)
        if on_node := kinds - here:
            cpus, gpus = self._most
            task = ray.remote(max_calls=1)(_check).options(num_cpus=cpus, num_gpus=gpus, max_retries=1)
            warnings, error = ray.get(task.remote(self._run, frozenset(on_node)))
            for warning in warnings:
                log_warning(warning)
            if error is not None:
                raise error

    def free(self, stage: Stage) -> bool:
        if not self._is_remote(stage):
            return not self._here.running
        taken = [self._needs(attempt.stage) for attempt in self._attempts.values()] + [self._needs(stage)]
        return not self._attempts or all(
            sum(need[place] for need in taken) <= _AHEAD * sum(node["Resources"].get(name, 0) for node in self._nodes)
            for place, name in enumerate(("CPU", "GPU"))
        )

    def start(self, stage: Stage) -> None:
        self._shared.remove_others()  # the run folder is locked now
        if self._is_remote(stage):
            self._submit(Attempt(stage, self.folder.begin(stage, remote=True)))
        else:
            self._here.start(stage)

    def next_finished(self) -> Finished:
        import ray

        while True:
            if self._here.running and (finished := self._here.poll(0 if self._attempts else _WAIT_SECONDS)):
                return finished
            if not self._attempts:
                continue
            self._leave_lost_nodes()
            wait = _WAIT_SECONDS / 10 if self._here.running else _WAIT_SECONDS
            ready, _ = ray.wait(list(self._attempts), num_returns=1, timeout=wait)
            if not ready:
                self._show_status()
                continue
            attempt = self._attempts.pop(ready[0])
            try:
                outcome: _Outcome = ray.get(ready[0])
            except ray.exceptions.RayError as error:
                self._begin_again(attempt, self._why_lost(attempt, error))
                continue
            if outcome.unfit is not None:
                self._begin_again(attempt, outcome.unfit)
                continue
            self._show(attempt, outcome.status)
            if outcome.where is not None:
                raise outcome.value from RemoteTraceback(outcome.where)
            return Finished(attempt.stage, attempt.workdir, outcome.value)

    def close(self) -> None:
        import ray

        self._here.close()
        for reference in self._attempts:
            with suppress(Exception):  # the cluster may be gone
                ray.cancel(reference, force=True)
        self._disconnect()

    def _disconnect(self) -> None:
        import ray

        self._shared.remove()
        if self._owned:
            ray.shutdown()

    def _is_remote(self, stage: Stage) -> bool:
        """Whether a stage runs on the cluster: those with models do, but no teacher that is asked over a network or read from a file, and
        none that only merges shards."""
        if stage.kind == "budget":  # it counts the rows that filters leave, and one of these has a model
            return any(
                self.recipe.filter_of(name, source).perplexity
                for name, learner in self.recipe.learners.items()
                for source in learner.rationales
            )
        has_model = stage.kind != "annotate" or self.recipe.teacher.has_shards
        return stage.kind in get_args(StageKind) and has_model and not stage.merged

    def _needs(self, stage: Stage) -> tuple[int, float]:
        """Processors and GPUs of a stage: the recipe's, else one processor a process, and one GPU if the cluster has any to use."""
        resources = wanted(self.recipe, stage)
        usable = self.recipe.device in ("auto", "cuda") and self._has_gpus
        processes = self.recipe.learners[stage.learner].training.processes if stage.kind == "train" else 1
        gpus = resources.gpus if resources.gpus is not None else float(usable * processes)
        return resources.cpus or processes, gpus

    def _check_resources(self, stages: Sequence[Stage]) -> None:
        """Raise RunError with each need that no node can satisfy, and with what the nodes have."""
        needs = {(stage.kind, *self._needs(stage)): stage for stage in stages}
        lacking = []
        for (kind, cpus, gpus), stage in needs.items():
            if not self._is_somewhere(cpus, gpus):
                lacking.append(f"{kind} ({stage.name}) needs {amount(cpus, 'CPU')} and {amount(gpus, 'GPU')}")
            processes = self.recipe.learners[stage.learner].training.processes if kind == "train" else 1
            if 0 < gpus < processes:
                lacking.append(
                    f"{kind} ({stage.name}) has {processes} processes, and `resources` give it {amount(gpus, 'GPU')}"
                )
        if lacking:
            raise RunError(
                f"{'; '.join(lacking)}; the cluster has {describe(self._nodes)}; change `resources` of the recipe, or add a node"
            )

    def _is_somewhere(self, cpus: int, gpus: float) -> bool:
        """Whether a node has so much, free or not."""
        has = [node["Resources"] for node in self._nodes]
        return any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in has)

    def _submit(self, attempt: Attempt) -> None:
        cpus, gpus = self._needs(attempt.stage)
        task = (self._on_gpu if gpus else self._on_cpu).options(
            # Shards share a name: Ray's driver keeps 2 kB of counters for each that it ever saw.
            num_cpus=cpus,
            num_gpus=gpus,
            max_retries=0,
            name=attempt.stage.whole,
        )
        attempt.notes, attempt.status = 0, {}
        self._attempts[task.remote(self._run, attempt.stage, attempt.workdir.absolute(), cpus)] = attempt

    def _leave_lost_nodes(self) -> None:
        """Look which nodes there are, every few seconds, and start the stages of lost ones again. Ray's own error comes minutes later
        where a node is only cut off: its connections stay open."""
        if time.monotonic() - self._looked < _NODES_SECONDS:
            return
        self._nodes, self._looked = live_nodes(), time.monotonic()
        live = {node["NodeID"] for node in self._nodes}
        self._show_status()
        for reference, attempt in list(self._attempts.items()):
            name, (cpus, gpus) = attempt.stage.name, self._needs(attempt.stage)
            if attempt.status and attempt.status["node_id"] not in live:
                del self._attempts[reference]
                self._begin_again(attempt, f"{attempt.status['node']} was lost")
            elif not self._is_somewhere(cpus, gpus) and name not in self._waiting_noted:
                self._waiting_noted.add(name)
                needs = f"{amount(cpus, 'CPU')} and {amount(gpus, 'GPU')}"
                self.note(
                    f"{name} waits for a node with {needs}; the cluster has {describe(self._nodes)}", attempt.stage
                )

    def _why_lost(self, attempt: Attempt, error: ray.exceptions.RayError) -> str:
        """What the cluster's error says of a stage. Raises MachineError where memory was too small twice."""
        import ray

        stage, node = attempt.stage, attempt.status.get("node", "a node")
        if isinstance(error, ray.exceptions.OutOfMemoryError):
            if attempt.out_of_memory:
                raise MachineError(
                    f"{stage.name}: {node} had too little memory, twice; raise `resources.{stage.kind}.cpus`, so that fewer stages share "
                    "a node, or take a smaller batch_size"
                )
            attempt.out_of_memory = True
            return f"{node} had too little memory"
        if isinstance(error, ray.exceptions.NodeDiedError):
            return f"{node} was lost"
        if isinstance(error, ray.exceptions.WorkerCrashedError):
            return f"its process on {node} was killed"
        return f"the cluster has lost it on {node} ({last_line(error)})"

    def _begin_again(self, attempt: Attempt, why: str) -> None:
        """Start a stage again that the cluster has lost. Raises WorkerError if that has happened too often."""
        stage = attempt.stage
        attempt.losses += 1
        if attempt.losses > _MOST_LOSSES:
            raise WorkerError(f"{stage.name}: {why}, after {_MOST_LOSSES} losses before; run the same command to go on")
        self.note(f"{stage.name}: {why}; it goes on in a new attempt ({attempt.losses + 1})", stage)
        attempt.workdir = self.folder.begin(stage, remote=True)
        self._submit(attempt)

    def _show_status(self) -> None:
        """Show how far the stages on the cluster are, by what they leave in the folders of their attempts."""
        for attempt in self._attempts.values():
            with suppress(OSError, ValueError):
                self._show(attempt, json.loads((attempt.workdir / STATUS).read_text(encoding="utf-8")))

    def _show(self, attempt: Attempt, status: dict[str, Any]) -> None:
        if (done := status.get("done")) and done != attempt.status.get("done"):
            self.progress(attempt.stage, *done)
        for text, logged in status.get("notes", [])[attempt.notes :]:
            if logged is None:
                self.note(text, attempt.stage)
            else:
                log_warning((*logged, text))
        attempt.notes = len(status.get("notes", []))
        attempt.status = status


def _connect(address: str) -> bool:
    """Connect this process to a cluster; return whether it was not connected before."""
    for name, value in _DRIVER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise MissingExtraError("`--on ray`", "ray") from None
    if ray.is_initialized():
        return False
    _check_answers(address)
    try:
        ray.init(
            address=None if address == "ray" else address,
            runtime_env={"env_vars": _ENVIRONMENT},
            include_dashboard=None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        if "Ray Client requires" in str(error):
            raise RunError(
                f"got --on {address}, and Ray's client is not installed; pip install 'ray[client]'"
            ) from None
        raise _no_cluster(address, last_line(error)) from None
    return True


def _check_answers(address: str) -> None:
    """Raise RunError at once for an address where nothing listens, for which Ray waits a minute or longer."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, getattr(error, "strerror", None) or str(error)) from None


def _no_cluster(address: str, why: str) -> RunError:
    return RunError(
        f"got --on {address}, and no Ray cluster answers there ({why}); start one with `ray start --head`, or use `--on ray`"
    )


class _Status:
    """The file in an attempt's folder that tells the driver where the attempt is and how far."""

    def __init__(self, workdir: Path) -> None:
        self._file, self._lock = workdir / STATUS, threading.Lock()
        self.values: dict[str, Any] = {"node": name_of(), "node_id": node_id(), "notes": []}
        self._write()

    def progress(self, done: tuple[int, int]) -> None:
        self.values["done"] = done
        self._write()

    def note(self, text: str) -> None:
        self.values["notes"].append((text, None))
        self._write()

    def warning(self, warning: LoggedWarning) -> None:
        logger, level, text = warning
        self.values["notes"].append((text, (logger, level)))
        self._write()

    def _write(self) -> None:
        half = self._file.with_suffix(".tmp")
        with self._lock, suppress(OSError):  # several threads may warn, and no status is worth a stage
            half.write_text(json.dumps(self.values), encoding="utf-8")
            half.replace(self._file)


_Common = tuple[Recipe, RunFolder, SharedFolder, list[str]]
"""What all tasks of a run have in common: the recipe, the run folder, the proof that it is shared, and the command line."""

_FOLDERS: dict[str, RunFolder] = {}
"""In a process on a node, the run folder of each run, which knows what the process has checked already."""


def _run(common: _Common, stage: Stage, workdir: Path, threads: int) -> _Outcome:
    """The task: run a stage on a node. Every error of the stage is returned, so that what Ray raises is the cluster's."""
    recipe, folder, shared, sys.argv = common
    folder = _FOLDERS.setdefault(shared.token, folder)
    values: dict[str, Any] = {}
    try:
        shared.enter()
        if faults := lacks(shared):  # a node that joined after the start
            return _Outcome(None, None, values, unfit=f"{name_of()} {'; '.join(faults)}")
        status = _Status(workdir)
        values, progress = status.values, throttled(status.progress, _STATUS_SECONDS)
        with sending_warnings(status.warning):
            record = run_stage(stage, recipe, folder, workdir, threads=threads, progress=progress, note=status.note)
        return _Outcome(record, None, values)
    except MachineError as error:
        return _Outcome(MachineError(f"{error} (on {name_of()})"), traceback.format_exc(), values)
    except Exception as error:
        return _Outcome(picklable(error), f"on {name_of()}\n{traceback.format_exc()}", values)


def _check(common: _Common, kinds: frozenset[str]) -> tuple[list[LoggedWarning], BaseException | None]:
    """The task: check the recipe's models on a node; return what is to be warned of, and the error."""
    import_stages()
    from mentorkd.pipeline.preflight import check

    recipe, _, shared, _ = common
    warnings: list[LoggedWarning] = []
    try:
        with sending_warnings(warnings.append):
            shared.enter()
            check(recipe, kinds)
    except Exception as error:
        return warnings, picklable(error)
    return warnings, None
