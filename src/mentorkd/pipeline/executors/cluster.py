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
import sys
import time
import traceback
from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from mentorkd.errors import MachineError, MissingExtraError, RunError, WorkerError
from mentorkd.pipeline.executors.executor import Finished, Note, StageProgress
from mentorkd.pipeline.executors.messages import LoggedWarning, RemoteTraceback, SentWarnings, picklable, throttled
from mentorkd.pipeline.executors.nodes import SharedFolder, check_nodes, describe, live_nodes, name_of, node_id
from mentorkd.pipeline.executors.processes import ProcessExecutor
from mentorkd.pipeline.executors.run_stage import run_stage
from mentorkd.pipeline.resources import wanted
from mentorkd.pipeline.run_folder import STATUS, RunFolder, Stage
from mentorkd.pipeline.scratch import Scratch
from mentorkd.recipe.learner import StageKind
from mentorkd.recipe.schema import Recipe

if TYPE_CHECKING:
    import ray

_MOST_LOSSES = 3
"""How often a stage may lose its node or its process."""
_WAIT_SECONDS = 0.5
_STATUS_SECONDS = 0.5
_NODES_SECONDS = 5
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
        self._owned = _connect(address)
        import ray

        self._shared = SharedFolder.prepare(folder.root)
        try:
            self._nodes, self._looked = live_nodes(), time.monotonic()
            self._check_resources([stage for stage in stages if self._is_remote(stage)])
            check_nodes(self._nodes, self._shared, recipe)
        except BaseException:
            self._disconnect()
            raise
        on_nodes = RunFolder(
            self._shared.root, verify=folder.verify, scratch=None if scratch is None else Scratch(scratch)
        )
        self._task, self._run = ray.remote(_run), ray.put((recipe, on_nodes, self._shared, sys.argv))
        self._here = ProcessExecutor(1, 1, recipe, folder, progress, note)

    def check(self, kinds: Set[str]) -> None:
        self._here.check(kinds)

    def free(self, stage: Stage) -> bool:
        if not self._is_remote(stage):
            return not self._here.running
        self._look()
        cpus, _ = self._needs(stage)
        places = int(sum(node["Resources"].get("CPU", 0) for node in self._nodes)) // cpus
        return len(self._attempts) < _AHEAD * max(1, places)

    def start(self, stage: Stage) -> None:
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
            wait = _WAIT_SECONDS / 10 if self._here.running else _WAIT_SECONDS
            ready, _ = ray.wait(list(self._attempts), num_returns=1, timeout=wait)
            if not ready:
                self._show_status()
                self._leave_lost_nodes()
                continue
            attempt = self._attempts.pop(ready[0])
            try:
                outcome: _Outcome = ray.get(ready[0])
            except ray.exceptions.RayError as error:
                self._begin_again(attempt, self._why_lost(attempt, error))
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
        has_model = stage.kind != "annotate" or self.recipe.teacher.has_shards
        return stage.kind in get_args(StageKind) and has_model and not stage.merged

    def _needs(self, stage: Stage) -> tuple[int, float]:
        """Processors and GPUs of a stage: the recipe's, else one processor a process, and one GPU if the cluster has any to use."""
        resources = wanted(self.recipe, stage)
        usable = self.recipe.device in ("auto", "cuda") and any(node["Resources"].get("GPU") for node in self._nodes)
        processes = self.recipe.learners[stage.learner].training.processes if stage.kind == "train" else 1
        gpus = resources.gpus if resources.gpus is not None else float(usable * processes)
        return resources.cpus or processes, gpus

    def _check_resources(self, stages: Sequence[Stage]) -> None:
        """Raise RunError with each need that no node can satisfy, and with what the nodes have."""
        needs = {(stage.kind, *self._needs(stage)): stage for stage in stages}
        lacking = []
        for (kind, cpus, gpus), stage in needs.items():
            has = [node["Resources"] for node in self._nodes]
            if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in has):
                lacking.append(f"{kind} ({stage.name}) needs {cpus} CPUs and {gpus:g} GPUs")
        if lacking:
            raise RunError(
                f"{'; '.join(lacking)}, and no node of the cluster has as many; it has {describe(self._nodes)}; change "
                "`resources` of the recipe, or add a node"
            )

    def _submit(self, attempt: Attempt) -> None:
        cpus, gpus = self._needs(attempt.stage)
        task = self._task.options(num_cpus=cpus, num_gpus=gpus, max_retries=0, name=attempt.stage.name)
        attempt.notes, attempt.status = 0, {}
        self._attempts[task.remote(self._run, attempt.stage, attempt.workdir.absolute(), cpus)] = attempt

    def _look(self) -> bool:
        """See which nodes there are, if that was some seconds ago; whether it was."""
        if time.monotonic() - self._looked < _NODES_SECONDS:
            return False
        self._nodes, self._looked = live_nodes(), time.monotonic()
        return True

    def _leave_lost_nodes(self) -> None:
        """Start the stages of lost nodes again. Ray's own error comes minutes later where a node is only cut off: its connections
        stay open."""
        if not self._look():
            return
        live = {node["NodeID"] for node in self._nodes}
        for reference, attempt in list(self._attempts.items()):
            if attempt.status and attempt.status["node_id"] not in live:
                del self._attempts[reference]
                self._begin_again(attempt, f"{attempt.status['node']} was lost")

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
        return f"the cluster has lost it on {node} ({_first_line(error)})"

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
                logger, level = logged
                logging.getLogger(logger).log(level, "%s", text)
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
    try:
        ray.init(
            address=None if address == "ray" else address,
            runtime_env={"env_vars": _ENVIRONMENT},
            include_dashboard=None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise RunError(
            f"got --on {address}, and no Ray cluster answers there ({_first_line(error)}); start one with `ray start --head`, or "
            "use `--on ray`"
        ) from None
    return True


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class _Status:
    """The file in an attempt's folder that tells the driver where the attempt is and how far."""

    def __init__(self, workdir: Path) -> None:
        self._file = workdir / STATUS
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
        half.write_text(json.dumps(self.values), encoding="utf-8")
        half.replace(self._file)


def _run(
    common: tuple[Recipe, RunFolder, SharedFolder, list[str]], stage: Stage, workdir: Path, threads: int
) -> _Outcome:
    """The task: carry out a stage on a node. Every error of the stage is returned, so that what Ray raises is the cluster's."""
    recipe, folder, shared, sys.argv = common
    warnings: SentWarnings | None = None
    values: dict[str, Any] = {}
    try:
        shared.enter()
        status = _Status(workdir)
        values, warnings = status.values, SentWarnings(status.warning)
        logging.getLogger("mentorkd").addHandler(warnings)
        record = run_stage(
            stage,
            recipe,
            folder,
            workdir,
            threads=threads,
            progress=throttled(status.progress, _STATUS_SECONDS),
            note=status.note,
        )
        return _Outcome(record, None, values)
    except Exception as error:
        return _Outcome(picklable(error), f"on {name_of()}\n{traceback.format_exc()}", values)
    finally:
        if warnings is not None:
            logging.getLogger("mentorkd").removeHandler(warnings)
