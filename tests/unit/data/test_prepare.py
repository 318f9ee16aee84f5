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
