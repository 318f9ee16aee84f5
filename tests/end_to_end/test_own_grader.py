"""A task with a grader of the user's, from the recorded rationales to the report, by the graph of every other task."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mentorkd.cli.app import app
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.grader import grader_of
from mentorkd.recipe.load import load_recipe
from mentorkd.records import TEACHER, Prediction, Rationale, read_jsonl
from mentorkd.reporting.write import read_results
from own_task import GRADER, write_own_task


@pytest.mark.slow
def test_one_graph_serves_a_task_whose_answers_are_no_exact_match(tmp_path: Path) -> None:
    recipe = load_recipe(
        write_own_task(tmp_path, training={"updates": 40, "epochs": 2, "batch_size": 8, "learning_rate": 1e-2})
    )
    run, grader = tmp_path / "run", grader_of(recipe.task)
    Pipeline(recipe, run).run()
    folder = Pipeline(recipe, run).folder
    questions = {question.id: question for question in folder.questions("prepare")}
    predictions = [
        row for file in run.glob("learners/*/seed-1/predictions.jsonl") for row in read_jsonl(file, Prediction)
    ]
    assert {row.learner for row in predictions} == {"mentor", "vanilla", "student"}
    for row in predictions:
        graded = grader(row.text, questions[row.question_id])
        assert (row.predicted, row.verdict) == (graded.predicted, graded.verdict)
    written = read_jsonl(run / "learners/mentor/seed-1/rationales.jsonl", Rationale)
    assert any(row.verdict != "no_answer" for row in written)
    taught = folder.rationales("annotate")
    assert {row.source for row in taught} == {TEACHER}
    assert sum(row.verdict == "correct" for row in taught) > len(taught) / 2
    results = read_results(run / "report")
    assert any("graded by the recipe's own function overlap.py:grade" in line for line in results["protocol"])
    for learner in results["learners"]:
        own = [row.verdict == "correct" for row in predictions if row.learner == learner["name"]]
        assert learner["accuracy"] == pytest.approx(sum(own) / len(own))
    states = {planned.state for planned in Pipeline(recipe, run).plan()}
    assert states == {"done"}
    assert CliRunner().invoke(app, ["evaluate", str(run), "--learner", "student"]).exit_code == 0
    exported = CliRunner().invoke(
        app, ["export", str(run), "--learner", "student", "--as", "lm-eval", "--to", str(tmp_path / "task")]
    )
    assert "lm-eval grades without mentorkd, and the task has a grader of its own" in str(exported.exception)
    (tmp_path / "overlap.py").write_text(GRADER.replace("0.5", "0.9"), encoding="utf-8")
    assert "done" not in {planned.state for planned in Pipeline(recipe, run).plan()}
