from __future__ import annotations

from mentorkd.records import Prediction, Question, Verdict
from mentorkd.web.answers import Answers
from mentorkd.web.pages.predictions import choose

QUESTIONS = [Question(str(number), f"question {number}", "1", "test") for number in range(4)]
VERDICTS = {
    ("a", 1): "1100",
    ("a", 2): "1101",
    ("a", 3): "0100",
    ("b", 1): "0110",
    ("b", 2): "0100",
    ("b", 3): "0100",
}
"""Of each question in turn, 1 for a correct answer."""


def answers() -> Answers:
    predictions: dict[tuple[str, int], dict[str, Prediction]] = {}
    for (learner, seed), marks in VERDICTS.items():
        rows = {}
        for question, mark in zip(QUESTIONS, marks, strict=True):
            verdict: Verdict = "correct" if mark == "1" else "wrong"
            rows[question.id] = Prediction(question.id, learner, seed, "text", mark, verdict, 1, True)
        predictions[learner, seed] = rows
    return Answers(QUESTIONS, predictions)


def chosen(show: str, learners: list[str], seed: int | None) -> str:
    return "".join(question.id for question in choose(answers(), show, learners, seed))


def test_learners_and_seeds_with_answers() -> None:
    assert (answers().learners, answers().seeds) == (["a", "b"], [1, 2, 3])
    assert list(answers().of("a", "3", None)) == [1, 2, 3]
    assert list(answers().of("a", "3", 2)) == [2]


def test_a_learner_is_correct_with_most_of_its_seeds() -> None:
    assert [set(answers().correct_of(name, None)) for name in "ab"] == [{"0", "1"}, {"1"}]
    assert set(answers().correct_of("a", 2)) == {"0", "1", "3"}


def test_questions_are_chosen_by_who_is_correct() -> None:
    both = ["a", "b"]
    assert chosen("all", both, None) == "0123"
    assert [chosen(show, both, None) for show in ("differ", "none", "every")] == ["0", "23", "1"]
    assert [chosen(f"alone:{name}", both, 1) for name in both] == ["0", "2"]
    assert chosen("alone:a", both, 2) == "03"
    assert chosen("every", ["a"], 2) == "013"
