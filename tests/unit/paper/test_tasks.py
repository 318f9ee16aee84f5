from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

from mentorkd.data.readers import read_questions, read_rationales
from mentorkd.paper.download import paper_files
from mentorkd.paper.tasks import ALIASES, PAPER_MENTORS, PAPER_TASKS, Task, find_task

# Correct rows of FlanT5-large and T5-large, and all rows of either.
KEPT_MENTOR_ROWS = {
    "svamp": (1558, 1525, 2100),
    "tracking_shuffled_objects": (1392, 1390, 1575),
    "date_understanding": (763, 761, 774),
    "last_letter_concatenation": (1029, 1010, 1050),
}


def test_there_are_the_eight_tasks_of_the_paper() -> None:
    assert len(PAPER_TASKS) == 8
    assert all(key == task.key for key, task in PAPER_TASKS.items())


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("svamp", "svamp"),
        ("SVAMP", "svamp"),
        ("shuffled", "tracking_shuffled_objects"),
        ("last_letter", "last_letter_concatenation"),
        ("Last Letter", "last_letter_concatenation"),
        ("date", "date_understanding"),
        ("date-understanding", "date_understanding"),
        ("csqa", "commonsense_qa"),
        ("strategyqa", "strategy_qa"),
        ("StrategyQA", "strategy_qa"),
    ],
)
def test_a_task_is_found_by_key_and_alias(name: str, key: str) -> None:
    assert find_task(name) is PAPER_TASKS[key]


def test_an_unknown_name_is_no_task() -> None:
    assert find_task("svampp") is None


def test_no_alias_names_two_tasks() -> None:
    names = [*PAPER_TASKS, *chain.from_iterable(ALIASES.values())]
    assert ALIASES.keys() <= PAPER_TASKS.keys()
    assert len(names) == len(set(names))


@pytest.mark.parametrize("task", PAPER_TASKS.values(), ids=PAPER_TASKS.keys())
def test_every_file_of_a_task_is_among_the_papers_files_and_none_is_forgotten(task: Task) -> None:
    published = {file.local for file in paper_files()}
    named = {task.train, task.test, task.teacher, task.teacher_six, *map(task.mentor, PAPER_MENTORS)} - {None}
    assert named <= published
    others = {f for f in published if task.key in f and not f.startswith("mcckd/")} - named
    assert others == {f"main/{task.key}_test.json"}  # the same test questions, with the teacher's own answers


@pytest.mark.parametrize("key", [*KEPT_MENTOR_ROWS, "gsm8k", "commonsense_qa"])
def test_the_counts_are_those_of_the_real_files(key: str, shared_data: Path) -> None:
    task, root = PAPER_TASKS[key], shared_data / "mentor-kd"
    how = {"kind": task.answer, "choices": task.choices}
    train = read_questions(root / task.train, split="train", **how)
    test = read_questions(root / task.test, split="test", **how)
    assert (len(train), len(test)) == (task.train_questions, task.test_questions)
    if key not in KEPT_MENTOR_ROWS:
        return
    teacher = read_rationales(root / task.teacher, train, **how)
    assert len(teacher) == task.teacher_rationales
    assert {r.verdict for r in teacher} == {"correct"}
    for mentor, kept in zip(PAPER_MENTORS, KEPT_MENTOR_ROWS[task.key][:2], strict=True):
        rationales = read_rationales(root / str(task.mentor(mentor)), train, **how, source_name=mentor)
        assert len(rationales) == KEPT_MENTOR_ROWS[task.key][2]
        assert sum(r.verdict == "correct" for r in rationales) == kept
