"""The accuracy of what was exported beside the original's."""

from __future__ import annotations

from mentorkd.records import Prediction
from mentorkd.sharing.check import check_rows, checked_section, compared


def predictions(answers: str) -> list[Prediction]:
    """A prediction for each letter; `a` is the correct answer."""
    return [
        Prediction(
            str(n), "student", 1, letter, letter, "correct" if letter == "a" else "wrong", tokens=1, finished=True
        )
        for n, letter in enumerate(answers)
    ]


def test_a_drop_is_measured_pair_by_pair() -> None:
    check = compared("ctranslate2", predictions("a" * 80 + "b" * 20), predictions("a" * 60 + "b" * 30 + "a" + "c" * 9))
    assert (check.original, check.exported, check.questions) == (0.80, 0.61, 100)
    assert (check.only_original, check.only_exported, check.agreeing, check.equal_texts) == (20, 1, 70, 70)
    assert check.interval.low < check.difference < check.interval.high < 0
    assert check.worse
    [row] = check_rows([check])
    assert row[:3] == ["ctranslate2", "61.0", "80.0"]
    assert row[3].startswith("-19.0 [-2")
    assert row[-1] == "70 of 100"
    assert "| ctranslate2 | 61.0 | 80.0 | -19.0 [" in checked_section([check])


def test_equal_predictions_are_no_drop() -> None:
    check = compared("transformers", predictions("aab"), predictions("aab"))
    assert (check.difference, check.p_value, check.agreeing, check.worse) == (0.0, 1.0, 3, False)
    assert check.interval.low < 0 < check.interval.high, "three questions can hide a difference"


def test_a_single_question_more_is_no_drop() -> None:
    check = compared("transformers", predictions("aaaa"), predictions("aaab"))
    assert check.difference == -0.25
    assert not check.worse
