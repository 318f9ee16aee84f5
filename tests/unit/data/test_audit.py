from __future__ import annotations

import pytest

from mentorkd.data.audit import audit
from mentorkd.errors import DataError
from mentorkd.records import Question, Rationale, Split


def q(text: str, answer: str = "1", split: Split = "train") -> Question:
    return Question.create(text, answer, split)


def r(question: Question, text: str = "It is 1.", row: int = 1) -> Rationale:
    return Rationale.create(question.id, text, "1", "correct", "teacher", 0, {"row": row})


def test_clean_data_has_no_faults_and_comes_back_as_it_was() -> None:
    questions, rationales = [q("a"), q("b", "2"), q("c", split="test")], [r(q("b")), r(q("a"))]
    done = audit(questions, rationales, kind="number")
    assert (done.questions, done.rationales) == (questions, rationales)
    assert (done.faults.counts, done.faults.lines()) == ({}, [])
    done.faults.raise_if_strict()


def test_a_repeated_question_is_kept_once() -> None:
    done = audit([q("a  b", "1.0"), q("a b"), q("a b", "1")], kind="number")
    assert done.questions == [q("a  b", "1.0")]
    assert done.faults.counts == {"duplicate_question": 2}


def test_a_question_with_different_answers_is_dropped_with_its_rationales() -> None:
    done = audit([q("a", "1"), q("b"), q("a", "2"), q("a", "3"), q("a", "1")], [r(q("a")), r(q("b"))], kind="number")
    assert (done.questions, done.rationales) == ([q("b")], [r(q("b"))])
    assert done.faults.counts == {"conflicting_answers": 1, "duplicate_question": 1}
    assert 'train question "a" has `1` and `2`' in done.faults.lines()[0]


def test_a_question_in_several_splits_is_kept_for_the_one_that_scores() -> None:
    everywhere, twice, fine = "in all three", "in two", "in one"
    questions = [
        q(everywhere),
        q(twice),
        q(fine),
        q(twice, split="validation"),
        q(everywhere, split="validation"),
        q(everywhere, split="test"),
    ]
    done = audit(questions, [r(q(everywhere), row=7), r(q(twice)), r(q(fine))], kind="number")
    assert done.questions == [q(fine), q(twice, split="validation"), q(everywhere, split="test")]
    assert done.rationales == [r(q(fine))]
    assert done.faults.counts == {"overlapping_question": 3, "held_out_rationale": 2}
    assert done.faults.examples("held_out_rationale") == ["teacher, row 7", "teacher, row 1"]


def test_an_unlabelled_question_is_in_no_other_split_and_needs_no_answer() -> None:
    labelled = [q("in train"), q("in test", split="test"), q("in validation", split="validation"), q("no sum", "many")]
    texts = ["in train", "in test", "in validation", "new", "new", "no sum"]
    unlabelled = [q(text, "", "unlabelled") for text in texts]
    done = audit([*unlabelled, *labelled], kind="number", rows=range(1, 11))
    assert done.questions == [unlabelled[3], unlabelled[5], *labelled[:3]]
    assert done.faults.counts == {"duplicate_question": 1, "impossible_answer": 1, "overlapping_question": 3}
    assert done.faults.examples("duplicate_question") == ['unlabelled question "new" (row 5)']
    assert done.faults.examples("overlapping_question") == [
        'unlabelled question "in train" (row 1) is also in train',
        'unlabelled question "in test" (row 2) is also in test',
        'unlabelled question "in validation" (row 3) is also in validation',
    ]


@pytest.mark.parametrize(
    ("kind", "choices", "text", "good", "bad"),
    [
        ("choice", None, "Which? (A) x, (B) y.", "B", "C"),
        ("choice", ("A", "B"), "Which?", "B. y", "C"),
        ("number", None, "How many?", "1,000", "a few"),
        ("yes_no", None, "Is it?", "Yes", "maybe"),
        ("text", None, "What?", "ab", '"."'),
    ],
)
def test_an_impossible_answer_is_dropped(kind: str, choices: tuple[str, ...], text: str, good: str, bad: str) -> None:
    done = audit([q(text, good), q(f"Oh! {text}", bad)], kind=kind, choices=choices)
    assert done.questions == [q(text, good)]
    assert done.faults.counts == {"impossible_answer": 1}
    assert f"has `{bad}`" in done.faults.lines()[0]


def test_places_of_faults_name_the_row() -> None:
    questions = [q("a"), q("b", "many"), q("a"), q("c", "1"), q("c", "2"), q("d"), q("d", split="test")]
    lines = "\n".join(audit(questions, kind="number", rows=[2, 3, 5, 6, 7, 8, 1]).faults.lines())
    for place in ("(row 3) has `many`", '"a" (row 5)', '"c" (row 7) has `1` and `2`', '"d" (row 8) is also in test'):
        assert place in lines


def test_questions_that_a_run_has_used_do_not_score_it() -> None:
    seen: dict[str, Split] = {q("a").id: "train", q("b").id: "validation"}
    done = audit([q(text, split="test") for text in "abc"], kind="number", rows=[1, 2, 3], seen=seen)
    assert done.questions == [q("c", split="test")]
    assert done.faults.examples("seen_question") == [
        'test question "a" (row 1) is in train',
        'test question "b" (row 2) is in validation',
    ]


def test_empty_and_unknown_rationales_are_dropped() -> None:
    rationales = [r(q("a"), " ", row=3), r(q("a")), *(r(q("b"), row=n) for n in range(10, 15))]
    done = audit([q("a")], rationales, kind="number")
    assert done.rationales == [r(q("a"))]
    assert done.faults.lines() == [
        "1 empty rationale(s), dropped: teacher, row 3",
        "5 rationale(s) of a question that is missing or was dropped, dropped: "
        "teacher, row 10; teacher, row 11; teacher, row 12; ...",
    ]


def test_strict_turns_faults_into_one_error() -> None:
    faults = audit([q("a"), q("a")], [r(q("b"))], kind="number").faults
    faults.raise_if_strict(False)
    with pytest.raises(DataError, match=r"(?s)data\.strict is true.*1 repeated question.*1 rationale"):
        faults.raise_if_strict(True)
