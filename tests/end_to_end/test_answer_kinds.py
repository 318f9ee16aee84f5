"""Tasks in the shapes of CommonsenseQA, StrategyQA and MATH: one graph serves each kind of answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mentorkd.data.readers import read_questions
from mentorkd.grading.grade import Grader
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import load_recipe
from mentorkd.records import Prediction, Rationale, read_jsonl
from mentorkd.reporting.write import read_results
from small_recipe import small_recipe

OPTIONS = " Answer Choices: (A) a few (B) some (C) many (D) all (E) none"
SHAPES = {
    "choice": (OPTIONS, "B", "So B.", "B"),
    "yes_no": (" Are some left?", True, "So yes.", "yes"),
    "math": (" Which share?", "1/2", "A half.", "0.5"),
}
"""By kind: the end of each question, its gold answer in the file, a rationale, and another form of the answer."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHAPES)
def test_a_kind_of_answer_goes_the_whole_way(kind: str, tmp_path: Path) -> None:
    more, gold, rationale, stated = SHAPES[kind]
    if kind == "math":
        pytest.importorskip("math_verify", reason="math answers need pip install 'mentorkd[math]'")
    raw = small_recipe(tmp_path, training={"updates": 200, "epochs": 2, "batch_size": 8, "learning_rate": 1e-2})
    raw["task"] |= {"answer": kind}
    for name in ("train", "validation", "test", "teacher"):
        file = tmp_path / "data" / f"{name}.jsonl"
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            row |= {"question": row["question"] + more, "answer": gold}
            if name == "teacher":
                row |= {"rationale": rationale, "completion": stated}
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    Pipeline(load_recipe(path), tmp_path / "run").run()
    taught = read_jsonl(tmp_path / "run/teacher/rationales.jsonl", Rationale)
    assert {row.verdict for row in taught} == {"correct"}
    answers = read_jsonl(tmp_path / "run/learners/student/seed-1/predictions.jsonl", Prediction)
    assert "correct" in {row.verdict for row in answers}
    results = read_results(tmp_path / "run" / "report")
    assert results["task"]["kind"] == kind
    share = sum(row.verdict == "correct" for row in answers) / len(answers)
    assert {row["name"]: row["accuracy"] for row in results["learners"]}["student"] == pytest.approx(share)


def test_the_papers_questions_of_commonsense_qa_have_five_options(shared_data: Path) -> None:
    file = shared_data / "mentor-kd" / "skeleton" / "commonsense_qa_test.json"
    questions = read_questions(file, split="test", kind="choice")
    grader = Grader("choice")
    for question in questions[:200]:
        assert grader(f"Of these it is {question.answer}. --> {question.answer}", question).verdict == "correct"
        other = next(letter for letter in "ABCDE" if letter != question.answer)
        assert grader(f"--> ({other})", question).verdict == "wrong"
        assert grader("--> F", question).verdict == "no_answer"
