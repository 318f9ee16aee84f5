"""The front of grading: symbolic answers and all other kinds behind the same functions."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from mentorkd.errors import DataError
from mentorkd.grading.grade import Graded, Grader, choices_of, extract, grade, normalise_answer
from mentorkd.records import Question

math = pytest.mark.skipif(not find_spec("math_verify"), reason="no `math` extra")


@math
@pytest.mark.parametrize(
    ("text", "gold", "verdict"),
    [
        # What a marker claims is a formula even without dollar signs, which small learners do not write.
        ("so $x+1$ --> x + 1", "1+x", "correct"),
        ("Therefore, the answer is \\frac{1}{2}.", "0.5", "correct"),
        ("--> \\sqrt{8}", "2\\sqrt 2", "correct"),
        ("First 3, then $\\sqrt{2}$ --> (1,2)", "(1, 2)", "correct"),
        # Among words only what stands out is one.
        ("Therefore, the answer is 1,000 dollars.", "1000", "correct"),
        ("--> 12 apples", "12", "correct"),
        ("The answer is 4. No, the answer is $5$.", "5", "correct"),
        ("It is $\\frac{2}{4}$", "\\frac12", "correct"),
        ("--> \\frac{1}{3}", "0.5", "wrong"),
        ("3 + 4 = 7 -->", "7", "no_answer"),
        ("I do not know", "7", "no_answer"),
    ],
)
def test_symbolic_math(text: str, gold: str, verdict: str) -> None:
    graded = grade(text, gold, "math")
    assert graded.verdict == verdict
    assert (graded.predicted is None) == (verdict == "no_answer")


@math
def test_gold_answers_stay_as_written_but_for_their_solution() -> None:
    assert normalise_answer(" \\frac{1}{2} ", "math") == "\\frac{1}{2}"
    assert normalise_answer("We add. #### x+1", "math") == "x+1"
    assert normalise_answer("$$", "math") is None
    assert normalise_answer("  ", "math") is None
    assert extract("--> \\frac{4}{2}", "math") == "2"
    with pytest.raises(DataError, match="expected a number or a formula"):
        grade("5", "$ $", "math")


def test_other_kinds_need_no_extra() -> None:
    assert grade("The answer is (B).", "B", "choice", ["A", "B"]) == Graded("B", "correct")
    assert extract("so 5", "number") == "5"
    assert normalise_answer("1,000", "number") == "1000"


def test_choices_come_from_the_task_or_else_from_the_question() -> None:
    question = "Who? (A) x, (B) y"
    assert choices_of(question, "choice", ["A", "B", "C"]) == ["A", "B", "C"]
    assert choices_of(question, "choice") == ["A", "B"]
    assert choices_of("Who?", "choice") is None
    assert choices_of(question, "number", ["A"]) is None


@math
def test_an_empty_answer_is_no_answer_and_an_empty_gold_answer_is_an_error() -> None:
    assert grade("so x+1 -->", "x+1", "math") == Graded(None, "no_answer")
    with pytest.raises(DataError, match="expected a number or a formula"):
        grade("-->", " ", "math")


@pytest.mark.parametrize("text", ["so 5", "I do not know"])
def test_a_text_without_a_gold_answer_is_neither_correct_nor_wrong(text: str) -> None:
    question = Question.create("2 + 3?", "", "unlabelled")
    assert Grader("number")(text, question) == Graded(extract(text, "number"), "ungraded")


@pytest.mark.parametrize(
    ("kind", "gold", "texts", "predicted"),
    [
        ("number", "3", ["--> 1/2", "--> 0.5", "--> 3.0", "none", "--> 1,000", "--> 1000"], "0.5 0.5 3 - 1000 1000"),
        ("choice", "B", ["--> (A)", "--> A. yes", "so (B)", "--> ?"], "A A B -"),
        ("yes_no", "yes", ["--> True", "--> yes", "--> no"], "yes yes no"),
        ("text", "ab", ["--> Ab.", '--> "ab"', "--> ba"], "ab ab ba"),
        pytest.param(
            "math",
            "\\sqrt{2}",
            [
                "--> \\frac{1}{2}",
                "--> \\sqrt{8}/2",
                "--> 0.5",
                "no idea",
                "--> \\sqrt 2",
                "--> (x+1)^2",
                "--> x^2+2x+1",
                "--> 2/4",
            ],
            "1/2 sqrt(8)/2 1/2 - sqrt(8)/2 (x+1)**2 (x+1)**2 1/2",
            marks=math,
        ),
    ],
)
def test_equal_answers_to_a_question_have_one_form(kind: str, gold: str, texts: list[str], predicted: str) -> None:
    graded = Grader(kind).each(texts, Question.create("Which?", gold, "test"))  # type: ignore[arg-type]
    assert [(one.predicted or "-").replace(" ", "") for one in graded] == predicted.split()
    alone = [Grader(kind)(text, Question.create("Which?", gold, "test")) for text in texts]  # type: ignore[arg-type]
    assert [one.verdict for one in graded] == [one.verdict for one in alone]
