"""What the shell completes, and that it stays light."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import Cli
from mentorkd.cli.completion import run_folders, shipped_names
from mentorkd.cli.shipped import shipped_recipes

CODE = """
import atexit, sys
from mentorkd.cli.app import app
atexit.register(lambda: print("torch" in sys.modules, file=sys.stderr))
app(prog_name="mentorkd")
"""


def completed(words: str, folder: Path) -> list[str]:
    """The completions of bash for a command line; they bring in no torch."""
    typed = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1), "_MENTORKD_COMPLETE": "complete_bash"}
    environment = {**os.environ, **typed}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.stderr.split() == ["False"]
    return done.stdout.split()


def test_recipes_and_folders_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums.yaml").touch()
    (tmp_path / "sums.txt").touch()
    (tmp_path / "runs" / "one").mkdir(parents=True)
    found = completed("mentorkd plan s", tmp_path)
    assert {"shuffled", "svamp", "sums.yaml"} < set(found)
    assert "sums.txt" not in found
    assert run_folders("runs/o") == ["runs/one/"]
    assert run_folders("absent/") == []
    assert shipped_names("shuffled-") == ["shuffled-from-scratch"]


def test_help_has_one_line_for_completion(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    shown = cli("--help").out
    assert shown.count("--install-completion") == 1


def test_a_shipped_recipe_is_printed_as_it_is(cli: Cli) -> None:
    assert cli("recipes", "show", "svamp").out == shipped_recipes()["svamp"].read_text(encoding="utf-8")
    refused = cli("recipes", "show", "svmap")
    assert (refused.code, refused.err) == (
        2,
        "mentorkd: got svmap, which is no shipped recipe; did you mean `svamp`?\n",
    )
