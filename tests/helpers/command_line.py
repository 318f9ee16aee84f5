"""The command line, run in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable

import pytest

from mentorkd.cli.main import main

__all__ = ["Cli", "Outcome", "cli", "processor_seconds"]

Cli = Callable[..., "Outcome"]


class Outcome:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in this process."""

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["mentorkd", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call


def processor_seconds(code: str, *arguments: str) -> tuple[float, str]:
    """Seconds of processor time that a Python process needs for `code`, the best of three, and what it printed.

    Processor time and not the clock: the machine may be busy with other tests.
    """
    best, printed = float("inf"), ""
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-c", code, *arguments]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best, printed
