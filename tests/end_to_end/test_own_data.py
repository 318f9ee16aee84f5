"""`mentorkd init`: from a folder of one's own JSON Lines to a student, editing nothing but paths."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mentorkd.cli.app import app
from mentorkd.quickstart.problems import generate_problems
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
    assert list(recipe.learners) == ["vanilla", "mentor", "student", "student-no-soft-labels"]
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
