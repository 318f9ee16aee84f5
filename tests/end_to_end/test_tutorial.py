"""docs/tutorial.md: its files are written, its commands run in their order, and what they print is what the page shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from places import ROOT

PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```\w+\n# ([\w.]+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
SESSIONS = re.findall(r"^```console\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
FREE = ("no difference can be shown", " beats ", " = ")
"""Words of a verdict and of a model's texts, which may be others on another processor."""


def commands_of(session: str) -> Iterator[tuple[str, list[str]]]:
    """The commands of a session, each with the lines that the page shows of its output; `...` stands for others."""
    for part in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
        command, *shown = part.rstrip("\n").split("\n")
        while command.endswith("\\"):
            command = command.removesuffix("\\") + shown.pop(0)
        yield command, [line for line in shown if line.strip() != "..." and not any(word in line for word in FREE)]


def without_numbers(line: str) -> str:
    """A line in which only its words count: numbers differ between processors, and so does the width of a column."""
    plain = re.sub(r"[\d.,]*\d|\b[0-9a-f]{8,}\b", "N", line)
    return " ".join(re.sub(r"([━─])+", r"\1", plain).split())


def test_the_page_has_files_and_commands() -> None:
    assert {"make_csv.py", "recipe.yaml"} <= set(FILES)
    commands = [command for session in SESSIONS for command, _ in commands_of(session)]
    assert {"import", "plan", "run", "ask", "serve"} <= {each.split()[1] for each in commands if "mentorkd" in each}


@pytest.mark.slow
def test_the_tutorial_runs_and_prints_what_the_page_shows(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="the tutorial serves a model; `make setup` installs the extra `serve`")
    (tmp_path / "bin").mkdir()
    for name, arguments in {"mentorkd": "-m mentorkd ", "python": ""}.items():
        file = tmp_path / "bin" / name
        file.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
        file.chmod(0o755)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    servers: list[subprocess.Popen[str]] = []
    try:
        for command, shown in (each for session in SESSIONS for each in commands_of(session)):
            if command.startswith("mentorkd serve"):
                server = subprocess.Popen(
                    f"exec {command}", shell=True, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE
                )
                servers.append(server)
                assert server.stdout is not None
                printed = server.stdout.readline()
            else:
                done = subprocess.run(
                    command, shell=True, cwd=tmp_path, env=environment, text=True, capture_output=True
                )
                assert done.returncode == 0, f"{command}: {done.stderr}"
                printed = done.stdout + done.stderr
            lines = {without_numbers(line) for line in printed.splitlines()}
            missing = [line for line in shown if without_numbers(line) not in lines]
            assert not missing, f"{command} does not print {missing}, but:\n{printed}"
    finally:
        for server in servers:
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=10)
