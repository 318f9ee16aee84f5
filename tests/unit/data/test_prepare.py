"""A run's files: each with its own columns, and ids that join the teacher's rationales to their questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mentorkd.data.prepare import prepare_recipe
from mentorkd.errors import DataError
from mentorkd.recipe.load import parse_recipe
from mentorkd.recipe.schema import Recipe
from mentorkd.teachers.annotate import open_teacher

RECIPE = """
name: small
task: {name: sums, train: train.csv, test: test.jsonl, answer: number, validation_share: 0.0, columns: COLUMNS}
teacher: {rationales: teacher.jsonl TEACHER}
training: {select_on: last}
learners: {vanilla: {model: some/model}}
"""
TRAIN = "No; Problem ;Solution\n1;1 + 1?;2\n2;2 + 2?;4\n3;3 + 3?;six\n"


def recipe_of(folder: Path, columns: str, teacher: str, rationales: list[dict[str, Any]]) -> Recipe:
    (folder / "train.csv").write_text(TRAIN, encoding="utf-8")
    (folder / "test.jsonl").write_text('{"query": "5 + 5?", "answer": 10}\n', encoding="utf-8")
    (folder / "teacher.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rationales), encoding="utf-8")
    text = RECIPE.replace("COLUMNS", columns).replace(" TEACHER", teacher)
    return parse_recipe(text, source="recipe", base=folder)


def test_every_file_has_its_own_columns_and_ids_join_the_rationales(tmp_path: Path) -> None:
    columns = "{train: {question: Problem, answer: Solution, id: 'No'}, test: {question: query}}"
    rationales = [{"example": 2, "text": "2 + 2 = 4"}, {"example": 9, "text": "It is 3."}]
    recipe = recipe_of(tmp_path, columns, ", columns: {rationale: text, id: example}", rationales)
    questions, faults = prepare_recipe(recipe)
    assert [(q.split, q.text, q.answer) for q in questions] == [
        ("train", "1 + 1?", "2"),
        ("train", "2 + 2?", "4"),
        ("test", "5 + 5?", "10"),
    ]
    assert 'train question "3 + 3?" (row 3) has `six`' in faults.lines()[0]
    expected = open_teacher(recipe).estimate(questions, tmp_path)
    assert [(r.question_id, r.text, r.verdict) for r in expected.recorded] == [
        (questions[1].id, "2 + 2 = 4", "correct")
    ]
    assert expected.faults == ["1 rationale(s) of a question that is missing or was dropped, dropped: teacher, row 2"]


def test_a_mapping_for_all_files_is_one_for_each_of_them(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "{question: Problem, answer: Solution}", "", [{"a": 1}])
    with pytest.raises(DataError, match=r"test\.jsonl: no field for the question: .* expected `Problem`"):
        prepare_recipe(recipe)


def with_unlabelled(recipe: Recipe, rows: list[dict[str, Any]], **task: Any) -> Recipe:
    """The recipe with a file of unlabelled questions, whoever reads them."""
    file = Path(recipe.data.root) / "more.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return recipe.model_copy(
        update={"task": recipe.task.model_copy(update={"unlabelled": "more.jsonl", "columns": {}, **task})}
    )


COLUMNS = "{train: {question: Problem, answer: Solution, id: 'No'}, test: {question: query}}"
MORE = [{"query": "1 + 1?", "No": 1}, {"query": "7 + 7?", "No": 2}, {"query": "8 + 8?", "No": 3}]


def test_unlabelled_questions_are_prepared_last_without_those_of_other_splits(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, COLUMNS, "", [{"a": 1}])
    columns = {**recipe.task.columns, "unlabelled": {"question": "query"}}
    questions, faults = prepare_recipe(with_unlabelled(recipe, MORE, columns=columns))
    assert [(q.text, q.answer) for q in questions if q.split == "unlabelled"] == [("7 + 7?", ""), ("8 + 8?", "")]
    assert questions[:3] == prepare_recipe(recipe)[0]
    assert faults.counts == {"impossible_answer": 1, "overlapping_question": 1}
    questions, _ = prepare_recipe(with_unlabelled(recipe, MORE, columns=columns, limit_unlabelled=2))
    assert [q.text for q in questions if q.split == "unlabelled"] == ["7 + 7?"]
    with pytest.raises(DataError, match=r"no unlabelled question remains from .*more\.jsonl; expected at least one"):
        prepare_recipe(with_unlabelled(recipe, MORE[:1], columns=columns))


def test_a_part_of_the_training_file_may_be_unlabelled(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, COLUMNS, "", [{"a": 1}])
    columns = {**recipe.task.columns, "unlabelled": recipe.task.columns["train"]}
    task = {"unlabelled": "train.csv", "limit_train": 1, "columns": columns}
    questions, _ = prepare_recipe(recipe.model_copy(update={"task": recipe.task.model_copy(update=task)}))
    assert [(q.split, q.text) for q in questions] == [
        ("train", "1 + 1?"),
        ("test", "5 + 5?"),
        ("unlabelled", "2 + 2?"),
        ("unlabelled", "3 + 3?"),
    ]


def test_a_recorded_teacher_has_nothing_to_say_about_unlabelled_questions(tmp_path: Path) -> None:
    rationales = [{"No": 2, "text": "2 + 2 = 4"}, {"Problem": "7 + 7?", "Solution": "14", "text": "7 + 7 = 14"}]
    own = ", columns: {question: Problem, answer: Solution, rationale: text, id: 'No'}"
    recipe = recipe_of(tmp_path, COLUMNS, own, rationales)
    columns = {**recipe.task.columns, "unlabelled": {"question": "query", "id": "No"}}
    recipe = with_unlabelled(recipe, MORE, columns=columns)
    questions, _ = prepare_recipe(recipe)
    expected = open_teacher(recipe).estimate(questions, tmp_path)
    assert [(r.text, r.verdict) for r in expected.recorded] == [("2 + 2 = 4", "correct")]
    assert expected.faults == ["1 rationale(s) of a question that is missing or was dropped, dropped: teacher, row 2"]
