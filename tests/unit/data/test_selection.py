"""The filters, on rows made by hand, by properties, and on the paper's own data."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mentorkd.data.rows import Rows
from mentorkd.data.selection import (
    Each,
    Filter,
    FilterCount,
    cap_per_question,
    drop_duplicates,
    filters_of,
    jaccard,
    keep_arithmetic,
    keep_concluding,
    keep_correct,
    keep_diverse,
    keep_length,
    keep_likely,
    sample_questions,
    select,
    split_validation,
)
from mentorkd.errors import DataError
from mentorkd.recipe.learner import SelectConfig
from mentorkd.records import Question, Rationale, Verdict


def row(question: str, text: str, sample: int = 0, verdict: Verdict = "correct", source: str = "teacher") -> Rationale:
    return Rationale.create(question, text, "1", verdict, source, sample)


ROWS = [
    row("q1", "one  and\none", 0),
    row("q1", "two", 1, "wrong"),
    row("q1", " one and one ", 2),
    row("q1", "three", 3),
    row("q2", "one and one", 0),
    row("q2", "none", 1, "no_answer"),
]


def texts(rationales: list[Rationale]) -> list[str]:
    return [rationale.text for rationale in rationales]


def test_correct_keeps_neither_wrong_nor_unanswered() -> None:
    assert texts(keep_correct(ROWS)) == ["one  and\none", "one and one", "three", "one and one"]


def test_duplicates_are_of_one_question_and_the_first_stays() -> None:
    assert drop_duplicates()(ROWS) == [ROWS[0], ROWS[1], ROWS[3], ROWS[4], ROWS[5]]


def test_duplicates_of_what_is_there_already_are_dropped_too() -> None:
    already = [row("q2", "one\tand one"), row("q9", "three")]
    assert drop_duplicates(already)(ROWS) == [ROWS[0], ROWS[1], ROWS[3], ROWS[5]]


def test_the_cap_takes_low_sample_numbers_and_keeps_the_order_of_the_rows() -> None:
    assert cap_per_question(ROWS[::-1], 1) == [ROWS[4], ROWS[0]]
    assert cap_per_question(ROWS, 2) == [ROWS[0], ROWS[1], ROWS[4], ROWS[5]]


def selected(rows: list[Rationale], **settings: object) -> tuple[list[Rationale], list[FilterCount]]:
    return select(rows, filters_of(SelectConfig.model_validate(settings), {}))


@pytest.mark.parametrize(
    "keep",
    [
        keep_correct,
        lambda rows: drop_duplicates()(rows),
        lambda rows: drop_duplicates(ROWS[3:5])(rows),
        lambda rows: cap_per_question(rows, 1),
        lambda rows: sample_questions(rows, 0.5, 0),
        keep_length(len, 4, 11),
        keep_concluding(lambda each: each.text[:1]),
        keep_arithmetic(lambda text: "three" not in text),
        lambda rows: keep_likely(rows, {each.id: float(each.sample) for each in ROWS}, 0.4),
        lambda rows: keep_diverse(rows, 2),
    ],
)
def test_a_filter_of_rows_on_the_disk_keeps_the_same_rows_there(
    keep: Callable[[Sequence[Rationale]], Sequence[Rationale]],
) -> None:
    kept = keep(Rows.of(Rationale, ROWS))
    assert isinstance(kept, Rows)
    assert list(kept) == keep(ROWS)
    assert len(kept) < len(ROWS)


def test_select_applies_filters_in_order_and_records_their_facts() -> None:
    seen: list[int] = []

    def keep(rows: Sequence[Rationale]) -> list[Rationale]:
        seen.append(len(rows))
        return list(rows[1:])

    kept, counts = select(ROWS, [Filter("correct", keep_correct), Filter("rest", keep, lambda: {"seen": seen[0]})])
    assert kept == [ROWS[2], ROWS[3], ROWS[4]]
    assert counts == [FilterCount("correct", 6, 4), FilterCount("rest", 4, 3, {"seen": 4})]


def test_neighbours_that_look_at_each_rationale_alone_share_one_reading() -> None:
    read: list[str] = []

    def logged(rationales: Sequence[Rationale]) -> Each:
        def passes(rationale: Rationale) -> bool:
            read.append(rationale.text)
            return rationale in rationales

        return Each(passes)

    class Counted(list[Rationale]):
        loops = 0

        def __iter__(self) -> Iterator[Rationale]:
            self.loops += 1
            return super().__iter__()

    rows = Counted(ROWS)
    filters = [Filter("one", logged(ROWS[:4])), Filter("two", logged(ROWS[1:]), lambda: {"read": len(read)})]
    kept, counts = select(rows, [*filters, Filter("unique", drop_duplicates())])
    assert kept == [ROWS[1], ROWS[2], ROWS[3]]
    assert counts == [FilterCount("one", 6, 4), FilterCount("two", 4, 3, {"read": 10}), FilterCount("unique", 3, 3)]
    assert rows.loops == 1


def test_select_counts_each_filter_that_was_asked_for() -> None:
    kept, counts = selected(ROWS, max_per_question=1)
    assert kept == [ROWS[0], ROWS[4]]
    assert counts == [
        FilterCount("correct", 6, 4),
        FilterCount("deduplicate", 4, 3),
        FilterCount("max_per_question", 3, 2),
    ]
    assert selected(ROWS, correct=False, deduplicate=False) == (ROWS, [])
    kept, counts = selected(ROWS, question_ratio=0.5)
    assert counts[0].filter == "question_ratio"
    assert len({rationale.question_id for rationale in kept}) == 1


def test_select_of_nothing_is_nothing() -> None:
    assert selected([], question_ratio=0.5)[0] == []


MANY = [row(f"q{index}", f"text {sample}", sample) for index in range(50) for sample in range(3)]


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 5), st.randoms())
def test_samples_of_questions_are_whole_nested_and_blind_to_order(
    one: float, other: float, seed: int, order: random.Random
) -> None:
    small, large = sorted([one, other])
    shuffled = order.sample(MANY, len(MANY))
    sample, more = sample_questions(shuffled, small, seed), sample_questions(MANY, large, seed)
    assert len(sample) == 3 * max(1, round(small * 50))
    assert set(ids(sample)) <= set(ids(more))


def ids(rationales: list[Rationale]) -> list[str]:
    return [rationale.id for rationale in rationales]


def test_the_seed_changes_the_sample_and_the_validation_questions() -> None:
    assert sample_questions(MANY, 0.5, 0) != sample_questions(MANY, 0.5, 1)
    questions = [Question.create(f"question {index}", "1", "train") for index in range(50)]
    assert split_validation(questions, 0.2, 0) != split_validation(questions, 0.2, 1)


@given(st.integers(1, 60), st.floats(0, 0.99), st.integers(0, 3), st.randoms())
def test_the_validation_split_is_by_question_and_blind_to_order(
    count: int, share: float, seed: int, order: random.Random
) -> None:
    questions = [Question.create(f"question {index}", "1", "train") for index in range(count)] * 2
    training, validation = split_validation(questions, share, seed)
    assert not {question.id for question in training} & {question.id for question in validation}
    assert len(training) + len(validation) == len(questions)
    assert len(training) >= 2
    assert len(validation) == (0 if share == 0 else 2 * min(max(1, round(share * count)), count - 1))
    assert {question.split for question in validation} <= {"validation"}
    shuffled = split_validation(order.sample(questions, len(questions)), share, seed)[1]
    assert {question.id for question in shuffled} == {question.id for question in validation}


def test_a_question_sample_says_nothing_about_the_validation_split() -> None:
    questions = [Question.create(f"question {index}", "1", "train") for index in range(1000)]
    held_out = {question.id for question in split_validation(questions, 0.3, 7)[1]}
    sample = sample_questions([row(question.id, "t") for question in questions], 0.3, 7)
    assert 50 < sum(rationale.question_id in held_out for rationale in sample) < 130


def words(text: str) -> int:
    return len(text.split())


def test_length_bounds_are_inclusive() -> None:
    rows = [row("q", "a " * count, count) for count in range(1, 6)]
    assert keep_length(words, 2, 4)(rows) == rows[1:4]
    assert keep_length(words, 2)(rows) == rows[1:]


def test_a_chain_must_arrive_at_its_answer_if_it_says_where_it_arrives() -> None:
    rows = [row("q", text, index) for index, text in enumerate(["so 1", "so 2", "so be it"])]
    unanswered = Rationale.create("q", "so 3", None, "no_answer", "teacher", 3)
    conclusions = {"so 1": "1", "so 2": "2", "so be it": None, "so 3": "3"}
    kept = keep_concluding(lambda rationale: conclusions[rationale.text])([*rows, unanswered])
    assert kept == [rows[0], rows[2], unanswered]


def test_sound_asks_of_the_text() -> None:
    rows = [row("q", "1 + 1 = 2"), row("q", "1 + 1 = 3")]
    assert keep_arithmetic(lambda text: "3" not in text)(rows) == rows[:1]


def test_the_least_likely_share_is_dropped() -> None:
    rows = [row("q", f"text {index}", index) for index in range(10)]
    nll = {each.id: float(index % 5) for index, each in enumerate(rows)}
    assert keep_likely(rows, nll, 0.2) == [each for each in rows if nll[each.id] < 4]
    assert keep_likely(rows, nll, 0.09) == rows
    with pytest.raises(DataError, match="1 rationales have no likelihood"):
        keep_likely([*rows, row("q", "new")], nll, 0.5)


def test_similarity() -> None:
    assert jaccard({1, 2}, {2, 3}) == 1 / 3
    assert jaccard(set(), set()) == 1
    assert jaccard({1}, set()) == 0


def test_the_diverse_ones_are_far_from_each_other() -> None:
    base = "first take five apples from ten apples"
    rows = [
        row("q1", base, 0),
        row("q1", base + " please", 1),
        row("q1", "ten minus five is what we look for", 2),
        row("q1", base + " then add two", 3),
        row("q2", base, 0),
    ]
    assert keep_diverse(rows, 1) == [rows[0], rows[4]]
    assert keep_diverse(rows, 2) == [rows[0], rows[2], rows[4]]
    assert keep_diverse(rows, 3) == [rows[0], rows[2], rows[3], rows[4]]
    assert keep_diverse(rows, 9) == rows


@given(st.lists(st.text("ab ", max_size=8), max_size=12), st.integers(1, 5), st.integers(1, 3))
def test_the_diverse_ones_are_as_many_as_asked_for(texts: list[str], most: int, n: int) -> None:
    rows = [row("q", text, index) for index, text in enumerate(texts)]
    kept = keep_diverse(rows, most, n)
    assert len(kept) == min(most, len(rows))
    assert kept == [each for each in rows if each in kept]


def test_all_filters_in_one() -> None:
    question = Question.create("q1", "1", "train")
    rows = [
        row(question.id, text, index)
        for index, text in enumerate(["a b c", "a b", "x y z", "bad 1+1=3", "a b c d", "no way"])
    ]
    asked: list[int] = []

    def nll(model: str, left: Sequence[Rationale]) -> dict[str, float]:
        assert model == "mentor"
        asked.extend(each.sample for each in left)
        return {each.id: float(each.sample == 1) for each in left}

    config = SelectConfig.model_validate(
        {
            "min_tokens": 2,
            "max_tokens": 3,
            "answer_in_rationale": True,
            "arithmetic": True,
            "perplexity": {"model": "mentor", "drop": 0.34},
            "diverse": 5,
            "max_per_question": 1,
        }
    )
    filters = filters_of(
        config,
        {question.id: question},
        tokens=words,
        conclude=lambda text, question: "2" if text == "no way" else question.answer,
        nll=nll,
    )
    kept, counts = select(rows, filters)
    assert kept == [rows[0]]
    assert asked == [0, 1, 2]  # not rationales that other filters drop
    assert [(count.filter, count.before - count.after) for count in counts] == [
        ("correct", 0),
        ("deduplicate", 0),
        ("length", 1),
        ("answer_in_rationale", 1),
        ("arithmetic", 1),
        ("perplexity", 1),
        ("diverse", 0),
        ("max_per_question", 1),
    ]


def test_the_papers_mentor_repeats_its_teacher(shared_data: Path) -> None:
    """Of SVAMP's 1558 correct rows by FlanT5-large, 394 copy a teacher's rationale of the same question."""

    def read(path: str, source: str) -> list[Rationale]:
        rows = json.loads((shared_data / "mentor-kd" / path).read_text())
        verdicts: list[Verdict] = ["correct" if each["initial_correct"] else "wrong" for each in rows]
        return [
            row(each["input"], each["chain"], index, verdict, source)
            for index, (each, verdict) in enumerate(zip(rows, verdicts, strict=True))
        ]

    teacher = read("main/svamp_3_train.json", "teacher")
    mentor = read("aug/flan-t5_large/svamp_rand3_aug3.json", "mentor")
    assert selected(mentor)[1] == [FilterCount("correct", 2100, 1558), FilterCount("deduplicate", 1558, 1369)]
    filters = filters_of(SelectConfig(), {}, already=teacher)
    assert select(mentor, filters)[1][1] == FilterCount("deduplicate", 1558, 1128)
    known = {(each.question_id, " ".join(each.text.split())) for each in teacher}
    assert sum((each.question_id, " ".join(each.text.split())) in known for each in keep_correct(mentor)) == 394
