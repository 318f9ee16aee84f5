"""The kit for one GPU: what it says of a GPU that is too small, of none, and of an old interpreter; its estimates."""

from __future__ import annotations

import importlib.util
import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mentorkd.errors import RunError
from mentorkd.paper.tasks import PAPER_TASKS
from mentorkd.pipeline.estimates.machine import machine_of
from places import ROOT

TASK = PAPER_TASKS["svamp"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("paper_on_a_gpu", ROOT / "scripts" / "paper_on_a_gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run on ten questions with rationales of about 300 tokens."""
    folder = tmp_path_factory.mktemp("kit")
    rows: list[dict[str, Any]] = [
        {"input": f"What is {n} + 1? " + "Think. " * 20, "answer": str(n + 1)} for n in range(10)
    ]
    rationales = [{**row, "chain": "Add one. " * 130, "initial_correct": True} for row in rows]
    for name, content in ((TASK.train, rows), (TASK.test, rows[:4]), (TASK.teacher, rationales)):
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).write_text(json.dumps(content), encoding="utf-8")
    return script.TableRun(TASK, "fair", folder, folder / "data")


def test_the_run_is_the_papers_table_without_the_larger_students(run: Any) -> None:
    learners = ["mentor", "small-vanilla-kd", "small-mcc-kd", "small-mentor-kd"]
    assert list(run.recipe.learners) == learners
    assert (run.recipe.protocol, run.recipe.match) == ("fair", "updates")
    assert run.command[:3] == ["reproduce", "table2", "protocol=fair"]


def test_a_gpu_that_is_too_small_gives_one_line_with_settings_that_fit(script: ModuleType, run: Any) -> None:
    needed = run.assess(machine_of("cuda", gpu_memory=80)).most_memory
    assert (needed.learner, needed.work) == ("mentor", "train")
    script.check_memory(run, machine_of("cuda", gpu_memory=needed.total / 1e9 + 0.1))
    machine = machine_of("cuda", gpu_memory=needed.total / 1e9 - 0.1)
    with pytest.raises(RunError, match=r"^svamp-fair: to train mentor takes about [\d.]+ GB, and a GPU of") as caught:
        script.check_memory(run, machine)
    line = str(caught.value)
    assert "\n" not in line
    changes = shlex.split(line.partition("keeps its rows): ")[2])
    assert changes == ["learners.mentor.training.batch_size=4", "learners.mentor.training.gradient_accumulation=2"]
    script.check_memory(run.changed(changes), machine)


@pytest.mark.slow
def test_every_smaller_setting_keeps_the_rows_of_an_update_and_takes_less(script: ModuleType, run: Any) -> None:
    peaks = []
    for setting in script.SMALLER:
        changed = run.changed(script.smaller(setting))
        training = changed.recipe.learners["mentor"].training
        assert training.batch_size * training.gradient_accumulation == 8
        peaks.append(changed.assess(machine_of("cuda", gpu_memory=80)).most_memory.total)
    assert peaks == sorted(set(peaks), reverse=True)
    with pytest.raises(RunError, match="another experiment"):
        script.check_memory(run, machine_of("cuda", gpu_memory=12))


def test_the_forecast_is_an_estimate_and_refuses_a_full_disk(
    script: ModuleType, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assessments = [run.assess(machine_of("cuda", gpu_memory=80))] * 2
    monkeypatch.setattr(type(assessments[0]), "disk_free", 10**12)
    assert "estimates, which nobody has compared with a GPU" in script.forecast(assessments)
    monkeypatch.setattr(type(assessments[0]), "disk_free", 10**9)
    with pytest.raises(RunError, match=r"and 1\.0 GB are free; name another folder with --folder"):
        script.forecast(assessments)


def test_without_a_gpu_the_line_says_what_to_do(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RunError, match=r"finds no GPU, and only `--smoke` needs none; .* TORCH_INDEX"):
        script.find_gpu()


def test_a_gpu_without_bfloat16_is_estimated_in_float32(script: ModuleType, run: Any) -> None:
    assert script.precision_of({"compute_capability": "8.0"}) == []
    old = run.changed(script.precision_of({"compute_capability": "7.5"}))
    assert old.overrides == ("training.precision=float32",)


def test_data_that_is_missing_is_refused_and_no_learner_left_out(script: ModuleType, run: Any, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"svamp-fair cannot be run: no file at .*; `fetch it` downloads"):
        script.check_run(replace(run, data=tmp_path), "fetch it")


def test_an_old_interpreter_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "ENVIRONMENT": str(tmp_path / "environment")}
    command = ["sh", "scripts/paper_on_a_gpu.sh"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(f"got {python}; expected Python 3.11 or later; name it: PYTHON=")
    assert not (tmp_path / "environment").exists()
