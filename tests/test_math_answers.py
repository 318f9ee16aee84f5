"""Symbolic answers: right verdicts, and a verifier that cannot hang, be killed or be fooled by what it prints."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mentorkd.errors import DataError, MissingExtraError
from mentorkd.math_answers import MathVerifier
from mentorkd.records import Question
from mentorkd.teachers.annotation import math_grade

pytest.importorskip("math_verify", reason="the extra `math` is not installed")


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    with MathVerifier(seconds=20.0) as made:
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
    with MathVerifier(seconds=3.0) as verifier:
        assert verifier.grade("$\\frac{1}{2}$", "0.5") == ("1/2", "correct")
        began = time.monotonic()
        assert verifier.grade("\\boxed{9^{9^{9^{9}}}}", "3^{7^{9^{8}}} + 1") == (None, "no_answer")
        assert time.monotonic() - began < 10.0
        assert verifier.killed == 1
        assert verifier.grade("$\\frac{1}{2}$", "0.5")[1] == "correct"


def test_a_worker_that_dies_is_replaced() -> None:
    before = threading.active_count()
    with MathVerifier(seconds=20.0) as verifier:
        verifier.grade("5", "5")
        assert verifier._worker is not None
        os.kill(verifier._worker._process.pid, signal.SIGKILL)
        assert verifier.grade("5", "5")[1] in ("no_answer", "correct")
        assert verifier.grade("5", "5")[1] == "correct"
    assert threading.active_count() == before


def test_threads_take_turns(verifier: MathVerifier) -> None:
    grade = math_grade(verifier)
    questions = [Question.create(f"Which is {number}?", str(number), "train") for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        graded = list(pool.map(lambda question: grade(f"It is {question.answer}.", question), questions))
    assert [one.predicted for one in graded] == [question.answer for question in questions]
    assert {one.verdict for one in graded} == {"correct"}


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mentorkd\[math\]'"):
        MathVerifier()
