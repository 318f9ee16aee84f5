"""Symbolic answers: correct verdicts, and a verifier that survives endless work, kills and stray output."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from mentorkd.errors import DataError, MissingExtraError, install_command
from mentorkd.grading.math import MathVerifier

pytest.importorskip("math_verify", reason="the extra `math` is not installed")


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    with closing(MathVerifier(seconds=20.0)) as made:
        yield made


@pytest.mark.parametrize(
    ("text", "gold", "verdict"),
    [
        ("Therefore, the answer is $\\frac{1}{2}$.", "0.5", "correct"),
        ("Therefore, the answer is 0.5.", "\\frac{1}{2}", "correct"),
        ("So \\boxed{1+\\sqrt{2}}", "\\sqrt{2}+1", "correct"),
        ("The answer is $x^2+2x+1$", "(x+1)^2", "correct"),
        ("The answer is $(1,2)$", "(1,2)", "correct"),
        ("The answer is $\\{2,1\\}$", "\\{1,2\\}", "correct"),
        ("Therefore, the answer is $\\frac{1}{3}$.", "0.5", "wrong"),
        ("Therefore, the answer is 25.", "5", "wrong"),
        ("The answer is $(2,1)$", "(1,2)", "wrong"),
        ("I do not know.", "5", "no_answer"),
        ("", "5", "no_answer"),
        ("\\boxed{", "5", "no_answer"),
    ],
)
def test_verdicts(verifier: MathVerifier, text: str, gold: str, verdict: str) -> None:
    predicted, got = verifier.grade(text, gold)
    assert got == verdict
    assert (predicted is None) == (verdict == "no_answer")


def test_a_gold_answer_that_is_no_math_is_an_error(verifier: MathVerifier) -> None:
    with pytest.raises(DataError, match=r"the gold answer is '', expected a number or a formula"):
        verifier.grade("5", "")


def test_what_takes_too_long_is_killed_and_counted_as_no_answer() -> None:
    with closing(MathVerifier(seconds=3.0)) as verifier:
        assert verifier.grade("$\\frac{1}{2}$", "0.5") == ("1/2", "correct")
        began = time.monotonic()
        assert verifier.grade("\\boxed{9^{9^{9^{9}}}}", "3^{7^{9^{8}}} + 1") == (None, "no_answer")
        assert time.monotonic() - began < 10.0
        assert verifier.killed == 1
        assert verifier.grade("$\\frac{1}{2}$", "0.5")[1] == "correct"


def test_a_worker_that_dies_is_replaced() -> None:
    before = threading.active_count()
    with closing(MathVerifier(seconds=20.0)) as verifier:
        verifier.grade("5", "5")
        assert verifier._worker is not None
        os.kill(verifier._worker._process.pid, signal.SIGKILL)
        assert verifier.grade("5", "5")[1] in ("no_answer", "correct")
        assert verifier.grade("5", "5")[1] == "correct"
    assert threading.active_count() == before


def test_threads_take_turns(verifier: MathVerifier) -> None:
    answers = [str(number) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        graded = list(pool.map(lambda answer: verifier.grade(f"It is {answer}.", answer), answers))
    assert graded == [(answer, "correct") for answer in answers]


_HOPELESS_PARENT = """
import threading, time
from mentorkd.grading.math import MathVerifier
verifier = MathVerifier(seconds=2.0)
verifier.grade("5", "5")
hopeless = (r"\\boxed{9^{9^{9^{9}}}}", "3^{7^{9^{8}}} + 1")
threading.Thread(target=verifier.grade, args=hopeless, daemon=True).start()
time.sleep(0.3)
print(verifier._worker._process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_a_worker_in_a_hopeless_formula_does_not_outlive_a_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", _HOPELESS_PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert is_running(worker)
        parent.kill()
    deadline = time.monotonic() + 60  # of which it may use four seconds of a processor
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(worker)


def is_running(pid: int) -> bool:
    """Whether a process is there and not dead already (a zombie waits for nobody but its reaper)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=re.escape(install_command("math"))):
        MathVerifier()
