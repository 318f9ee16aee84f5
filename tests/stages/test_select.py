"""What a learner trains on: selection by source, in order, without repeating an earlier source's text."""

from __future__ import annotations

from mentorkd.recipe import SelectConfig
from mentorkd.records import Question, Rationale
from mentorkd.stages.select import gather

QUESTIONS = [Question.create(f"q{i}", str(i), "train") for i in range(4)]
HELD = Question.create("held", "9", "validation")


def rationale(question: Question, text: str, source: str, verdict: str = "correct", sample: int = 0) -> Rationale:
    return Rationale.create(question.id, text, question.answer, verdict, source, sample)  # type: ignore[arg-type]


TEACHER = [
    rationale(QUESTIONS[0], "a", "teacher"),
    rationale(QUESTIONS[0], "b", "teacher", sample=1),
    rationale(QUESTIONS[1], "c", "teacher", "wrong"),
    rationale(HELD, "h", "teacher"),
]
MENTOR = [
    rationale(QUESTIONS[0], " a ", "mentor"),
    rationale(QUESTIONS[0], "new", "mentor", sample=1),
    rationale(QUESTIONS[1], "d", "mentor", "no_answer"),
]
SOURCES = {"teacher": TEACHER, "mentor": MENTOR}


def test_wrong_unanswered_held_out_and_repeated_texts_are_left_out() -> None:
    gathered = gather(SOURCES, dict.fromkeys(SOURCES, SelectConfig()), QUESTIONS)
    assert [(r.source, r.text) for r in gathered.rationales] == [("teacher", "a"), ("teacher", "b"), ("mentor", "new")]


def test_every_filter_tells_how_many_went_in_and_came_out() -> None:
    gathered = gather(SOURCES, dict.fromkeys(SOURCES, SelectConfig()), QUESTIONS)
    counts = [(row["source"], row["filter"], row["before"], row["after"]) for row in gathered.filters]
    assert counts == [
        ("teacher", "training_questions", 4, 3),
        ("teacher", "correct", 3, 2),
        ("teacher", "deduplicate", 2, 2),
        ("mentor", "training_questions", 3, 3),
        ("mentor", "correct", 3, 2),
        ("mentor", "deduplicate", 2, 1),
    ]


def test_each_source_has_its_own_filter() -> None:
    selects = {"teacher": SelectConfig(max_per_question=1), "mentor": SelectConfig(correct=False, deduplicate=False)}
    gathered = gather(SOURCES, selects, QUESTIONS)
    assert [(r.source, r.text) for r in gathered.rationales] == [
        ("teacher", "a"), ("mentor", "a"), ("mentor", "new"), ("mentor", "d"),
    ]  # fmt: skip
