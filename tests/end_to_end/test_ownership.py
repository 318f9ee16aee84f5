"""A run folder belongs to one recipe: its name and its questions. Settings and the places of files may change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from command_line import Cli
from mentorkd.errors import RecipeError
from mentorkd.pipeline.run import Pipeline, Reporter
from mentorkd.pipeline.run_folder import Stage
from mentorkd.quickstart.task import write_task
from mentorkd.recipe.load import load_recipe


@pytest.fixture(scope="module")
def folder(small_run: Path) -> Path:
    """A folder with the small recipe, finished in `run`."""
    return small_run


def changed(folder: Path, target: Path, **changes: object) -> Path:
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text()) | changes
    target.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return target


def contents(run: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(run)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in run.rglob("*")
        if path.is_file() and path.name != "requests.sqlite"
    }


@pytest.mark.parametrize("command", [["run"], ["annotate"]])
def test_a_folder_of_a_recipe_of_another_name_is_refused(
    cli: Cli, folder: Path, tmp_path: Path, command: list[str]
) -> None:
    before = contents(folder / "run")
    other = changed(folder, tmp_path / "other.yaml", name="other")
    outcome = cli(*command, other, "--run", folder / "run")
    assert outcome.code == 2
    assert outcome.err == (
        f"mentorkd: {folder / 'run'} belongs to the recipe `small`, and this one is `other`; "
        "give another folder with --run, or --overwrite to replace the results there\n"
    )
    assert contents(folder / "run") == before


def test_a_folder_with_other_questions_is_refused(cli: Cli, folder: Path, tmp_path: Path) -> None:
    before = contents(folder / "run")
    write_task(tmp_path / "data", seed=8, train=30, validation=6, test=10, annotated=24, samples=2)
    for change in (f"data.root={tmp_path / 'data'}", f"task.test={tmp_path / 'data' / 'test.jsonl'}"):
        outcome = cli("run", folder / "recipe.yaml", change, "--run", folder / "run")
        assert outcome.code == 2
        assert outcome.err.count("\n") == 1
        assert "belongs to a recipe `small` with other questions" in outcome.err
        assert contents(folder / "run") == before


def test_settings_and_places_are_no_other_recipe(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "data", tmp_path / "moved")
    moved = tmp_path / "moved"
    (moved / "test.jsonl").rename(moved / "renamed.jsonl")
    for overrides in (
        [],
        [f"data.root={moved}", "task.test=renamed.jsonl"],
        ["task.limit_train=10", "task.limit_test=3"],
        ["task.validation_share=0", "task.validation=null", "training.select_on=last"],
        ["task.validation=null"],
        ["task.answer=text"],
        ["task.name=other"],
        [f"data.root={moved}", "task.test=renamed.jsonl", "task.limit_train=10"],
    ):
        assert Pipeline(load_recipe(folder / "recipe.yaml", overrides), folder / "run").conflict() is None, overrides


def test_a_run_of_a_part_of_the_questions_is_continued_with_all(folder: Path, tmp_path: Path) -> None:
    part = load_recipe(folder / "recipe.yaml", ["task.limit_train=10", "task.validation=null"])
    Pipeline(part, tmp_path / "run").run(until="prepare")
    assert Pipeline(load_recipe(folder / "recipe.yaml"), tmp_path / "run").conflict() is None


def test_a_damaged_recipe_of_a_folder_is_refused_until_overwritten(cli: Cli, folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(folder / "recipe.yaml")
    Pipeline(recipe, tmp_path / "run").run(until="prepare")
    (tmp_path / "run" / "recipe.yaml").write_bytes(b"name: sm")
    outcome = cli("run", folder / "recipe.yaml", "--run", tmp_path / "run")
    assert outcome.code == 2
    assert "recipe.yaml is damaged" in outcome.err
    Pipeline(recipe, tmp_path / "run").run(until="prepare", overwrite=True)
    assert Pipeline(recipe, tmp_path / "run").conflict() is None


def test_questions_that_were_removed_are_made_again(folder: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(load_recipe(folder / "recipe.yaml"), tmp_path / "run")
    pipeline.run(until="prepare")
    questions = tmp_path / "run" / "data" / "questions.jsonl"
    before = questions.read_bytes()
    questions.unlink()
    pipeline.run(until="prepare")
    assert questions.read_bytes() == before


def test_overwriting_on_purpose_takes_the_folder_over(folder: Path, tmp_path: Path) -> None:
    Pipeline(load_recipe(folder / "recipe.yaml"), tmp_path / "run").run(until="prepare")
    other = load_recipe(changed(folder, tmp_path / "other.yaml", name="other"))
    Pipeline(other, tmp_path / "run").run(until="prepare", overwrite=True)
    assert Pipeline(other, tmp_path / "run").conflict() is None
    assert Pipeline(load_recipe(folder / "recipe.yaml"), tmp_path / "run").conflict() is not None


def test_plan_says_what_would_be_replaced(cli: Cli, folder: Path, tmp_path: Path) -> None:
    weight = "learners.student.temperature=3.0"
    outcome = cli("plan", folder / "recipe.yaml", weight, "--run", folder / "run", "--json")
    planned = json.loads(outcome.out)
    replaced = {stage["stage"] for stage in planned["stages"] if stage["replaces"]}
    assert replaced == {"learners/student/seed-1/train", "learners/student/seed-1/evaluate"}
    assert planned["notes"][0].startswith("replaces finished results of other settings: learners/student/seed-1/train")
    other = changed(folder, tmp_path / "other.yaml", name="other")
    outcome = cli("plan", other, "--run", folder / "run")
    assert outcome.code == 0
    assert "belongs to the recipe `small`, and this one is `other`; `run` refuses it without --overwrite" in outcome.out
    conflicting = json.loads(cli("plan", other, "--run", folder / "run", "--json").out)
    assert "belongs to the recipe `small`, and this one is `other`" in conflicting["conflict"]
    assert not any("belongs to" in note for note in conflicting["notes"])
    assert planned["conflict"] is None
    done = json.loads(cli("plan", folder / "recipe.yaml", "--run", folder / "run", "--json").out)
    assert not any(stage["replaces"] for stage in done["stages"])


def test_results_that_overrides_replace_are_named_before_anything_runs(folder: Path, tmp_path: Path) -> None:
    class Events(Reporter):
        def __init__(self) -> None:
            self.events: list[tuple[str, list[str]]] = []

        def replacing(self, stages: list[Stage]) -> None:  # type: ignore[override]
            self.events.append(("replacing", [stage.name for stage in stages]))

        def started(self, stage: Stage, number: int, total: int) -> None:
            self.events.append(("started", [stage.name]))

    def run(*overrides: str) -> list[tuple[str, list[str]]]:
        reporter = Events()
        Pipeline(load_recipe(folder / "recipe.yaml", overrides), tmp_path / "run", reporter).run(until="annotate")
        return reporter.events

    assert run() == [("started", ["prepare"]), ("started", ["annotate"])]
    assert run() == []
    assert run("task.limit_train=10")[0] == ("replacing", ["prepare", "annotate"])
    assert run("task.limit_train=10") == []


@pytest.mark.parametrize("name", ["Übungen für 7", "数学 の 問題", "2024", "no", "a.b-c_d", "it's", "día", "हिन्दी"])
def test_init_names_the_recipe_after_its_folder(cli: Cli, tmp_path: Path, name: str) -> None:
    outcome = cli("init", tmp_path / name)
    assert outcome.code == 0
    recipe = load_recipe(tmp_path / name / "recipe.yaml", check_files=False)
    assert recipe.name == name
    assert recipe.task.name == name


@pytest.mark.parametrize(
    ("folder_name", "name"), [(".hidden", "hidden"), ("a:b", "a-b"), ("-x ", "x"), ("...", "mine")]
)
def test_init_changes_what_no_run_folder_can_be_called(cli: Cli, tmp_path: Path, folder_name: str, name: str) -> None:
    assert cli("init", tmp_path / folder_name).code == 0
    assert load_recipe(tmp_path / folder_name / "recipe.yaml", check_files=False).name == name


@pytest.mark.parametrize("name", ["", " a", "a ", ".a", "-a", "a/b", "a\\b", "a\nb", "a:b", "a\x7f"])
def test_names_that_are_no_folder_of_every_system_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="name"):
        load_recipe(changed(folder, tmp_path / "recipe.yaml", name=name))
