"""Numbers and names of shards, and the questions in each."""

from __future__ import annotations

from collections import Counter

import pytest

from mentorkd.pipeline.shards import SHARD_QUESTIONS, Shards, in_shard, read_in_role, shard_name, shard_role, whole_name
from mentorkd.records import Question

QUESTIONS = [Question.create(f"What is {number} plus one?", str(number + 1), "train") for number in range(2000)]


def test_each_question_is_in_one_shard_of_about_equal_size() -> None:
    parts = [in_shard(QUESTIONS, (number, 8)) for number in range(8)]
    assert Counter(question.id for part in parts for question in part) == Counter(one.id for one in QUESTIONS)
    assert all(200 < len(part) < 300 for part in parts)
    assert in_shard(QUESTIONS, None) == QUESTIONS


def test_the_shard_of_a_question_depends_on_its_id_alone_and_never_changes() -> None:
    alone = [next(number for number in range(8) if in_shard([question], (number, 8))) for question in QUESTIONS[:8]]
    assert alone == [
        number for question in QUESTIONS[:8] for number in range(8) if question in in_shard(QUESTIONS, (number, 8))
    ]
    assert alone == [2, 0, 6, 3, 2, 4, 0, 0]  # a changed hash would mix up the shards of runs


@pytest.mark.parametrize(
    ("wanted", "splits", "number"),
    [
        ("auto", ("test",), 1),
        ("auto", ("train",), 3),
        ("auto", ("train", "unlabelled"), 4),
        ("auto", ("validation",), 1),
        (7, ("test",), 7),
        (1, ("train",), 1),
    ],
)
def test_the_recipe_or_the_questions_decide_the_number(wanted: int | str, splits: tuple[str, ...], number: int) -> None:
    counts = {"train": 2 * SHARD_QUESTIONS + 1, "test": SHARD_QUESTIONS, "unlabelled": SHARD_QUESTIONS}
    assert Shards(wanted, counts).over(*splits) == number  # type: ignore[arg-type]


def test_auto_is_one_while_the_questions_are_not_counted() -> None:
    assert Shards("auto").over("train") == 1
    assert Shards(4).over("train") == 4


def test_names_and_roles_of_shards() -> None:
    whole = "learners/mentor/seed-1/augment"
    assert whole_name(shard_name(whole, 12)) == whole
    assert [whole_name(name) for name in (whole, "annotate")] == [whole, "annotate"]
    role = "soft_labels/mentor/teacher"
    inputs = {"questions": "prepare", f"{role}/1": "other fold", f"{role}/1/shard-1": "other fold, other shard"}
    inputs |= {shard_role(role, number): f"part {number}" for number in range(3)}
    assert read_in_role(inputs, role) == ["part 0", "part 1", "part 2"]
    assert read_in_role(inputs, f"{role}/1") == ["other fold", "other fold, other shard"]
    assert read_in_role(inputs, "soft_labels/mentor/gold") == []
