"""Graders of the user's: how the function is found, what it sees, what it may return, and what its errors say."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from mentorkd.errors import GraderError
from mentorkd.grading.answers import stated_answer
from mentorkd.grading.grade import Graded, Grader
from mentorkd.grading.own import OwnGrader, module_and_function, source_of
from mentorkd.records import Question

QUESTION = Question.create("Who wrote it?", "Jane Austen", "test")


def written(folder: Path, body: str) -> str:
    """A grader of one function, whose body is given."""
    file = folder / "overlap.py"
    file.write_text(f"import numpy\n\ndef grade(question, answer):\n    {body}\n", encoding="utf-8")
    return f"{file}:grade"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("She did. --> Jane Austen.", "Jane Austen."),
        ("She did. --> Jane Austen --> Jane Austen", "Jane Austen"),
        ("She did. Therefore, the answer is Jane Austen.", "Jane Austen"),
        (r"So \boxed{Jane Austen}", "Jane Austen"),
        ("She did.\n#### Jane Austen", "Jane Austen"),
        ("  Jane Austen\nof Steventon ", "Jane Austen\nof Steventon"),
        ("She did. -->  ", None),
        (" ", None),
    ],
)
def test_the_stated_answer_is_the_text_behind_the_marker(text: str, answer: str | None) -> None:
    assert stated_answer(text) == answer


@pytest.mark.parametrize(
    ("returned", "graded"),
    [
        ("True", Graded("Austen", "correct")),
        ("False", Graded("Austen", "wrong")),
        ("numpy.float64(0.6) >= 0.5", Graded("Austen", "correct")),
        ("'wrong'", Graded("Austen", "wrong")),
        ("'no_answer'", Graded(None, "no_answer")),
        ("answer in question.answer", Graded("Austen", "correct")),
    ],
)
def test_a_function_returns_a_truth_value_or_a_verdict(tmp_path: Path, returned: str, graded: Graded) -> None:
    grader = Grader("text", own=OwnGrader(written(tmp_path, f"return {returned}")))
    assert grader("It is --> Austen", QUESTION) == graded
    assert grader.each(["--> Austen"], QUESTION) == [graded]


def test_a_function_sees_neither_empty_answers_nor_questions_without_one(tmp_path: Path) -> None:
    grader = Grader("text", own=OwnGrader(written(tmp_path, "raise AssertionError")))
    assert grader("Let me think. -->", QUESTION) == Graded(None, "no_answer")
    unlabelled = Question.create("Who?", "", "unlabelled")
    assert grader("--> Austen", unlabelled) == Graded("Austen", "ungraded")


@pytest.mark.parametrize("returned", ["1", "0.7", "None", "'right'", "'ungraded'", "[True]", "numpy.ones((2, 2))"])
def test_another_value_names_the_function_and_the_question(tmp_path: Path, returned: str) -> None:
    grader = OwnGrader(written(tmp_path, f"return {returned}"))
    with pytest.raises(
        GraderError,
        match=rf"overlap.py:grade: got .* for question {QUESTION.id}; expected True, False",  # in one line
    ):
        grader(QUESTION, "Austen")


DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Verdict:
    right: bool

def grade(question, answer):
    print("graded")
    return Verdict(answer in question.answer).right
"""


def test_a_file_is_a_module_of_its_own_and_is_read_again_when_it_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "json.py"  # the name of a library
    file.write_text(DATACLASS, encoding="utf-8")
    assert OwnGrader(f"{file}:grade")(QUESTION, "Austen") == "correct"
    assert sys.modules["json"].__file__ != str(file)
    assert capsys.readouterr() == ("", "graded\n")  # stdout is for results
    file.write_text(DATACLASS.replace(" in ", " != "), encoding="utf-8")  # in the same second
    assert OwnGrader(f"{file}:grade")(QUESTION, "Jane Austen") == "wrong"


@pytest.mark.parametrize("exit_code", ["3", "0", "'no'"])
def test_a_function_does_not_end_the_program(tmp_path: Path, exit_code: str) -> None:
    with pytest.raises(GraderError, match=f"failed on question {QUESTION.id} with SystemExit: "):
        OwnGrader(written(tmp_path, f"raise SystemExit({exit_code})"))(QUESTION, "Austen")


def test_an_exception_names_the_function_and_the_question_in_one_line(tmp_path: Path) -> None:
    grader = OwnGrader(written(tmp_path, r"raise KeyError('two\nlines')"))
    with pytest.raises(
        GraderError, match=rf"overlap.py:grade: failed on question {QUESTION.id} with KeyError"
    ) as error:
        grader(QUESTION, "Austen")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{folder}/missing.py:grade", "no file at .*missing.py; put it there"),
        ("no_such_module:grade", "no module `no_such_module`; put no_such_module.py beside the recipe"),
        ("{folder}/overlap.py:mark", r"no function `mark` in .*; define `def mark\(question, answer\)`"),
        ("of_a_program:grade", "no module `of_a_program`"),
        ("{folder}/exiting.py:grade", "importing .*exiting.py failed with SystemExit: 1"),
        ("{folder}/broken.py:grade", "importing .*broken.py failed with NameError: name 'nothing' is not defined"),
    ],
)
def test_a_function_that_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    written(tmp_path, "return True")
    monkeypatch.setitem(sys.modules, "of_a_program", ModuleType("of_a_program"))  # without a spec, as `__main__`
    (tmp_path / "broken.py").write_text("nothing\n", encoding="utf-8")
    (tmp_path / "exiting.py").write_text("raise SystemExit(1)\n", encoding="utf-8")
    with pytest.raises(GraderError, match=message):
        OwnGrader(name.format(folder=tmp_path))(QUESTION, "Austen")


def test_a_module_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "metrics_of_ours"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError\n", encoding="utf-8")
    (package / "overlap.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert source_of("metrics_of_ours.overlap") == package / "overlap.py"
    assert source_of("metrics_of_ours.other") is None
    assert "metrics_of_ours" not in sys.modules


def test_the_identity_is_that_of_the_source_wherever_it_is(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    here, there = written(tmp_path, "return True"), written(tmp_path / "other", "return True")
    assert OwnGrader(here).identity == OwnGrader(there).identity
    written(tmp_path, "return False")
    assert OwnGrader(here).identity != OwnGrader(there).identity


@pytest.mark.parametrize("grader", ["overlap", "overlap:", ":grade", "over lap:grade", "overlap:gra de", "a..b:grade"])
def test_text_of_another_form_is_no_grader(grader: str) -> None:
    assert module_and_function(grader) is None
