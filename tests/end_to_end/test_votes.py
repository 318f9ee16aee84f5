"""Votes and pass@k of a finished run: by its recipe, and by `evaluate --samples`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import Cli
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.run import Pipeline
from mentorkd.pipeline.stages.evaluate import predict
from mentorkd.pipeline.stages.sample import sampling_params
from mentorkd.recipe.load import load_recipe
from mentorkd.records import Prediction, read_jsonl
from mentorkd.reporting.votes import count_ballots

LEARNERS = ("mentor", "vanilla", "student")


@pytest.fixture(scope="module")
def folder(small_run: Path) -> Path:
    """The small run, with three samples for each test question in two shards."""
    recipe = load_recipe(small_run / "recipe.yaml", ["sampling.test_samples=3", "shards=2"])
    pipeline = Pipeline(recipe, small_run / "run")
    planned = {p.stage.name: p.state for p in pipeline.plan()}
    sampling = {f"learners/{name}/seed-1/sample{part}" for name in LEARNERS for part in ("", "/shard-0", "/shard-1")}
    assert {name for name, state in planned.items() if state != "done"} == sampling | {"report"}
    pipeline.run()
    return small_run


def test_the_report_is_that_of_the_samples(folder: Path) -> None:
    results = json.loads((folder / "run" / "report" / "results.json").read_text(encoding="utf-8"))
    ids = [question["id"] for question in results["questions"]]
    assert [row["learner"] for row in results["sampled"]] == list(LEARNERS)
    greedy = {learner["name"]: learner["accuracy"] for learner in results["learners"]}
    for row in results["sampled"]:
        rows = read_jsonl(folder / "run" / "learners" / row["learner"] / "seed-1" / "samples.jsonl", Prediction)
        counted = count_ballots(rows, ids)
        assert (row["samples"], row["temperature"], [one["k"] for one in row["pass_at_k"]]) == (3, 0.7, [1, 2, 3])
        assert row["pass_at_k"][0]["share"] == pytest.approx(counted.correct_Q.sum() / (3 * len(ids)), abs=1e-6)
        assert row["vote"]["share"] == pytest.approx(counted.vote_Q.mean())
        assert row["vote"]["gain"] == pytest.approx(row["vote"]["share"] - greedy[row["learner"]], abs=1e-6)
    assert len({row.text for row in rows}) > len(ids)  # samples of a question differ
    assert "pass@3" in (folder / "run" / "report" / "report.md").read_text(encoding="utf-8")


def test_a_killed_sampling_goes_on_from_its_journal(folder: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(load_recipe(folder / "recipe.yaml"), folder / "run")
    context, learner = RunContext(pipeline.recipe, pipeline.folder), pipeline.recipe.learners["student"]
    engine = context.engine(learner, context.model_folder("student", 1, pipeline.trained("student", 1)))
    questions, params = pipeline.folder.questions("prepare", "train"), sampling_params(learner.sampling, 4)
    journal = tmp_path / "journal.jsonl"
    whole = predict(context, engine, "student", 1, questions, journal, params)
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3  # chunks of 16 of the 40 questions, with as many texts as in 64 greedy answers
    journal.write_bytes(lines[0] + lines[1][:20])
    assert predict(context, engine, "student", 1, questions, journal, params) == whole
    assert journal.read_bytes().splitlines(keepends=True)[-1] == lines[2]


def test_evaluate_samples_the_test_questions_and_votes(cli: Cli, folder: Path, tmp_path: Path) -> None:
    asked = ["evaluate", folder / "run", "--learner", "student", "--quiet"]
    output = tmp_path / "samples.jsonl"
    told = cli(*asked, "--samples", 4, "--vote", "--temperature", 1.5, "--json", "--output", output)
    assert told.code == 0, told.err
    printed = json.loads(told.out)
    [row] = printed["learners"]
    assert (printed["questions"], row["samples"], row["temperature"]) == (10, 4, 1.5)
    assert len(read_jsonl(output, Prediction)) == 40
    assert row["vote"]["gain"] is None
    shown = cli(*asked, "--samples", 2)
    assert shown.code == 0, shown.err
    assert "vote" not in shown.out
    assert "10 test questions" in shown.out
    greedy = json.loads(cli(*asked, "--json").out)["learners"][0]
    report = json.loads((folder / "run" / "report" / "results.json").read_text(encoding="utf-8"))
    assert greedy["accuracy"] == next(one["accuracy"] for one in report["learners"] if one["name"] == "student")


@pytest.mark.parametrize("option", [["--vote"], ["--temperature", "1"]])
def test_options_of_sampling_need_a_number_of_samples(cli: Cli, folder: Path, option: list[str]) -> None:
    told = cli("evaluate", folder / "run", *option)
    expected = f"mentorkd: got {option[0]} without --samples; give the number of texts per question, e.g. --samples 8\n"
    assert (told.code, told.err) == (2, expected)
