from __future__ import annotations

import pytest

from mentorkd.data.weights import FLOOR, frontier_weights
from mentorkd.records import Rationale


def own(question: str, *verdicts: str) -> list[Rationale]:
    return [Rationale.create(question, f"t{n}", None, each, "student", n) for n, each in enumerate(verdicts)]  # type: ignore[arg-type]


def test_a_question_weighs_most_where_half_of_the_own_texts_are_correct() -> None:
    texts = [
        *own("half", "correct", "wrong", "no_answer", "correct"),
        *own("most", "correct", "correct", "correct", "wrong"),
        *own("all", "correct", "correct"),
        *own("none", "no_answer", "wrong"),
    ]
    weights = frontier_weights(texts)
    assert weights.by_question == {"half": 0.25, "most": 0.1875, "all": FLOOR, "none": FLOOR}
    assert weights.at_floor == 2


def test_a_rate_near_one_is_held_up_and_a_floor_of_zero_holds_up_nothing() -> None:
    texts = own("nearly", *["correct"] * 19, "wrong")
    assert frontier_weights(texts).by_question["nearly"] == FLOOR
    assert frontier_weights(texts).at_floor == 1
    bare = frontier_weights([*texts, *own("all", "correct")], floor=0)
    assert bare.by_question == pytest.approx({"nearly": 0.0475, "all": 0})
    assert bare.at_floor == 0


def test_without_texts_there_is_nothing_to_weigh() -> None:
    assert frontier_weights([]).by_question == {}


def test_texts_without_a_gold_answer_are_not_counted() -> None:
    weights = frontier_weights([*own("half", "correct", "wrong"), *own("unlabelled", "ungraded", "ungraded")])
    assert weights == frontier_weights(own("half", "correct", "wrong"))
