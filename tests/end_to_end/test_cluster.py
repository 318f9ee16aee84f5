"""A recipe on a Ray cluster: the same bytes as on one machine, whatever is lost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from made_by_stages import made
from mentorkd.errors import MachineError, RunError
from mentorkd.pipeline.run import Pipeline
from mentorkd.pipeline.run_folder import Stage
from mentorkd.pipeline.shards import whole_name
from mentorkd.recipe.load import load_recipe
from recording_reporter import RecordingReporter
from small_recipe import small_recipe

ray = pytest.importorskip("ray", reason="ray is not installed; pip install 'mentorkd[ray]'")

from ray.cluster_utils import Cluster  # noqa: E402

from mentorkd.pipeline.executors.cluster import Attempt, RayExecutor  # noqa: E402


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without a GPU, and two nodes with a fake one each."""
    # Ray lets other programs go first; these are the other tests.
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    before = {name: os.environ.get(name) for name in environment}
    os.environ |= environment
    # A node that does not answer for a few seconds is lost.
    health = {"initial_delay_ms": 0, "period_ms": 1000, "timeout_ms": 2000, "failure_threshold": 3}
    health = {f"health_check_{name}": value for name, value in health.items()}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": health}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=1, num_gpus=1)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    raw = small_recipe(folder, seeds=[1])
    raw["training"] |= {"epochs": 2}
    raw["sampling"] |= {"samples": 2, "max_new_tokens": 8}
    # One training takes a fake GPU. A process that had a GPU ends with its stage, and importing torch takes longer than these stages.
    raw["device"] = "cpu"
    raw["learners"]["mentor"]["resources"] = {"train": {"gpus": 1}}
    (folder / "recipe.yaml").write_text(json.dumps(raw))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def alone(recipe: Path) -> Path:
    """The run folder of the recipe on one machine, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    Pipeline(load_recipe(recipe), recipe.parent / "alone").run()
    torch.set_num_threads(before)
    return recipe.parent / "alone"


def task_of(stage: str, seconds: float = 60) -> psutil.Process:
    """The process that carries out a stage on the cluster, once it does: a short one is over in a fifth of a second."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        workers = [process.pid for process in psutil.process_iter() if _title(process.pid).startswith("ray::")]
        for _ in range(50):  # Ray's workers take one stage after the other
            for pid in workers:
                if _title(pid).startswith(f"ray::{stage}"):
                    return psutil.Process(pid)
            time.sleep(0.001)
    raise AssertionError(f"{stage} has not started")


def _title(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    return ""


def raylets(cluster: Any) -> dict[int, Any]:
    """The worker nodes of the cluster, by the process that all of their tasks descend from."""
    return {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}


class Acts(RecordingReporter):
    """Does something to the first process of each of some stages, beside the run; adds a node when one was lost."""

    def __init__(self, cluster: Any, actions: dict[str, Callable[[psutil.Process], None]]) -> None:
        super().__init__()
        self.cluster, self.actions = cluster, actions
        self.done: list[str] = []

    def started(self, stage: Stage, number: int, total: int) -> None:
        super().started(stage, number, total)
        if action := self.actions.pop(stage.name, None):
            threading.Thread(target=self._act, args=(stage.name, action)).start()

    def note(self, text: str, stage: Stage) -> None:
        super().note(text, stage)
        if "was lost" in text:
            self.cluster.add_node(num_cpus=1, num_gpus=1)

    def _act(self, stage: str, action: Callable[[psutil.Process], None]) -> None:
        action(task_of(whole_name(stage)))  # its shards have one name on the cluster
        self.done.append(stage)


def test_a_cluster_that_loses_nodes_and_processes_makes_the_bytes_of_one_machine(
    cluster: Any, recipe: Path, alone: Path, tmp_path: Path
) -> None:
    frozen: list[psutil.Process] = []
    run = tmp_path / "run"

    def lose(task: psutil.Process) -> None:
        """The node stops to answer while its task still lives."""
        while not list(run.glob(".work/*mentor*train*/.status.json")):
            time.sleep(0.005)
        raylet = next(parent for parent in task.parents() if parent.pid in raylets(cluster))
        frozen.extend([raylet, *raylet.children(recursive=True)])
        for process in frozen:
            process.suspend()

    actions = {"learners/mentor/seed-1/train": lose, "learners/vanilla/seed-1/train": psutil.Process.kill}
    reporter = Acts(cluster, actions)
    Pipeline(load_recipe(recipe), run, reporter).run(on=cluster.address)
    assert len(reporter.done) == 2
    assert made(run) == made(alone)
    before = set(run.rglob("*"))
    node = raylets(cluster)[frozen[0].pid]
    for process in frozen:  # the lost node comes back
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end its workers before these are told to go on
            process.resume()
    psutil.wait_procs(frozen[1:], timeout=30)
    cluster.remove_node(node, allow_graceful=False)
    assert not [process for process in frozen if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert made(run) == made(alone)
    # What it may write, lies where nobody reads, and the next run removes it.
    assert all(".work/learners.mentor.seed-1.train@" in str(file) for file in set(run.rglob("*")) - before)
    lost = next(note for note in reporter.notes if "mentor/seed-1/train" in note)
    assert re.search(
        r"learners/mentor/seed-1/train: .*node \S+ \([0-9a-f]{8}\).* was lost; it goes on in a new attempt \(2\)", lost
    )
    again = RecordingReporter()
    Pipeline(load_recipe(recipe), run, again).run()
    assert not again.ran
    assert not list((run / ".work").iterdir())


def on_cluster() -> list[psutil.Process]:
    """Processes of stages on the cluster."""
    tasks = []
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith("ray::learners/"):
            tasks.append(process)
    return tasks


def finished_in(run: Path) -> list[str]:
    """The stages that were published, in order, by the log."""
    lines = (run / "log.jsonl").read_text().splitlines() if (run / "log.jsonl").is_file() else []
    return [event["stage"] for event in map(json.loads, lines) if event["event"] == "finished"]


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_a_killed_driver_goes_on_where_it_was(
    cluster: Any, recipe: Path, alone: Path, tmp_path: Path, kills: int
) -> None:
    run, rng = tmp_path / "run", random.Random(kills)
    command = [
        sys.executable,
        "-m",
        "mentorkd",
        "run",
        str(recipe),
        "--run",
        str(run),
        "--on",
        cluster.address,
        "--json",
    ]
    for number in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        before = len(finished_in(run))
        wanted = before + (number % 2) if kills > 1 else 3
        for line in process.stderr:
            if '"started"' in line and len(finished_in(run)) >= wanted:
                break
        time.sleep(rng.uniform(0, 2))
        process.kill()
        process.communicate()
        gone = time.monotonic() + 60
        while on_cluster() and time.monotonic() < gone:
            time.sleep(0.1)
        assert not on_cluster()
    Pipeline(load_recipe(recipe), run).run(on=cluster.address)
    assert made(run) == made(alone)
    published = finished_in(run)
    assert sorted(published) == sorted(set(published)), "nothing finished is done again"


class FillsTheDisk(RecordingReporter):
    """Leaves almost no room on the disk of the run when a score stage starts."""

    def __init__(self, disk: Path) -> None:
        super().__init__()
        self.filling = disk / "filling"

    def started(self, stage: Stage, number: int, total: int) -> None:
        super().started(stage, number, total)
        if stage.kind == "score" and not self.filling.exists():
            room = shutil.disk_usage(self.filling.parent).free
            self.filling.write_bytes(bytes(room - 2 * 4096))


@pytest.mark.slow
def test_a_disk_that_is_full_stops_the_run_and_the_next_goes_on(
    cluster: Any, recipe: Path, alone: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        reporter = FillsTheDisk(disk)
        with pytest.raises(MachineError, match="the disk is full"):
            Pipeline(load_recipe(recipe), disk / "run", reporter).run(on=cluster.address)
        reporter.filling.unlink()
        Pipeline(load_recipe(recipe), disk / "run").run(on=cluster.address)
        assert made(disk / "run") == made(alone)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["augment", "score"])
def test_a_node_is_lost_in_a_shard(cluster: Any, recipe: Path, tmp_path: Path, kind: str) -> None:
    cut = load_recipe(recipe, ["shards=3", "sampling.samples=6", "sampling.max_new_tokens=48"])
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    Pipeline(cut, tmp_path / "alone").run()
    torch.set_num_threads(before)
    stages = Pipeline(cut, tmp_path / "alone").stages
    shard = next(stage.name for stage in stages if stage.kind == kind and stage.name.endswith("shard-1"))

    def lose(task: psutil.Process) -> None:
        raylet = next(parent for parent in task.parents() if parent.pid in raylets(cluster))
        cluster.remove_node(raylets(cluster)[raylet.pid], allow_graceful=False)

    reporter = Acts(cluster, {shard: lose})
    Pipeline(cut, tmp_path / "run", reporter).run(on=cluster.address)
    assert reporter.done == [shard]
    assert any(whole_name(shard) in note and "was lost" in note for note in reporter.notes)
    assert made(tmp_path / "run") == made(tmp_path / "alone")


def test_what_no_node_has_is_refused_with_what_there_is(cluster: Any, recipe: Path, tmp_path: Path) -> None:
    greedy = load_recipe(recipe, ["resources.train.gpus=8"])
    with pytest.raises(RunError) as refused:
        Pipeline(greedy, tmp_path / "run").run(on=cluster.address)
    assert re.fullmatch(
        r"train \(learners/\w+/seed-1/train\) needs 1 CPU and 8 GPUs; the cluster has 1 node with 1 CPU and 0 GPUs and \d nodes "
        r"with 1 CPU and 1 GPU; change `resources` of the recipe, or add a node",
        str(refused.value),
    )


def test_a_stage_that_runs_out_of_memory_gets_one_more_attempt() -> None:
    executor, notes = object.__new__(RayExecutor), []
    attempt = Attempt(Stage("learners/a/seed-1/train", "train", "t", {}, "f"), Path("w"), status={"node": "node x (1)"})
    error = ray.exceptions.OutOfMemoryError("too much")
    notes.append(executor._why_lost(attempt, error))
    with pytest.raises(
        MachineError, match=r"train: node x \(1\) had too little memory, twice; raise `resources.train.cpus`"
    ):
        executor._why_lost(attempt, error)
    assert notes == ["node x (1) had too little memory"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no-such-host.invalid:6379"])
def test_an_address_where_nothing_answers_is_refused_at_once(recipe: Path, tmp_path: Path, address: str) -> None:
    start = time.monotonic()
    with pytest.raises(RunError, match=rf"got --on {address}, and no Ray cluster answers there \(.+\); start one with"):
        Pipeline(load_recipe(recipe), tmp_path / "run").run(on=address)
    assert time.monotonic() - start < 30
    assert not (tmp_path / "run" / ".cluster").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"jobs": 2, "on": "ray"},
            "got --jobs 2 and --on ray; a cluster runs as many stages as its nodes have room for",
        ),
        ({"scratch": Path("/local")}, "got --scratch /local without a cluster"),
        ({"on": "ray", "scratch": Path("local")}, "got --scratch local; expected an absolute path"),
    ],
)
def test_options_of_clusters_that_do_not_fit_are_refused(
    recipe: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        Pipeline(load_recipe(recipe), tmp_path / "run").run(**options)
