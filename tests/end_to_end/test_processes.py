"""A learner over several processes: what one process makes with as many times the accumulation, whatever is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from finished import copy_run
from mentorkd.errors import RecipeError, TrainingError, WorkerError
from mentorkd.pipeline.preflight import check_models
from mentorkd.pipeline.records import TrainRecord
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import load_recipe
from recording_reporter import RecordingReporter
from small_recipe import small_recipe
from tiny_training import assert_same

STUDENT = Path("learners", "student", "seed-1")
TRAINING = f"{STUDENT}/train"
TWICE = "learners.student.training.gradient_accumulation=2"
TWO = "learners.student.training.processes=2"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Other numbers of threads may change the last bit of a sum."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student with soft labels, without dropout: several processes would drop other units than one."""
    folder = tmp_path_factory.mktemp("processes")
    raw = small_recipe(folder)
    del raw["learners"]["vanilla"]
    for learner in raw["learners"].values():
        learner["model"]["from_config"]["dropout_rate"] = 0.0
    raw["learners"]["mentor"]["training"] = {"epochs": 1, "select_on": "last"}
    raw["training"] |= {"epochs": 2}
    raw["sampling"] |= {"samples": 1, "max_new_tokens": 6}
    (folder / "recipe.yaml").write_text(json.dumps(raw))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def alone(recipe: Path) -> Path:
    """The run folder of one process with twice the accumulation."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    Pipeline(load_recipe(recipe, [TWICE]), recipe.parent / "alone").run()
    torch.set_num_threads(before)
    return recipe.parent / "alone"


@pytest.fixture(scope="module")
def together(recipe: Path, alone: Path) -> Path:
    """The run folder of two processes. Its mentor is that of `alone`."""
    run = copy_run(alone, recipe.parent / "together")
    Pipeline(load_recipe(recipe, [TWO]), run).run()
    return run


def of_a_training(parent: int | None = None) -> list[psutil.Process]:
    """The processes of the trainings that `parent`, or else this process, carries out."""
    children = psutil.Process(parent).children(recursive=True)
    return [child for child in children if alive(child) and any("process_group" in word for word in child.cmdline())]


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def history(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / STUDENT / "metrics.jsonl").read_text().splitlines()]


def student(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / STUDENT / "model" / "model.safetensors")


def assert_equal_within_rounding(run: Path, other: Path) -> None:
    assert_same(student(run), student(other), rtol=1e-3, atol=1e-4)
    for row, expected in zip(history(run), history(other), strict=True):
        assert row == {name: pytest.approx(value, rel=1e-3) for name, value in expected.items()}


class Watcher(RecordingReporter):
    """Calls a function with the progress of the student's training."""

    def __init__(self, watch: Callable[[int, int], None]) -> None:
        super().__init__()
        self.watch = watch

    def replacing(self, stages: list[Any]) -> None: ...

    def progress(self, stage: Any, done: int, total: int) -> None:
        super().progress(stage, done, total)
        if stage.name == TRAINING:
            self.watch(done, total)


def test_two_processes_make_what_one_makes_with_twice_the_accumulation(alone: Path, together: Path) -> None:
    assert_equal_within_rounding(together, alone)
    assert (together / STUDENT / "predictions.jsonl").read_bytes() == (
        alone / STUDENT / "predictions.jsonl"
    ).read_bytes()
    records = [json.loads((run / "manifest.json").read_text())["stages"][TRAINING] for run in (together, alone)]
    for key in (
        "rows",
        "updates",
        "epochs",
        "target_tokens",
        "best_step",
        "validation_accuracy",
        "matched",
        "fused_loss",
    ):
        assert records[0][key] == records[1][key], key
    assert records[0]["fingerprint"] != records[1]["fingerprint"]
    assert records[0]["peak_memory_mb"] > 1.5 * records[1]["peak_memory_mb"]
    learners = [json.loads((run / "report" / "results.json").read_text())["learners"] for run in (together, alone)]
    assert [each["per_seed"] for each in learners[0]] == [each["per_seed"] for each in learners[1]]
    assert not of_a_training()
    assert not list(together.glob(".worker-*"))


@pytest.mark.slow
def test_whatever_is_killed_the_training_goes_on_to_the_same_end(
    recipe: Path, alone: Path, together: Path, tmp_path: Path
) -> None:
    run, killed = copy_run(alone, tmp_path / "run"), []

    def kill_one(done: int, total: int) -> None:
        if 0 < done < total and not killed:
            killed.append(of_a_training()[1])
            killed[0].kill()

    with pytest.raises(WorkerError) as caught:
        Pipeline(load_recipe(recipe, [TWO]), run, Watcher(kill_one)).run()
    assert str(caught.value) == (
        f"{TRAINING}: process 2 of 2 was ended by SIGKILL (out of memory? then take smaller batches, or fewer "
        "`training.processes`); run the same command to go on"
    )
    assert not of_a_training()

    command = [sys.executable, "-m", "mentorkd", "run", str(recipe), TWO, "--run", str(run), "--jobs", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (left := list(run.glob(".work/*/**/checkpoint-*/trainer_state.json"))) and process.poll() is None:
        time.sleep(0.01)
    assert left, "it ended without a checkpoint"
    processes = of_a_training(process.pid)
    assert len(processes) == 2
    process.kill()
    process.wait()
    resumed_at: list[int] = []
    Pipeline(load_recipe(recipe, [TWO]), run, Watcher(lambda done, total: resumed_at.append(done))).run()
    assert not any(alive(each) for each in processes)
    assert resumed_at[0] > 0
    assert_same(student(run), student(together), rtol=0, atol=0)
    assert history(run) == history(together)
    assert not list(run.glob(".worker-*"))


@pytest.mark.slow
def test_an_error_of_a_process_is_the_error_of_the_stage(recipe: Path, alone: Path, tmp_path: Path) -> None:
    run = copy_run(alone, tmp_path / "run")
    broken = load_recipe(recipe, [TWO, "learners.student.training.learning_rate=1e30"])
    with pytest.raises(
        TrainingError, match=r"^the loss became \w+ at step \d, and training stopped before that update"
    ):
        Pipeline(broken, run).run()
    assert not of_a_training()


@pytest.mark.parametrize(("device", "devices"), [("cuda", "1 cuda device here"), ("mps", "1 mps device here")])
def test_more_processes_than_devices_are_refused_before_anything_runs(
    device: str, devices: str, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mentorkd.pipeline.preflight.resolve_device", lambda name: torch.device(device))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RecipeError) as caught:
        check_models(load_recipe(recipe, [TWO]))
    [fault] = caught.value.faults
    assert fault.key == "learners.student.training.processes"
    assert fault.message.startswith(f"got 2 processes, and a stage has {devices}")
    check_models(load_recipe(recipe))


@pytest.mark.slow
def test_sharded_weights_make_the_same(recipe: Path, alone: Path, tmp_path: Path) -> None:
    run = copy_run(alone, tmp_path / "run")
    Pipeline(load_recipe(recipe, [TWO, "learners.student.training.sharding=fsdp"]), run).run()
    assert_equal_within_rounding(run, alone)


@pytest.mark.slow
def test_adapters_and_own_texts_have_several_processes(recipe: Path, alone: Path, tmp_path: Path) -> None:
    changes = ["learners.student.rationales=[teacher, self]", "learners.student.own_texts={rounds: 1}"]
    changes += ["learners.student.model.lora={r: 2, dropout: 0.0}", "learners.student.own_texts.samples=1"]
    runs = {}
    for name, setting in {"alone": TWICE, "together": TWO}.items():
        runs[name] = Pipeline(load_recipe(recipe, [setting, *changes]), copy_run(alone, tmp_path / name))
        runs[name].run()
    for number in (0, 1):
        stage = f"{STUDENT}/round-{number}/train"
        records = [pipeline.folder.record_of(TrainRecord, stage) for pipeline in runs.values()]
        assert records[0].updates == records[1].updates
        weights = [load_file(pipeline.folder.model(stage) / "model.safetensors") for pipeline in runs.values()]
        assert_same(*weights, rtol=1e-3, atol=1e-3)
