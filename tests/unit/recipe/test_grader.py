"""`task.grader`: where the function is looked for, its faults, and its part in fingerprints."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mentorkd.data.prepare import prepare_recipe
from mentorkd.errors import GraderError, RecipeError
from mentorkd.pipeline.graph import compile_stages
from mentorkd.recipe.grader import grader_of
from mentorkd.recipe.load import dump_recipe, load_recipe, parse_recipe
from own_task import GRADER, write_own_task


def test_the_function_lies_beside_the_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(write_own_task(tmp_path))
    assert recipe.task.grader == f"{tmp_path}/overlap.py:grade"
    assert parse_recipe(dump_recipe(recipe), source="a run", base=Path("/elsewhere")) == recipe
    question = prepare_recipe(recipe)[0][0]
    assert grader_of(recipe.task)("so --> There are many in all", question).verdict == "correct"
    assert grader_of(recipe.task)("so --> There were a few", question).verdict == "wrong"


def test_a_module_that_is_not_beside_the_recipe_is_imported_by_its_name(tmp_path: Path) -> None:
    recipe = load_recipe(write_own_task(tmp_path), ["task.grader=mentorkd.grading.answers:stated_answer"])
    assert recipe.task.grader == "mentorkd.grading.answers:stated_answer"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.grader=overlap", r"task.grader: got 'overlap'; expected MODULE:FUNCTION or FILE.py:FUNCTION"),
        ("task.grader=missing.py:grade", "task.grader: no file at .*missing.py"),
        ("task.grader=no_such_module:grade", "no module `no_such_module`; put no_such_module.py beside the recipe"),
        ("task.answer=number", "`answer: number` has a grader of mentorkd's; set `answer: text`, or remove `grader`"),
        ("teacher.select.answer_in_rationale=true", "`task.grader` grades answers, and cannot find one"),
    ],
)
def test_faults_have_one_line_each(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        load_recipe(write_own_task(tmp_path), [override])
    assert len(error.value.faults) == 1


def test_a_gold_answer_that_is_wrong_stops_a_run_at_its_data(tmp_path: Path) -> None:
    recipe = load_recipe(write_own_task(tmp_path, GRADER.replace(">= 0.5", "> 1")))
    with pytest.raises(
        GraderError, match=r"overlap.py:grade: the gold answer 'there are \d+ in all' of question \w+ is"
    ):
        prepare_recipe(recipe)


def test_a_changed_function_redoes_what_was_graded_and_a_moved_one_nothing(tmp_path: Path) -> None:
    def marks(recipe: Path) -> dict[str, str]:
        return {stage.name: stage.fingerprint for stage in compile_stages(load_recipe(recipe))}

    path = write_own_task(tmp_path)
    before = marks(path)
    (tmp_path / "overlap.py").rename(tmp_path / "moved.py")
    path.write_text(path.read_text(encoding="utf-8").replace("overlap:grade", "moved:grade"), encoding="utf-8")
    assert marks(path) == before
    (tmp_path / "moved.py").write_text(GRADER.replace("0.5", "0.6"), encoding="utf-8")
    after = marks(path)
    assert all(after[name] != mark for name, mark in before.items())


def test_without_a_grader_fingerprints_are_those_of_earlier_versions(tmp_path: Path) -> None:
    path = write_own_task(tmp_path)
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    del raw["task"]["grader"]
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    without = [stage.fingerprint for stage in compile_stages(load_recipe(path))]
    raw["task"]["grader"] = None
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    assert [stage.fingerprint for stage in compile_stages(load_recipe(path))] == without
