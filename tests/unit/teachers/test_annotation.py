"""SampleQueue, verdicts and the account, without any endpoint."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asking import graded, sums, teacher
from mentorkd.errors import DataError
from mentorkd.records import Question, Rationale
from mentorkd.teachers.annotation import AnnotationLedger, Answer, SampleQueue, rationale_of
from mentorkd.teachers.cache import Reply
from mentorkd.teachers.limits import Spending
from mentorkd.teachers.prompting import Prompter
from mentorkd.teachers.wire import Fault

QUESTION = Question.create("What is 2 + 3?", "5", "train")
ONE_CALL = Prompter("zero_shot_cot", answer_kind="number")
TWO_CALLS = Prompter("two_stage")


def answer(text: str, reason: str = "stop") -> Answer:
    return Answer("k", Reply(text, reason, 10, 4))


@pytest.mark.parametrize(
    ("reply", "outcome", "verdict", "text"),
    [
        (answer("2 + 3 = 5.\nTherefore, the answer is 5."), "ok", "correct", "2 + 3 = 5."),
        (answer("2 + 3 = 6.\nTherefore, the answer is 6."), "ok", "wrong", "2 + 3 = 6."),
        (answer("I wonder."), "ok", "no_answer", "I wonder."),
        (answer("2 + 3 = 5.\nTherefore, the answer is 5", "length"), "length", "no_answer", None),
        (answer("I cannot say: 5.", "content_filter"), "refusal", "no_answer", None),
        (answer("Sorry, 5.", "refusal"), "refusal", "no_answer", None),
        (answer(""), "empty", "no_answer", ""),
        (answer("Therefore, the answer is 5."), "empty", "no_answer", ""),
        (answer("", "length"), "length", "no_answer", ""),
    ],
)
def test_reply_outcomes_and_verdicts(reply: Answer, outcome: str, verdict: str, text: str | None) -> None:
    rationale = rationale_of(QUESTION, 1, [reply], ONE_CALL, graded)
    assert (rationale.meta["outcome"], rationale.verdict) == (outcome, verdict)
    assert rationale.text == (reply.reply.text if text is None else text)
    assert (rationale.source, rationale.sample) == ("teacher", 1)
    assert rationale.predicted == {"correct": "5", "wrong": "6", "no_answer": None}[verdict]


def test_two_calls_make_one_record() -> None:
    first, second = answer(" 2 + 3 = 5."), Answer("l", Reply(" 5. Or", "length", 20, 2, True), cached=True)
    rationale = rationale_of(QUESTION, 0, [first, second], TWO_CALLS, graded)
    assert (rationale.text, rationale.predicted, rationale.verdict) == ("2 + 3 = 5.", "5", "correct")
    assert rationale.meta == {
        "outcome": "ok",
        "finish_reason": "stop",
        "usage": {"input_tokens": 30, "output_tokens": 6, "estimated": True},
        "model": "",
        "cached": False,
        "requests": ["k", "l"],
    }
    refused = rationale_of(QUESTION, 0, [first, answer("", "content_filter")], TWO_CALLS, graded)
    assert (refused.meta["outcome"], refused.verdict) == ("refusal", "no_answer")
    silent = rationale_of(QUESTION, 0, [first, answer("")], TWO_CALLS, graded)
    assert (silent.meta["outcome"], silent.verdict) == ("ok", "no_answer")
    assert rationale_of(QUESTION, 0, [answer("2 +", "length")], TWO_CALLS, graded).meta["outcome"] == "length"


@given(
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(0, 5),
    st.integers(4, 9),
    st.integers(1, 20),
    st.integers(0, 2**32),
)
def test_queue_asks_until_enough_is_correct(
    questions: int, samples: int, want: int, tries: int, in_flight: int, seed: int
) -> None:
    """In any order of replies, the samples asked for are those of the rule."""
    hits = random.Random(seed)
    right = {(index, sample): hits.random() < 0.5 for index in range(questions) for sample in range(tries)}
    queue, order = SampleQueue(questions, samples, want=want, tries=tries), random.Random(seed + 1)
    flying: list[tuple[int, int]] = []
    asked: list[tuple[int, int]] = []
    while not queue.over:
        while len(flying) < in_flight and (job := queue.next()) is not None:
            flying.append(job)
            asked.append(job)
        index, sample = flying.pop(order.randrange(len(flying)))
        queue.done(index, right[index, sample])
    assert queue.next() is None
    expected = set()
    for index in range(questions):
        count = samples
        while (lacking := want - sum(right[index, sample] for sample in range(count))) > 0 and count < tries:
            count = min(tries, count + lacking)
        expected |= {(index, sample) for sample in range(count)}
    assert sorted(asked) == sorted(expected)


def test_ledger_asks_equal_questions_once_and_checks_gold_answers_first() -> None:
    asked = teacher("http://e/v1")
    assert len(AnnotationLedger([*sums(3), *sums(3)], asked, graded).questions) == 3
    with pytest.raises(DataError, match="the gold answer is 'five'"):
        AnnotationLedger([Question.create("What?", "five", "train")], asked, graded)


def test_ledger_sums() -> None:
    ledger = AnnotationLedger(sums(2), teacher("http://e/v1", samples=2), graded)
    for index, sample, reply in [(1, 1, "1 + 7 = 8.\nTherefore, the answer is 8."), (0, 0, ""), (0, 1, "Perhaps 3.")]:
        question = ledger.questions[index]
        ledger.enter(index, sample, rationale_of(question, sample, [answer(reply)], ONE_CALL, graded))
    ledger.enter(1, 0, Fault("timeout", "no reply"))
    spending = Spending(5, 100, 40, 2 * 10**9, 10**9)
    result = ledger.close(spending, {"sent": 4, "cached": 1, "fault_malformed": 1}, "stopped", {"malformed": 2})
    assert [(r.question_id == ledger.questions[1].id, r.sample) for r in result.rationales] == [
        (False, 0),
        (False, 1),
        (True, 1),
    ]
    assert all(isinstance(r, Rationale) for r in result.rationales)
    assert result.account() == {
        "questions": 2,
        "solved": 1,
        "samples": 4,
        "replies": 3,
        "correct": 1,
        "accuracy": pytest.approx(1 / 3),
        "cut": 0,
        "refused": 0,
        "empty": 1,
        "malformed": 2,
        "lost": 1,
        "cached": 1,
    }
    assert result.usage() == {"input_tokens": 30, "output_tokens": 12}
    assert (result.spending, result.stopped) == (spending, "stopped")
