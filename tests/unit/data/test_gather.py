"""What a learner trains on: selection by source, in order, without repeating an earlier source's text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from mentorkd.data.encoding import TextEncoder
from mentorkd.data.selection import Gathered, gather, gold_rationales
from mentorkd.grading.grade import Grader
from mentorkd.recipe.learner import SelectConfig
from mentorkd.records import Question, Rationale
from tiny_models import tiny_tokenizer

QUESTIONS = [Question.create(f"q{i}", str(i), "train") for i in range(4)]
HELD = Question.create("held", "9", "validation")


def every(gathered: Gathered) -> list[Rationale]:
    """The rationales of all sources, one source after the other."""
    return list(chain(*gathered.by_source.values()))


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
    assert [(r.source, r.text) for r in every(gathered)] == [("teacher", "a"), ("teacher", "b"), ("mentor", "new")]


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
    assert [(r.source, r.text) for r in every(gathered)] == [
        ("teacher", "a"), ("mentor", "a"), ("mentor", "new"), ("mentor", "d"),
    ]  # fmt: skip


def kept(texts: list[str], **filters: object) -> tuple[list[str], list[tuple[str, int, int]]]:
    """What is left of rationales for the question whose answer is 3, and the last filter's counts."""
    question, select = QUESTIONS[3], SelectConfig.model_validate(filters)
    rows = [rationale(question, text, "teacher", sample=i) for i, text in enumerate(texts)]
    grader = Grader("number")
    gathered = gather({"teacher": rows}, {"teacher": select}, QUESTIONS, conclude=grader.find)
    return [r.text for r in every(gathered)], [(f["filter"], f["before"], f["after"]) for f in gathered.filters][3:]


def test_filters_of_reasoning_are_off_until_they_are_asked_for() -> None:
    texts = ["1 + 2 = 4, so 3", "1 + 2 = 3", "we have 5", "so it is clearly 3"]
    assert kept(texts) == (texts, [])
    assert kept(texts, arithmetic=True) == (texts[1:], [("arithmetic", 4, 3)])
    assert kept(texts, answer_in_rationale=True) == ([texts[0], texts[1], texts[3]], [("answer_in_rationale", 4, 3)])
    # Four characters are a token, a part of one is a whole one: 15, 9, 9 and 18 characters.
    assert kept(texts, min_tokens=4, max_tokens=4) == (texts[:1], [("length", 4, 1)])
    assert kept(texts, max_tokens=3) == (texts[1:3], [("length", 4, 2)])


def test_diverse_keeps_those_that_differ_most() -> None:
    texts = ["a b c d e 3", "a b c d f 3", "u v w x y 3"]
    assert kept(texts, diverse=2) == ([texts[0], texts[2]], [("diverse", 3, 2)])


def test_what_is_scored_holds_all_that_any_reader_may_take() -> None:
    limited = SelectConfig(max_per_question=1)
    taken = every(gather(SOURCES, {"teacher": SelectConfig(), "mentor": limited}, QUESTIONS))
    alone = every(gather({"mentor": MENTOR}, {"mentor": limited}, QUESTIONS))
    scored = every(gather({"mentor": MENTOR}, {"mentor": limited.of_each()}, QUESTIONS))
    # The teacher gave the first text, so of the mentor's the second is the first.
    assert [r.text for r in taken if r.source == "mentor"] == ["new"]
    assert [r.text for r in alone] == ["a"]
    assert [r.text for r in scored] == ["a", "new"]


def test_the_number_of_unread_equations_is_recorded() -> None:
    question = QUESTIONS[3]
    texts = ["1 + 2 = 3", "1 + 2 = 4", "Total = 3", "x + 1 = 4, so 2 + 1 = 3"]
    rows = [rationale(question, text, "teacher", sample=i) for i, text in enumerate(texts)]
    gathered = gather({"teacher": rows}, {"teacher": SelectConfig(arithmetic=True)}, QUESTIONS)
    (count,) = [row for row in gathered.filters if row["filter"] == "arithmetic"]
    assert (count["before"], count["after"], count["equations"], count["unread"]) == (4, 3, 5, 2)


def test_length_is_counted_by_the_tokenizer_or_recorded_as_an_estimate() -> None:
    tokenizer = tiny_tokenizer()
    texts = ["Tom has 3 apples", "Zyx qwv 3 jkzp"]
    rows = [rationale(QUESTIONS[3], text, "teacher", sample=i) for i, text in enumerate(texts)]
    # The tokenizer knows the words of the first text, and spells the second.
    known, spelled = (len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    assert known <= 4 < spelled
    selects = {"teacher": SelectConfig(max_tokens=4)}
    by_reader = gather({"teacher": rows}, selects, QUESTIONS, tokens=TextEncoder(tokenizer, "seq2seq", None).count)
    roughly = gather({"teacher": rows}, selects, QUESTIONS)
    assert [r.text for r in every(by_reader)] == texts[:1]
    assert [r.text for r in every(roughly)] == texts
    for gathered, unit in ((by_reader, "tokens"), (roughly, "characters")):
        (count,) = [row for row in gathered.filters if row["filter"] == "length"]
        assert count["counted_in"] == unit


def test_the_model_of_perplexity_is_asked_by_name() -> None:
    asked: list[tuple[str, list[str]]] = []

    def nll(model: str, rationales: Sequence[Rationale]) -> dict[str, float]:
        asked.append((model, [r.text for r in rationales]))
        return {r.id: float(len(r.text)) for r in rationales}

    select = SelectConfig.model_validate({"perplexity": {"model": "mentor", "drop": 0.5}})
    gathered = gather({"mentor": MENTOR}, {"mentor": select}, QUESTIONS, nll=nll)
    assert asked == [("mentor", ["a", "new"])]
    assert [r.text for r in every(gathered)] == ["a"]


def test_replies_that_are_not_whole_are_never_trained_on() -> None:
    outcomes = ["ok", "refusal", "length", "empty"]
    rows = [
        Rationale.create(QUESTIONS[0].id, f"t{i}", None, "no_answer", "teacher", i, {"outcome": outcome})
        for i, outcome in enumerate(outcomes)
    ]
    gathered = gather({"teacher": rows}, {"teacher": SelectConfig(correct=False)}, QUESTIONS)
    assert [r.text for r in every(gathered)] == ["t0"]
    assert gathered.filters[1] == {"source": "teacher", "filter": "whole_replies", "before": 4, "after": 1}


def test_each_dropped_rationale_is_told_with_its_filter() -> None:
    rows = [
        Rationale.create(QUESTIONS[0].id, text, "1", verdict, "teacher", number)
        for number, (text, verdict) in enumerate(
            [("a", "correct"), ("b", "wrong"), ("a ", "correct"), ("c", "correct")]
        )
    ]
    rows.append(Rationale.create("other", "d", "1", "correct", "teacher", 0))
    told: list[tuple[str, int]] = []
    gathered = gather(
        {"teacher": rows},
        {"teacher": SelectConfig(max_per_question=1)},
        QUESTIONS,
        dropped=lambda name, rationale: told.append((name, rows.index(rationale))),
    )
    assert every(gathered) == rows[:1]
    assert sorted(told) == [("correct", 1), ("deduplicate", 2), ("max_per_question", 3), ("training_questions", 4)]


def test_rationales_are_kept_under_the_name_by_which_the_reader_knows_their_source() -> None:
    own = [rationale(QUESTIONS[0], "mine", "student", sample=0)]
    gathered = gather({**SOURCES, "self": own}, dict.fromkeys([*SOURCES, "self"], SelectConfig()), QUESTIONS)
    assert list(gathered.by_source) == [*SOURCES, "self"]
    assert gathered.by_source["self"] == own
    assert len(gathered) == len(every(gathered))


def test_what_has_no_gold_answer_is_no_correct_text() -> None:
    unlabelled = Question.create("new", "", "unlabelled")
    questions = [*QUESTIONS[:1], unlabelled]
    assert [r.question_id for r in gold_rationales(questions)] == [QUESTIONS[0].id]
    texts = {"mentor": [rationale(QUESTIONS[0], "a", "mentor"), rationale(unlabelled, "b", "mentor", "ungraded")]}
    gathered = gather(texts, {"mentor": SelectConfig()}, questions)
    assert [r.text for r in every(gathered)] == ["a"]
    assert [(row["filter"], row["after"]) for row in gathered.filters[:2]] == [
        ("training_questions", 2),
        ("correct", 1),
    ]


def test_a_source_is_limited_to_given_questions() -> None:
    selects = {"teacher": SelectConfig(), "mentor": SelectConfig(questions="teacher", deduplicate=False)}
    questions = {row.question_id for row in MENTOR}
    allowed = {MENTOR[0].question_id}
    dropped: list[Rationale] = []

    def drop(name: str, row: Rationale) -> None:
        if name == "questions":
            dropped.append(row)

    gathered = gather(SOURCES, selects, QUESTIONS, limits={"mentor": allowed}, dropped=drop)
    assert {row.question_id for row in gathered.by_source["mentor"]} <= allowed < questions
    [count] = [row for row in gathered.filters if row["filter"] == "questions"]
    assert count["before"] - count["after"] == len(dropped) > 0
    assert not allowed & {row.question_id for row in dropped}
