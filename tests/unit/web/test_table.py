"""The table of rationales: what it filters, finds and sorts is what plain Python would, in memory and from a copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("duckdb", reason="duckdb is installed by pip install 'mentorkd[view]'")

from made_up_written import WORDS, made_up_written, opened
from mentorkd.errors import DamagedError
from mentorkd.pipeline.written import Written
from mentorkd.records import Question, Rationale
from mentorkd.web.copies import Tables
from mentorkd.web.table import DROPPED, RationaleTable, View

Made = tuple[Written, list[Question], list[Rationale], list[str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made_up_written(tmp_path_factory.mktemp("written"))


@pytest.fixture(scope="module", params=["memory", "copy"])
def table(
    made: Made, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RationaleTable]:
    if request.param == "memory":
        yield RationaleTable(made[0])
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mentorkd.web.copies.IN_MEMORY", 0)
        yield opened(Tables(tmp_path_factory.mktemp("cache")), made[0])


def test_rows_are_read_as_they_were_written(table: RationaleTable, made: Made) -> None:
    _, questions, rationales, outcomes = made
    rows = table.rows(range(len(table)))
    assert [row.rationale for row in rows] == rationales
    by_id = {question.id: question for question in questions}
    assert [row.question for row in rows] == [by_id[rationale.question_id] for rationale in rationales]
    assert [row.length for row in rows] == [len(rationale.text) for rationale in rationales]
    assert [row.outcomes[0] or "" for row in rows] == outcomes
    assert [row.file for row in rows] == [0] * 24 + [1] * 8 + [2] * 8
    assert [row.overlay for row in rows[:3]] == ["reject", "edit", None]
    assert rows[0].curated_id is None
    assert rows[1].curated_id not in (None, rationales[1].id)
    assert all(row.curated_id == row.rationale.id for row in rows[2:])
    kept = [row for row, outcome in zip(rows, outcomes, strict=True) if outcome == "kept"]
    assert [row.nll[0] for row in kept[1:]] == [float(row.length) for row in kept[1:]]
    assert table.rows([5, 0, 5])[::2] == [rows[5]] * 2


@pytest.mark.parametrize("word", [*WORDS, "A", "äPFEL", "s it", "%", "_", "'", "no such word", "how many sum"])
def test_a_search_finds_texts_and_questions_whatever_the_case(table: RationaleTable, made: Made, word: str) -> None:
    _, questions, rationales, _ = made
    text = {question.id: question.text for question in questions}
    expected = {
        number
        for number, rationale in enumerate(rationales)
        if word.lower() in rationale.text.lower() or word.lower() in text[rationale.question_id].lower()
    }
    assert set(table.order(View(search=word)).tolist()) == expected


def test_views_are_what_their_filters_leave(table: RationaleTable, made: Made) -> None:
    _, _, rationales, outcomes = made

    def numbers(view: View) -> list[int]:
        return sorted(table.order(view).tolist())

    everything = range(len(rationales))
    assert numbers(View()) == list(everything)
    assert numbers(View(verdict="wrong")) == [n for n in everything if rationales[n].verdict == "wrong"]
    assert numbers(View(files=frozenset({1, 2}))) == list(range(24, 40))
    assert numbers(View(outcome="kept")) == [n for n in everything if outcomes[n] == "kept"]
    assert numbers(View(outcome="overlay")) == [0]
    assert numbers(View(outcome=DROPPED)) == [n for n in everything if outcomes[n] in ("overlay", "correct")]
    assert numbers(View(outcome="perplexity")) == []
    assert numbers(View(ids=frozenset({rationales[7].id, "unknown"}))) == [7]
    both = View(search="apples", verdict="correct", files=frozenset({0}))
    assert set(numbers(both)) == set(numbers(View(search="apples"))) & set(numbers(replace(both, search="")))


def test_rows_come_in_the_order_that_was_asked_for(table: RationaleTable, made: Made) -> None:
    _, questions, rationales, _ = made
    place = {question.id: number for number, question in enumerate(questions)}

    def order(view: View) -> list[int]:
        return list(table.order(view).tolist())

    everything = range(len(rationales))
    assert order(View()) == sorted(everything, key=lambda n: place[rationales[n].question_id])
    assert order(View(sort="length")) == sorted(everything, key=lambda n: len(rationales[n].text))
    assert order(View(sort="length", descending=True)) == sorted(everything, key=lambda n: -len(rationales[n].text))
    with_nll = [row.nll[0] for row in table.rows(order(View(sort="nll", descending=True)))]
    known = [value for value in with_nll if value is not None]
    assert known == sorted(known, reverse=True)
    assert with_nll == [*known, *[None] * (len(with_nll) - len(known))]


def test_measured_divergences_can_be_sorted_by(made: Made) -> None:
    table, rationales = RationaleTable(made[0]), made[2]
    assert table.measured(0) == 0
    table.order(View(sort="kl"))
    table.keep_divergences(0, {rationales[5].id: 0.25, rationales[9].id: 1.5, "unknown": 3.0})
    table.keep_divergences(0, {})
    assert table.measured(0) == 2
    assert table.order(View(sort="kl", descending=True))[:2].tolist() == [9, 5]
    assert [row.kl[0] for row in table.rows([5, 6])] == [0.25, None]


def test_counts_of_a_column_leave_its_own_filter_out(table: RationaleTable, made: Made) -> None:
    _, _, rationales, outcomes = made
    verdicts = Counter(rationale.verdict for rationale in rationales)
    assert table.count("verdict", View(verdict="wrong")) == verdicts
    of_mentor = Counter(rationale.verdict for rationale in rationales[24:])
    assert table.count("verdict", View(files=frozenset({1, 2}))) == of_mentor
    assert table.count("outcome", View()) == Counter(filter(None, outcomes))
    assert list(table.count("outcome", View()).values()) == sorted(
        Counter(filter(None, outcomes)).values(), reverse=True
    )
    assert table.count("file", View(files=frozenset({2}))) == {0: 24, 1: 8, 2: 8}
    assert table.count("overlay", View()) == {"reject": 1, "edit": 1}


def test_a_question_stands_between_its_neighbours_in_the_view(table: RationaleTable, made: Made) -> None:
    _, questions, rationales, _ = made
    numbers = table.of_question(questions[3].id)
    assert [rationales[number].question_id for number in numbers] == [questions[3].id] * 5
    assert table.neighbours(View(), numbers[0]) == (questions[2].id, questions[4].id, 4, 8)
    last = table.of_question(questions[7].id)[0]
    assert table.neighbours(View(), last) == (questions[6].id, None, 8, 8)
    only = View(ids=frozenset({rationales[0].id, rationales[23].id}))  # of the first and of the last question
    assert table.neighbours(only, numbers[0]) == (questions[0].id, questions[7].id, 2, 2)
    assert table.of_question("unknown") == []


def test_threads_share_a_table(table: RationaleTable) -> None:
    views = [View(search=word, verdict=verdict) for word in WORDS for verdict in ("correct", "wrong", None)]
    alone = [table.order(view).tolist() for view in views]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda view: table.order(view).tolist(), views)) == alone


@pytest.mark.parametrize("name", ["questions", "teacher"])
@pytest.mark.parametrize(
    ("old", "new"), [('"id": "', '"id": "0'), ('"text": "', '"text": "0'), ('"text": "', '"text": 0, "": "'), ("{", "")]
)
def test_a_file_that_has_changed_is_told(tmp_path: Path, name: str, old: str, new: str) -> None:
    written, *_ = made_up_written(tmp_path)
    table = RationaleTable(written)
    file = next(each.path for each in written.files if each.path.stem == name)
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(
        DamagedError, match=rf"{name}.jsonl has changed since the run wrote it; remove it and `mentorkd run` makes it"
    ):
        table.rows([0])


def test_a_file_that_has_changed_is_not_opened(tmp_path: Path) -> None:
    written, *_ = made_up_written(tmp_path)
    file = written.texts[0].file.path
    file.write_text(file.read_text() + "\n")
    with pytest.raises(DamagedError, match=r"teacher.jsonl has .* bytes, expected .*; remove it and `mentorkd run`"):
        RationaleTable(written)


def test_lines_that_are_no_records_are_told_where_no_hash_is_known(tmp_path: Path) -> None:
    written, *_ = made_up_written(tmp_path)
    file = written.texts[0].file
    file.path.write_text(file.path.read_text() + "{\n")
    unsealed = replace(written, texts=[replace(written.texts[0], file=replace(file, seal=None)), *written.texts[1:]])
    with pytest.raises(DamagedError, match="a file of the run is damaged"):
        RationaleTable(unsealed)
