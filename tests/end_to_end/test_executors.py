"""Several stages at a time: the same results as one after the other, whatever is killed."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
import torch

from made_by_stages import made
from mentorkd.errors import Fault, MissingExtraError, RecipeError, TrainingError, WorkerError
from mentorkd.pipeline import resources
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.executors import run_stage as run_stage_file
from mentorkd.pipeline.executors.processes import ProcessExecutor
from mentorkd.pipeline.executors.run_stage import run_stage
from mentorkd.pipeline.records import ScoreRecord
from mentorkd.pipeline.run import Pipeline
from mentorkd.pipeline.run_folder import RunFolder, Stage
from mentorkd.pipeline.stages import step_of
from mentorkd.recipe.learner import Learner
from mentorkd.recipe.load import load_recipe
from mentorkd.worker_processes import picklable
from recording_reporter import RecordingReporter
from small_recipe import small_recipe

TIMES = {"seconds", "cpu_seconds", "gpu_seconds", "peak_memory_mb", "made_by"}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Numbers of threads may change the last bit of a sum."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    raw = small_recipe(folder, seeds=[1, 2])
    raw["training"] |= {"epochs": 1, "select_on": "last"}
    raw["sampling"] |= {"samples": 1, "max_new_tokens": 4}
    (folder / "recipe.yaml").write_text(json.dumps(raw))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def in_turn(recipe: Path) -> Path:
    """The run folder of the recipe, its stages carried out one after the other, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    Pipeline(load_recipe(recipe), recipe.parent / "run").run()
    torch.set_num_threads(before)
    return recipe.parent / "run"


def of_this_process() -> set[psutil.Process]:
    """Its workers; other tests may have left children of other kinds."""
    children = [child for child in psutil.Process().children() if not ended(child)]
    return {child for child in children if any("serve()" in word for word in child.cmdline())}


def ended(process: psutil.Process) -> bool:
    """Whether it runs no more; one that nobody has collected yet is a zombie."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def started(process: subprocess.Popen[str], stage: str) -> list[psutil.Process]:
    """The workers of a run, once a stage has been started."""
    assert process.stderr is not None
    for line in process.stderr:
        event = json.loads(line)
        if event["event"] == "started" and event["stage"] == stage:
            return psutil.Process(process.pid).children()
    raise AssertionError("it has never started")


def run_with_two(recipe: Path, run: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mentorkd", "run", str(recipe), "--run", str(run), "--jobs", "2", "--json"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # who started the tests may ignore it
    )


@pytest.mark.slow
def test_two_at_a_time_make_what_one_after_the_other_makes(recipe: Path, in_turn: Path, tmp_path: Path) -> None:
    reporter = RecordingReporter()
    manifest = Pipeline(load_recipe(recipe), tmp_path / "run", reporter).run(jobs=2)
    assert made(tmp_path / "run") == made(in_turn)
    alone = json.loads((in_turn / "manifest.json").read_text())
    assert (alone["jobs"], manifest["jobs"]) == (1, 2)
    assert list(manifest["stages"]) == list(alone["stages"])
    assert len(reporter.ran) == len(alone["stages"])
    for name, record in alone["stages"].items():
        other = manifest["stages"][name]
        apart = TIMES | ({"files"} if name == "report" else set())  # a report shows times
        assert {k: v for k, v in record.items() if k not in apart} == {k: v for k, v in other.items() if k not in apart}
    at_work, most = 0, 0
    for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines():
        at_work += 1 if json.loads(line)["event"] == "started" else -1
        most = max(most, at_work)
    assert most == 2
    again = RecordingReporter()
    Pipeline(load_recipe(recipe), tmp_path / "run", again).run(jobs=2)
    assert again.kept == list(alone["stages"])
    assert not again.ran


@pytest.mark.slow
def test_a_failing_stage_says_the_same(recipe: Path, tmp_path: Path) -> None:
    broken = load_recipe(recipe, ["learners.mentor.training.learning_rate=1e30", "match=epochs"])
    told = {}
    for jobs in (1, 2):
        with pytest.raises(TrainingError) as caught:
            Pipeline(broken, tmp_path / str(jobs)).run(jobs=jobs)
        # Either seed may be the first to fail; its rows are its own.
        told[jobs] = re.sub(r"[0-9a-f]{16}", "ID", str(caught.value)).replace("seed-2", "seed-1")
        assert not of_this_process()
    assert told[1] == told[2]
    assert "in run_stage" in str(caught.value.__cause__)


class Killer(RecordingReporter):
    """Kills the workers when a training makes progress."""

    def progress(self, stage: Any, done: int, total: int) -> None:
        if stage.kind == "train":
            for worker in of_this_process():
                worker.kill()


def test_whatever_is_killed_the_run_goes_on_to_the_same_end(recipe: Path, in_turn: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(WorkerError, match=r"learners/\w+/seed-\d/train: its process was ended by SIGKILL \(out of mem"):
        Pipeline(load_recipe(recipe), run, Killer()).run(jobs=2)
    process = run_with_two(recipe, run)
    left = started(process, "learners/mentor/seed-2/train")
    assert len(left) == 2
    process.kill()
    process.communicate()
    Pipeline(load_recipe(recipe), run).run()
    assert all(ended(process) for process in left)
    assert made(run) == made(in_turn)


def test_interrupted_it_ends_quietly(recipe: Path, tmp_path: Path) -> None:
    process = run_with_two(recipe, tmp_path / "run")
    left = started(process, "prepare")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert [line for line in err.splitlines() if not line.startswith("{")] == [
        "mentorkd: interrupted; the same command resumes"
    ]
    assert not psutil.wait_procs(left, timeout=5)[1]


def test_the_lock_waits_for_workers(tmp_path: Path) -> None:
    folder, held, left = RunFolder(tmp_path), threading.Event(), threading.Event()

    def work() -> None:
        with folder.in_use(0):
            held.set()
            time.sleep(0.3)
            left.set()

    threading.Thread(target=work).start()
    assert held.wait(5)
    with folder.lock():
        assert left.is_set()


@pytest.mark.parametrize("error", [RecipeError("r.yaml", [Fault("seeds", "none", 3)]), MissingExtraError("it", "math")])
def test_errors_cross_processes(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_an_error_that_cannot_cross_is_told_in_words() -> None:
    assert str(picklable(ValueError("a lock", threading.Lock()))).startswith("ValueError: ('a lock', <unlocked")


@pytest.mark.parametrize(("visible", "found"), [("3,5", ["3", "5"]), ("GPU-8932f937", ["GPU-8932f937"]), ("", [""])])
def test_gpus_are_those_that_this_process_sees(monkeypatch: pytest.MonkeyPatch, visible: str, found: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert resources.visible_gpus() == found


def test_a_stage_that_asks_for_the_accelerator_is_billed_for_it(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor's clock does not run while a GPU works; what is billed is the time for which it is held."""
    monkeypatch.setattr("mentorkd.pipeline.context.resolve_device", lambda name: torch.device("cuda"))
    pipeline = Pipeline(load_recipe(recipe), tmp_path / "run")

    def score(context: RunContext, stage: Stage, workdir: Path) -> ScoreRecord:
        time.sleep(0.01)
        return ScoreRecord(rows=0, form=context.device.type, bytes=0)

    monkeypatch.setattr(run_stage_file, "step_of", lambda kind: score if kind == "score" else step_of(kind))
    stages = [next(s for s in pipeline.stages if s.kind == kind) for kind in ("prepare", "annotate", "score")]
    with pipeline.folder.lock():
        records = []
        for stage in stages:
            workdir = pipeline.folder.begin(stage)
            records.append(run_stage(stage, pipeline.recipe, pipeline.folder, workdir))
            pipeline.folder.publish(stage, workdir, records[-1])
    assert [record.gpu_seconds > 0 for record in records] == [False, False, True]
    assert records[2].gpu_seconds == records[2].seconds
    assert records[2].form == "cuda"


REFUSED = """
import sys
from pathlib import Path
from mentorkd.errors import RecipeError
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import load_recipe
try:
    Pipeline(load_recipe(Path(sys.argv[1]), ["learners.vanilla.sampling.engine=vllm"]), Path(sys.argv[2])).run(jobs=2)
except RecipeError as error:
    print(error, "torch" in sys.modules)
"""


def test_a_worker_checks_so_that_this_process_imports_no_torch(recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", REFUSED, str(recipe), str(tmp_path / "run")]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert re.search(r"learners\.vanilla\.sampling\.engine: vllm (is not|serves)", told)
    if not resources.may_have_gpu():
        assert told.endswith("False\n")
    assert not (tmp_path / "run" / "data").exists()


class WarnsWhenRead:
    """Stands for a recipe whose reader warns of it."""

    device = "cpu"
    learners: ClassVar[dict[str, Learner]] = {"any": Learner.model_validate({"model": "any"})}

    def __reduce__(self) -> tuple[Any, ...]:
        return logging.getLogger("mentorkd.files").warning, ("a journal is %s", "damaged")


@pytest.mark.slow
def test_what_a_worker_warns_of_is_logged_here(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    setup: Any = (WarnsWhenRead(), RunFolder(tmp_path), lambda *_: None, lambda *_: None)
    with closing(ProcessExecutor(1, 1, *setup)) as executor, pytest.raises(AttributeError):
        executor.check({"train"})
    [record] = caplog.records
    assert (record.name, record.levelname) == ("mentorkd.files", "WARNING")
    assert record.getMessage() == "a journal is damaged"
    assert "damaged" not in capfd.readouterr().err
