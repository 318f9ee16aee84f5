"""`mentorkd init`: from a folder of one's own JSON Lines to a student, editing nothing but paths."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mentorkd.cli.app import app
from mentorkd.errors import RunError
from mentorkd.quickstart.problems import generate_problems
from mentorkd.quickstart.task import write_task
from mentorkd.quickstart.teacher import annotate
from mentorkd.recipe.load import load_recipe

TRAIN, TEST = 160, 40


def write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def own_recipe(folder: Path) -> Path:
    """The recipe that `init` writes, with the data of 200 questions under names of their own and the paths edited."""
    problems = list(islice(generate_problems(21), TRAIN + TEST))
    rows = [{"question": p.question, "answer": str(p.answer)} for p in problems]
    told = annotate(problems[:TRAIN], samples=2, seed=3)
    (folder / "files").mkdir()
    write_lines(folder / "files" / "known.jsonl", rows[:TRAIN])
    write_lines(folder / "files" / "unseen.jsonl", rows[TRAIN:])
    write_lines(
        folder / "files" / "worked.jsonl",
        [vars(row) for row in told],
    )

    assert CliRunner().invoke(app, ["init", str(folder / "mine")]).exit_code == 0
    recipe = folder / "mine" / "recipe.yaml"
    lines = recipe.read_text(encoding="utf-8").splitlines()
    assert sum("# yours" in line for line in lines) == 4
    edits = {"root: .": "root: ../files", "train.jsonl": "known.jsonl", "test.jsonl": "unseen.jsonl"}
    edits |= {"teacher.jsonl": "worked.jsonl"}
    for old, new in edits.items():
        [place] = [number for number, line in enumerate(lines) if "# yours" in line and old in line]
        lines[place] = lines[place].replace(old, new)
    recipe.write_text("\n".join(lines), encoding="utf-8")
    return recipe


def test_the_recipe_of_init_is_the_quickstarts_but_for_what_is_named(tmp_path: Path) -> None:
    recipe = load_recipe(own_recipe(tmp_path))
    assert recipe.name == recipe.task.name == "mine"
    assert recipe.task.validation is None
    assert list(recipe.learners) == ["vanilla", "self-taught", "mentor", "student"]
    assert Path(recipe.data.root).name == "files"
    for learner in recipe.learners.values():
        assert Path(learner.model.name or learner.model.tokenizer or "").is_dir()


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    recipe = own_recipe(tmp_path)
    before = recipe.read_bytes()
    again = CliRunner().invoke(app, ["init", str(recipe.parent)])
    assert again.exit_code != 0
    assert "already exists" in str(again.exception)
    assert recipe.read_bytes() == before


@pytest.mark.slow
def test_two_hundred_questions_of_ones_own_come_to_a_student(tmp_path: Path) -> None:
    recipe = own_recipe(tmp_path)
    one_seed = "seeds=[1]"  # for the test's time
    told = CliRunner().invoke(app, ["run", str(recipe), one_seed, "--run", str(tmp_path / "run"), "--quiet"])
    assert told.exit_code == 0, told.output
    results = json.loads((tmp_path / "run" / "report" / "results.json").read_text(encoding="utf-8"))
    assert {row["name"] for row in results["learners"]} >= {"vanilla", "mentor", "student"}
    [model] = (tmp_path / "run" / "learners" / "student").glob("seed-*/model/model.safetensors")
    assert model.stat().st_size > 1e6


@pytest.mark.parametrize("model", ["google/flan-t5-small", "Qwen/Qwen3-0.6B"])
def test_a_recipe_for_a_model_passes_the_checks_of_plan(model: str, tmp_path: Path) -> None:
    started = CliRunner().invoke(app, ["init", str(tmp_path / "mine"), "--model", model])
    assert f"assumed: {model}: " in started.output
    write_task(tmp_path / "mine", train=60, validation=5, test=20, annotated=60)
    planned = CliRunner().invoke(app, ["plan", str(tmp_path / "mine" / "recipe.yaml"), "--gpu-memory", "40", "--json"])
    assert planned.exit_code == 0, planned.output
    stated = json.loads(planned.stdout)
    assert [
        line for line in stated["warnings"] if "detects no difference" not in line and " are free" not in line
    ] == []
    assert all(memory["fits"] for memory in stated["estimates"]["memory"])


def test_the_folder_of_the_data_is_not_named_as_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="gpt2 would be taken for the model gpt2; give another folder"):
        CliRunner().invoke(app, ["init", "gpt2", "--model", "gpt2"], catch_exceptions=False)
    assert not (tmp_path / "gpt2").exists()
