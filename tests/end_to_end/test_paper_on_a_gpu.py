"""The kit for one GPU from end to end, on tiny models: killed, continued, collected, compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from places import ROOT

SCRIPT = ROOT / "scripts" / "paper_on_a_gpu.sh"
LEARNERS = ["mentor", "small-vanilla-kd", "small-mcc-kd", "small-mentor-kd"]
RUNS = {f"{task}-fair" for task in ("tracking_shuffled_objects", "last_letter_concatenation", "svamp")}


def start(*arguments: object) -> subprocess.Popen[str]:
    """The kit with the environment of the tests, in a process group of its own."""
    variables = {**os.environ, "ENVIRONMENT": sys.prefix, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = ["sh", str(SCRIPT), *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd="/", env=variables, start_new_session=True, **pipes)


def finished(*arguments: object) -> tuple[str, str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out, err


@pytest.mark.slow
def test_a_killed_kit_continues_and_collects_what_compare_reads(shared_data: Path, tmp_path: Path) -> None:
    options = ["--smoke", "--data", shared_data / "mentor-kd", "--folder", tmp_path]
    first = tmp_path / "runs" / "tracking_shuffled_objects-fair"
    killed = start(*options)
    while not (first / "learners" / "mentor").exists():
        assert killed.poll() is None, killed.communicate()[1]
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "results").exists()

    out, err = finished(*options)
    assert err.count("prepare") == 2  # the killed run had prepared its data
    assert "its numbers have no meaning" in out
    assert {folder.name for folder in (tmp_path / "results").iterdir() if folder.is_dir()} == RUNS
    for name in RUNS:
        results, run = (
            json.loads((tmp_path / "results" / name / f"{file}.json").read_text()) for file in ("results", "run")
        )
        assert [learner["name"] for learner in results["learners"]] == LEARNERS
        assert run["manifest"]["git"] == commit()
        assert {"torch", "transformers", "mentorkd"} <= run["manifest"]["versions"].keys()
    assert len([line for line in out.splitlines() if line.startswith("| SVAMP | fair | `")]) == len(LEARNERS)
    assert (tmp_path / "results" / "table.md").read_text() in out
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        assert {"machine.json", "table.md", "svamp-fair/results.json", "svamp-fair/run.json"} <= {*archive.namelist()}
        archive.extractall(tmp_path / "theirs")

    again, err = finished(*options, "--protocol", "both", "--task", "svamp")
    assert err.count("prepare") == 1  # of the paper's protocol; the fair run was only read
    assert "| SVAMP | paper | `mentor` | 14.0* |" in again
    folders = [str(tmp_path / "theirs" / "svamp-fair"), str(tmp_path / "results" / "svamp-paper")]
    command = [sys.executable, "-m", "mentorkd", "compare", *folders, "--out", str(tmp_path / "compared")]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    compared = json.loads((tmp_path / "compared" / "results.json").read_text())
    assert len(compared["learners"]) == 2 * len(LEARNERS)


def commit() -> str:
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=ROOT, capture_output=True, text=True)
    return head.stdout.strip() + "+" * bool(changed.stdout.strip())


@pytest.mark.slow
def test_the_page_has_the_estimates_of_the_kit(shared_data: Path) -> None:
    out, _ = finished("--estimate", "--data", shared_data / "mentor-kd")
    assert out.strip() in (ROOT / "docs" / "paper-on-a-gpu.md").read_text(encoding="utf-8")
