"""The paper's recipes: every one loads, plans and runs to its end; the command sets the paper's numbers beside ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mentorkd.cli.main import main
from mentorkd.cli.paper_tables import arms_of_student, fill_in, paper_row, table_rows, without
from mentorkd.errors import RecipeError, RunError
from mentorkd.paper.results import paper_results
from mentorkd.paper.tasks import PAPER_TASKS
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import load_recipe
from mentorkd.recipe.schema import Recipe
from mentorkd.records import TEACHER
from mentorkd.reporting.statistics import wilson_interval
from places import RECIPES

FOLDER = RECIPES / "paper"
RECIPES = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
TABLES = {"table1", "table2", "table3", "table4", "table5", "figure3", "figure4", "figure6", "figure7"}
AT_HAND = ["svamp", "tracking_shuffled_objects", "date_understanding", "last_letter_concatenation"]
QUICK = {"table1": "svamp", "table5": "last_letter", "figure4": "svamp", "figure7": "date"}
"""LoRA and MCC-KD, a sweep of the teacher, questions that are written first, a sweep of one arm; each on another task."""
SLOW = [(table, task) for table in RECIPES for task in ("shuffled", "svamp") if QUICK.get(table) != task]


@pytest.fixture
def paper_data(shared_data: Path) -> Path:
    return shared_data / "mentor-kd"


@pytest.fixture
def reproduce(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs the command in this process; gives its exit code, its output and its events."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mentorkd", "reproduce", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code: Any = 0
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return call


def filled(table: str, task: str, data: Path, root: Path, **options: Any) -> Recipe:
    return fill_in(RECIPES[table], PAPER_TASKS[task], data=data, root=root, **options)


def test_every_table_and_figure_has_a_recipe_with_the_papers_protocol() -> None:
    assert set(RECIPES) == TABLES
    for table, path in RECIPES.items():
        recipe = load_recipe(path, check_files=False)
        assert (recipe.name, recipe.protocol, recipe.seeds) == (table, "paper", [42, 43, 44])
        for name, learner in recipe.learners.items():
            if learner.rationales:
                assert (learner.training.select_on, learner.training.max_grad_norm) == ("test", 0)
                assert learner.training.learning_rate == 2e-4
            if learner.mentor_weights:
                swept = recipe.variants[name].values.get("mentor-kd.kd_weight") if name in recipe.variants else None
                assert learner.kd_weight == (0.3 if swept is None else swept)
                assert (learner.temperature, learner.tau_squared) == (2.0, False)


@pytest.mark.parametrize("table", sorted(TABLES))
def test_every_row_of_the_paper_is_a_learner_of_its_recipe(table: str) -> None:
    rows = {(p.row, p.at) for p in paper_results() if p.table == table and p.row != TEACHER}
    recipe = load_recipe(RECIPES[table], check_files=False)
    assert rows <= {paper_row(recipe, name, table) for name in recipe.learners}
    assert rows or table == "figure4"


@pytest.mark.parametrize("sweep", ["{mentor-kd.kd_weight: [1, 0.3]}", "{mentor-kd.divergence: [forward_kl, mse]}"])
def test_another_sweep_than_the_papers_has_none_of_its_rows(sweep: str) -> None:
    recipe = load_recipe(RECIPES["figure3"], [f"sweep={sweep}"], check_files=False)
    variants = [name for name in recipe.learners if name in recipe.variants]
    assert len(variants) == 2
    assert [paper_row(recipe, name, "figure3") for name in variants] == [None, None]


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_every_recipe_can_be_filled_in_for_every_task_of_the_paper(task: str, tmp_path: Path) -> None:
    for table in TABLES:
        recipe = filled(table, task, tmp_path / "none", tmp_path)
        assert (recipe.task.name, recipe.task.answer) == (task, PAPER_TASKS[task].answer)
        assert recipe.teacher.rationales == PAPER_TASKS[task].teacher  # type: ignore[union-attr]


@pytest.mark.parametrize("task", AT_HAND)
def test_every_recipe_plans_where_its_data_is(task: str, paper_data: Path, tmp_path: Path) -> None:
    for table in TABLES - {"figure4"}:
        recipe = filled(table, task, paper_data, tmp_path)
        stages = [planned.stage for planned in Pipeline(recipe, tmp_path / table).plan()]
        assert {stage.learner for stage in stages if stage.kind == "evaluate"} <= recipe.learners.keys()
        trained = sum(stage.kind == "train" for stage in stages)
        a_seed = {"table5": 18, "figure3": 10, "figure7": 9}.get(table, len(recipe.learners))
        assert trained == len(recipe.seeds) * a_seed
        if table == "figure7":
            assert sum(stage.kind in ("augment", "score") for stage in stages) == len(recipe.seeds) * 3


def test_figure_4_asks_what_the_teacher_got_wrong(paper_data: Path, tmp_path: Path) -> None:
    recipe = filled("figure4", "svamp", paper_data, tmp_path)
    counts = [len(Path(file).read_text().splitlines()) for file in (recipe.task.train, recipe.task.test)]
    assert sum(counts) == 700
    assert 0 < counts[1] < 70
    Pipeline(recipe, tmp_path).plan()
    with pytest.raises(RunError, match="solved all 350 training questions"):
        filled("figure4", "last_letter_concatenation", paper_data, tmp_path)


def test_a_student_is_cut_out_with_all_that_it_learns_from() -> None:
    recipe = load_recipe(RECIPES["table2"], check_files=False)
    kept = arms_of_student(recipe, "flan-t5-small")
    assert kept == ["mentor", "small-vanilla-kd", "small-mcc-kd", "small-mentor-kd"]
    assert list(without(recipe, recipe.learners.keys() - set(kept)).learners) == kept
    with pytest.raises(RunError, match="expected one of flan-t5-base, flan-t5-small"):
        arms_of_student(recipe, "t5-small")


def test_the_papers_numbers_stand_with_the_interval_of_their_test_questions() -> None:
    recipe = load_recipe(RECIPES["table4"], check_files=False)
    rows = table_rows(recipe, "table4", PAPER_TASKS["tracking_shuffled_objects"], [], {})
    told = {row.learner: row.paper for row in rows}
    assert told["mentor"] is None
    assert told["mentor-kd"] is not None
    assert (told["mentor-kd"].accuracy, told["mentor-kd"].selected_on_test) == (0.8267, True)
    assert told["mentor-kd"].interval.low == pytest.approx(wilson_interval(186, 225).low, abs=1e-4)


def check_smoke(told: tuple[int, str, str], run: Path) -> dict[str, Any]:
    code, out, _ = told
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    ours = {row["learner"]: row["ours"] for row in found["rows"] if row["learner"] != TEACHER}
    assert all(number["seeds"] == 1 and 0 <= number["accuracy"] <= 1 for number in ours.values())
    assert (run / "report" / "index.html").is_file()
    assert any(note.startswith("a smoke test") for note in found["notes"])
    # Of ours, variants of a sweep alone are: one epoch is none to choose from. Not every task is in every table of the paper.
    on_test = any(row["paper"] for row in found["rows"]) or "@" in "".join(ours)
    assert any(note.startswith("* selected on test") for note in found["notes"]) == on_test
    return found


@pytest.mark.parametrize(("table", "task"), QUICK.items())
def test_a_recipe_runs_to_its_end_as_a_smoke_test(
    reproduce: Any, table: str, task: str, paper_data: Path, tmp_path: Path
) -> None:
    arguments = [table, "--task", task, "--smoke", "--data", paper_data, "--run", tmp_path, "--json"]
    found = check_smoke(reproduce(*arguments), tmp_path)
    if table == "figure4":  # what is finished is read, and not run again
        code, out, err = reproduce(*arguments)
        assert (code, json.loads(out)) == (0, found)
        assert not [line for line in err.splitlines() if json.loads(line)["event"] == "started"]


@pytest.mark.slow
@pytest.mark.parametrize(("table", "task"), SLOW)
def test_every_recipe_runs_to_its_end_as_a_smoke_test(
    reproduce: Any, table: str, task: str, paper_data: Path, tmp_path: Path
) -> None:
    if (table, task) == ("figure4", "shuffled"):
        task = "date"
    arguments = [table, "--task", task, "--smoke", "--data", paper_data, "--run", tmp_path, "--json"]
    check_smoke(reproduce(*arguments), tmp_path)


def test_what_cannot_be_run_is_left_out_and_told(reproduce: Any, paper_data: Path, tmp_path: Path) -> None:
    lost = "learners.mentor-kd.model={name: ./lost}"
    mentor = "learners.mentor.sampling.samples=1"
    options = ["--task", "svamp", "--smoke", "--data", paper_data, "--run", tmp_path, "--json"]
    code, out, _ = reproduce("table4", lost, mentor, *options)
    found = {row["learner"]: row for row in json.loads(out)["rows"]}
    assert code == 0
    assert "lost' does not exist" in found["mentor-kd"]["why"]
    assert found["mentor-kd"]["ours"] is None
    assert [name for name, row in found.items() if row["ours"]] == [
        "mentor",
        "without-mentor-rationales",
        "without-soft-labels",
    ]


def test_where_nothing_can_be_run_the_papers_numbers_are_shown_and_the_reason(reproduce: Any, tmp_path: Path) -> None:
    code, out, err = reproduce("table2", "--task", "asdiv", "--data", tmp_path)
    assert code == 2
    assert "79.6" in out
    assert "not run" in out
    for file in ("skeleton/asdiv_train.json", "skeleton/asdiv_test.json", "main/asdiv_3_train.json"):
        assert f"no file at {tmp_path}/{file}" in err
    assert f"`mentorkd data paper {tmp_path}` downloads the paper's data" in err
    assert not (tmp_path / "runs").exists()


def test_a_teacher_without_a_key_is_a_reason_too(
    reproduce: Any, paper_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    teacher = "teacher={kind: openai, model: gpt-4o-mini, api_key_env: NO_SUCH_KEY}"
    code, out, err = reproduce("table4", teacher, "--task", "svamp", "--data", paper_data, "--run", tmp_path, "--json")
    assert (code, [row["ours"] for row in json.loads(out)["rows"]]) == (2, [None] * 4)
    assert "the teacher is not available" in err
    assert "NO_SUCH_KEY" in err


def test_without_a_table_all_are_listed_and_a_wrong_one_is_refused(reproduce: Any, tmp_path: Path) -> None:
    code, out, _ = reproduce()
    assert (code, len(out.splitlines())) == (0, len(TABLES))
    assert all(line.split()[0] in TABLES and "paper's" in line for line in out.splitlines())
    code, _, err = reproduce("table9")
    assert code == 2
    assert "expected one of" in err
    assert "figure5" in err
    code, _, err = reproduce("table2", "--task", "chess", "--data", tmp_path)
    assert (code, "expected one of strategy_qa" in err) == (2, True)
    with pytest.raises(RecipeError, match=r"learners\.mentor-kd\.nonsense"):
        fill_in(
            RECIPES["table4"],
            PAPER_TASKS["svamp"],
            data=tmp_path,
            root=tmp_path,
            overrides=["learners.mentor-kd.nonsense=1"],
        )
