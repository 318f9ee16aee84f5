"""The paper's numbers: what is in the table, and what of it cannot be an accuracy on the test set that it names."""

from __future__ import annotations

from collections import Counter

from mentorkd.paper.results import Published, paper_results
from mentorkd.paper.tasks import PAPER_TASKS

PUBLISHED = paper_results()


def cells(table: str) -> dict[tuple[str, float | None, str], float]:
    return {(p.row, p.at, task): value for p in PUBLISHED if p.table == table for task, value in p.accuracy.items()}


def test_every_cell_of_the_paper_is_there_once_and_is_a_percentage_of_a_known_task() -> None:
    counts = Counter(p.table for p in PUBLISHED for _ in p.accuracy)
    assert counts == {"table1": 20, "table2": 56, "table3": 49, "table4": 6, "table5": 24} | {
        "figure3": 9,
        "figure6": 8,
        "figure7": 14,
    }
    assert len({(p.table, p.row, p.at) for p in PUBLISHED}) == len(PUBLISHED)
    assert all(0 < value < 100 and task in PAPER_TASKS for p in PUBLISHED for task, value in p.accuracy.items())


def test_cells_that_are_printed_in_several_places_agree() -> None:
    shuffled, letters = "tracking_shuffled_objects", "last_letter_concatenation"
    for task in (shuffled, letters):
        whole = cells("table2")["small-mentor-kd", None, task]
        assert cells("table4")["mentor-kd", None, task] == whole
        for table, row, at in [
            ("table5", "mentor-kd", 1),
            ("figure7", "mentor-kd", 0.3),
            ("figure6", "after-large", None),
        ]:
            assert cells(table)[row, at, task] == round(whole, 1)
        vanilla = round(cells("table2")["small-vanilla-kd", None, task], 1)
        assert cells("figure7")["vanilla-kd", None, task] == cells("table5")["vanilla-kd", 1, task] == vanilla
    assert cells("figure3")["mentor-kd", 1, shuffled] == 64.9


def impossible(published: Published, task: str) -> bool:
    """Whether no number of correct answers to the task's test questions gives the published accuracy."""
    value, questions = published.accuracy[task], PAPER_TASKS[task].test_questions
    decimals = 2 if published.table in ("table1", "table2", "table3", "table4") else 1
    return round(100 * round(value * questions / 100) / questions, decimals) != value


def test_cells_that_no_count_of_right_answers_gives() -> None:
    """What the paper itself leaves odd (docs/reproduce.md); a slip of ours in copying would show as one more."""
    odd = {(p.table, p.row, task) for p in PUBLISHED for task in p.accuracy if impossible(p, task)}
    teacher = {("table1", "teacher", task) for task in ("commonsense_qa", "asdiv", "svamp", "gsm8k")}
    teacher |= {("table2", "teacher", task) for task in ("strategy_qa", "commonsense_qa", "asdiv", "svamp")}
    assert odd - teacher == {
        *(("table1", "mentor", task) for task in ("svamp", "gsm8k")),
        *(("table1", "vanilla-kd", task) for task in ("commonsense_qa", "asdiv")),
        ("table1", "mcc-kd", "asdiv"),
        *(("table1", "mentor-kd", task) for task in ("asdiv", "svamp", "gsm8k")),
        ("table3", "mentor", "svamp"),
    }
    assert teacher <= odd
