"""A full disk, no memory, no locks, signals, devices instead of files: one line, exit code 2, and the same command goes on."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from command_line import Cli
from mentorkd.pipeline.executors import run_stage as run_stage_file
from mentorkd.recipe.load import load_recipe


@pytest.fixture(scope="module")
def folder(small_run: Path) -> Path:
    """A folder with the small recipe, finished in `run`."""
    return small_run


@pytest.mark.parametrize("models", [0, 0.5, 1.5], ids=["notes", "weights", "optimiser"])
def test_a_run_on_a_full_disk_gives_one_line_and_goes_on(cli: Cli, folder: Path, models: float) -> None:
    weights = folder / "run" / "learners" / "vanilla" / "seed-1" / "model" / "model.safetensors"
    size = int(models * weights.stat().st_size) or 1_000
    stage = "learners/vanilla/seed-1/train"
    command = ["run", folder / "recipe.yaml", "--run", folder / "run", "--quiet"]
    (folder / "run" / "log.jsonl").unlink(missing_ok=True)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        refused = cli(*command, "--force", stage)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert refused.err.startswith(f"mentorkd: {stage}: {folder / 'run'}" if size > 1_000 else "mentorkd: ")
    assert "the disk is full, or its quota is used up; free some space, and the same command goes on" in refused.err
    resumed = cli(*command)
    assert resumed.code == 0, resumed.err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "not enough memory; stop other programs"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "not enough memory; stop other programs"),
        (OSError(errno.EROFS, "Read-only file system", "/mnt/x"), "/mnt/x: the disk is read-only"),
    ],
    ids=["memory", "GPU memory", "read-only"],
)
def test_a_stage_that_the_machine_refuses_gives_one_line(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(run_stage_file, "step_of", lambda kind: refuse)
    outcome = cli("run", folder / "recipe.yaml", "--run", folder / "run", "--force", "report", "--quiet")
    assert outcome.code == 2
    assert outcome.err.startswith(f"mentorkd: report: {message}")
    assert outcome.err.count("\n") == 1
    monkeypatch.undo()
    assert cli("run", folder / "recipe.yaml", "--run", folder / "run", "--quiet").code == 0


def test_a_file_system_without_locks_is_named(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    outcome = cli("run", folder / "recipe.yaml", "--run", folder / "run", "--force", "report", "--quiet")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "this file system has no locks; put the run folder on a local disk" in outcome.err


SIGNALLED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in the background without one
class Hook:
    def find_spec(self, name, *_):
        if name == MODULE:
            os.kill(os.getpid(), SIGNAL)
sys.meta_path.insert(0, Hook())
from mentorkd.cli.main import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "mentorkd.pipeline.plan"])
@pytest.mark.parametrize(
    ("signal", "code", "message"),
    [
        ("SIGINT", 130, "mentorkd: interrupted; the same command resumes"),
        ("SIGTERM", 143, "mentorkd: terminated (SIGTERM); the same command resumes"),
    ],
)
def test_signals_give_one_line_from_the_first_import_on(
    folder: Path, module: str, signal: str, code: int, message: str
) -> None:
    program = SIGNALLED.replace("MODULE", repr(module)).replace("SIGNAL", f"signal.{signal}")
    command = [sys.executable, "-c", program, "plan", str(folder / "recipe.yaml")]
    outcome = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert outcome.returncode == code
    assert [line for line in outcome.stderr.splitlines() if line.strip() not in ("", "Aborted.", "Aborted!")] == [
        message
    ]


def test_little_is_imported_before_the_entry_point_runs() -> None:
    program = "import sys; import mentorkd.cli.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"typer", "rich", "pydantic", "mentorkd.errors"} & set(loaded)


def test_devices_and_folders_are_no_files(cli: Cli, folder: Path, tmp_path: Path) -> None:
    recipe, run = folder / "recipe.yaml", tmp_path / "run"
    (tmp_path / "file").write_text("x")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    for arguments in (
        ["run", "/dev/zero"],
        ["run", "./"],
        ["plan", recipe, "task.train=/dev/zero"],
        ["plan", recipe, f"task.test={tmp_path}"],
        ["plan", recipe, f"teacher.rationales={tmp_path / 'zero.jsonl'}"],
        ["plan", recipe, "learners.student.model.tokenizer=/dev/zero"],
        ["run", recipe, "--run", tmp_path / "file"],
        ["run", recipe, "--run", "/dev/null"],
        ["import", tmp_path / "zero.jsonl", "--answer=number", "--output", tmp_path / "data"],
        ["import", folder / "data" / "train.jsonl", "--answer=number", "--output", tmp_path / "file"],
        ["evaluate", folder / "run", "--learner=student", "--questions", tmp_path / "zero.jsonl"],
        ["evaluate", folder / "run", "--learner=student", "--questions", tmp_path],
        ["cache", "export", "/dev/zero", tmp_path / "out.jsonl"],
    ):
        outcome = cli(*arguments)
        assert outcome.code == 2, (arguments, outcome.err)
        assert outcome.err.count("\n") <= 2, (arguments, outcome.err)
        assert "Traceback" not in outcome.err, (arguments, outcome.err)
    assert not run.exists()


def test_deep_nesting_in_a_data_file_is_told_with_its_row(cli: Cli, tmp_path: Path) -> None:
    deep = "[" * 100_000
    for name, text in (("a.jsonl", '{"question": "q", "answer": "1"}\n' + deep), ("b.json", deep)):
        (tmp_path / name).write_text(text)
        outcome = cli("import", tmp_path / name, "--answer=number", "--output", tmp_path / "data")
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert name in outcome.err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"seeds={json.dumps(list(range(20_000)))}", "seeds: got 20,000; expected at most 1,000"),
        (
            f"sweep.student.temperature={json.dumps([1 + number / 10_000 for number in range(10_000)])}",
            "sweep: makes 10,000 combinations; expected at most 1,000",
        ),
        (
            f"learners.student.search={{learning_rate: {[number / 1e4 for number in range(1, 200)]}, "
            f"kd_weight: {[number / 1e3 for number in range(1, 200)]}}}",
            "makes 39,603 trainings",
        ),
        (f"learners.student.model.from_config.{'.'.join('a' * 60)}=1", "nested more than 50 levels deep"),
    ],
    ids=["seeds", "sweep", "search", "nesting"],
)
def test_recipes_of_absurd_size_are_refused_at_once(cli: Cli, folder: Path, override: str, message: str) -> None:
    outcome = cli("plan", folder / "recipe.yaml", override)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err) < 1000


def test_a_chain_of_learners_may_be_longer_than_the_stack(folder: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    names = [f"l{number}" for number in range(1100)]
    recipe["learners"] = {names[0]: {"model": "m"}}
    recipe["learners"] |= {name: {"model": "m", "rationales": [before]} for before, name in pairwise(names)}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert list(load_recipe(tmp_path / "recipe.yaml").learners) == names


def test_a_few_trials_are_drawn_from_a_grid_of_any_size(folder: Path) -> None:
    from mentorkd.recipe.search import trials_of

    values = {
        key: [number / 1000 for number in range(1, 900)] for key in ("kd_weight", "learning_rate", "weight_decay")
    }
    search = json.dumps({**values, "trials": 3})
    recipe = load_recipe(
        folder / "recipe.yaml",
        [f"learners.student.search={search}", "learners.vanilla.search={learning_rate: [1, 2, 3]}"],
    )
    assert len(trials_of(recipe.learners["student"])) == 3
