"""The commands as a user runs them: outputs, exit codes, one clear line for every mistake."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import mentorkd
from command_line import Cli, processor_seconds
from finished import copy_run
from places import ROOT
from small_recipe import small_recipe, write_small_recipe


@pytest.fixture(scope="module")
def folder(small_run: Path) -> Path:
    """A folder with the small recipe, finished in `run`."""
    return small_run


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["schema"]])
def test_light_commands_answer_fast_and_import_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom mentorkd.cli.main import main\nsys.argv = ['mentorkd', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as stop: assert not stop.code, stop.code\n"
        "print('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    seconds, printed = processor_seconds(code, *arguments)
    assert printed.splitlines()[-1] == "False"
    assert seconds < 1.5


def test_plan_answers_fast_without_torch_and_changes_nothing(folder: Path) -> None:
    code = (
        "import sys\nfrom mentorkd.cli.main import main\nsys.argv = ['mentorkd', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    arguments = ["plan", str(folder / "recipe.yaml"), "--run", str(folder / "other"), "--json"]
    seconds, printed = processor_seconds(code, *arguments)
    assert seconds < 1.8  # a quarter of a second is scipy, for the minimum detectable effect
    assert not (folder / "other").exists()
    stages = json.loads(printed)["stages"]
    assert {stage["state"] for stage in stages} == {"runs"}
    rows = {stage["stage"]: stage.get("rows") for stage in stages}
    assert rows["learners/mentor/seed-1/augment"] == 80
    assert rows["learners/mentor/seed-1/evaluate"] == 10


def test_plan_shows_what_is_done(cli: Cli, folder: Path) -> None:
    told = cli("plan", folder / "recipe.yaml", "--run", folder / "run")
    assert told.code == 0
    assert "done" in told.out
    assert "runs" not in told.out.replace("runs/", "")
    changed = cli("plan", folder / "recipe.yaml", "learners.student.kd_weight=0.5", "--run", folder / "run", "--json")
    states = {stage["stage"]: stage["state"] for stage in json.loads(changed.out)["stages"]}
    assert states["learners/student/seed-1/train"] == "runs"
    assert states["learners/mentor/seed-1/train"] == "done"


def test_run_on_a_finished_recipe_prints_the_table_and_the_verdict(cli: Cli, folder: Path) -> None:
    told = cli("run", folder / "recipe.yaml", "--run", folder / "run")
    assert told.code == 0
    assert "student" in told.out
    assert "index.html" in told.out
    assert "finished stages kept" in told.err


@pytest.mark.parametrize("jobs", ["0", "65", "many"])
def test_jobs_that_make_no_sense_are_refused(cli: Cli, folder: Path, jobs: str) -> None:
    told = cli("run", folder / "recipe.yaml", "--run", folder / "other", "--jobs", jobs)
    assert told.code == 2
    assert told.err == f"mentorkd: got --jobs {jobs}; expected `auto`, or a number from 1 to 64\n"
    assert not (folder / "other").exists()


def test_quiet_prints_results_alone(cli: Cli, folder: Path) -> None:
    assert cli("run", folder / "recipe.yaml", "--run", folder / "run", "--quiet").err == ""


def test_json_is_one_object_on_stdout(cli: Cli, folder: Path) -> None:
    told = cli("run", folder / "recipe.yaml", "--run", folder / "run", "--json")
    assert json.loads(told.out)["name"] == "small"
    assert all(json.loads(line) for line in told.err.splitlines())


def test_evaluate_audits_the_questions_as_a_run_does_and_asks_all_learners(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    questions, trained = tmp_path / "questions.jsonl", (folder / "data" / "train.jsonl").read_text().splitlines()
    held_out = (folder / "data" / "validation.jsonl").read_text().splitlines()[0]
    rows = [
        '{"question": "Tom has 3 apples. How many?", "answer": "3"}',
        '{"question": "2 + 2?", "answer": "4"}',
        '{"question": "2 + 2?", "answer": "4"}',
        '{"question": "How many?", "answer": "many"}',
        trained[0],
        held_out,
    ]
    questions.write_text("\n".join(rows))
    arguments = ["evaluate", folder / "run", "--questions", questions]
    told = cli(*arguments, "--output", tmp_path / "p.jsonl", "--quiet")
    assert told.code == 0, told.err
    for place in ("(row 3)", "(row 4) has `many`", "(row 5) is in train", "(row 6) is in validation"):
        assert place in told.err
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 3 * 2
    result = json.loads(cli(*arguments, "--learner", "student", "--json").out)
    assert result["questions"] == 2
    assert result["faults"] == {"duplicate_question": 1, "impossible_answer": 1, "seen_question": 2}
    [row] = result["learners"]
    assert 0 <= row["interval"][0] <= row["accuracy"] <= row["interval"][1] <= 1
    assert [seed["seed"] for seed in row["seeds"]] == [1]
    questions.write_text(trained[0])
    refused = cli(*arguments)
    assert refused.code == 2
    assert "no question remains to ask" in refused.err
    assert "(row 1) is in train" in refused.err


def test_evaluate_writes_over_no_file(cli: Cli, folder: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    shutil.copy(folder / "data" / "test.jsonl", questions)
    before = questions.read_bytes()
    arguments = ["evaluate", folder / "run", "--learner=student", f"--questions={questions}", f"--output={questions}"]
    outcome = cli(*arguments)
    expected = (
        f"mentorkd: got the output {questions}, which exists already; expected a new file in a folder that exists\n"
    )
    assert (outcome.code, outcome.err) == (2, expected)
    assert questions.read_bytes() == before


def test_evaluate_gives_the_reports_mean_and_interval(cli: Cli, folder: Path) -> None:
    recipe = folder / "run" / "recipe.yaml"
    raw = yaml.safe_load(recipe.read_text())
    test = Path(raw["data"]["root"]) / "test.jsonl"
    told = json.loads(cli("evaluate", folder / "run", "--questions", test, "--json").out)
    report = json.loads((folder / "run" / "report" / "results.json").read_text())
    reported = {learner["name"]: (learner["accuracy"], learner["interval"]) for learner in report["learners"]}
    assert {row["learner"]: (row["accuracy"], [round(e, 6) for e in row["interval"]]) for row in told["learners"]} == (
        reported
    )


def test_ask_takes_the_headlines_student_and_says_who_answers(cli: Cli, folder: Path, tmp_path: Path) -> None:
    run = copy_run(folder / "run", tmp_path / "run")
    raw = yaml.safe_load((run / "recipe.yaml").read_text())
    raw["learners"] = {name: raw["learners"][name] for name in ("vanilla", "student", "mentor")}
    (run / "recipe.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    arguments = ["ask", run, "Tom has 3 apples and buys 4 more. How many?"]
    reply = json.loads(cli(*arguments, "--json").out)
    assert (reply["learner"], reply["seed"]) == ("student", 1)
    shown = cli(*arguments, "--learner", "mentor", "--seed", 1).out
    assert shown.startswith("mentor, seed 1:\n")
    assert "answer:" in shown
    shutil.rmtree(run / "report")
    assert json.loads(cli(*arguments, "--json").out)["learner"] == "student"
    refused = cli(*arguments, "--seed", 2)
    assert (refused.code, refused.err) == (2, "mentorkd: got --seed 2; expected one of 1, the recipe's seeds\n")


def test_plan_shows_what_is_dropped_and_why(cli: Cli, tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path)
    train = tmp_path / "data" / "train.jsonl"
    train.write_text(train.read_text() + train.read_text().splitlines()[0] + "\n")
    teacher = tmp_path / "data" / "teacher.jsonl"
    teacher.write_text(
        teacher.read_text() + '{"question": "unknown?", "answer": "1", "rationale": "It is 1.", "completion": "1"}\n'
    )
    dropped = json.loads(cli("plan", recipe, "--json").out)["dropped"]
    assert "1 repeated question(s) within a split" in dropped[0]
    assert "(row 41)" in dropped[0]
    assert "1 rationale(s) of a question that is missing" in dropped[1]
    assert "mentor, vanilla, student: " in dropped[2]
    assert "`correct`" in dropped[2]
    shown = cli("plan", recipe).out
    assert all(f"! {line}" in shown for line in dropped)


def test_quiet_hides_no_warning(cli: Cli, tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path)
    test = tmp_path / "data" / "test.jsonl"
    test.write_text(test.read_text() + '{"question": "How many\u202e?", "answer": "a few"}\n')
    told = cli("annotate", recipe, "--run", tmp_path / "run", "--quiet")
    assert told.code == 0
    [line] = told.err.splitlines()
    assert line.startswith("! 1 question(s) with a gold answer that is not of the task's kind")
    assert r"How many\u202e?" in line


def test_a_figure_whose_questions_reproduce_writes_names_that_command(
    cli: Cli, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").symlink_to(shared_data / "mentor-kd")
    monkeypatch.chdir(tmp_path)
    for command in ("plan", "run"):
        told = cli(command, "paper/figure4")
        assert told.code == 2
        assert "`mentorkd reproduce figure4` writes" in told.err
        assert "mentorkd data paper" not in told.err
    assert "no file at" in cli("plan", "paper/figure4", "task.train=mine.jsonl").err


def test_the_import_of_the_documents_works(cli: Cli, folder: Path, tmp_path: Path) -> None:
    document = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
    [command] = re.findall(r"`mentorkd (import FILE [^`]*)`", document)
    words = command.replace("FILE", str(folder / "data" / "teacher.jsonl")).split()
    assert cli(*words, "--output", tmp_path).code == 0
    refused = cli("import", folder / "data" / "teacher.jsonl", "--task", "mine", "--output", tmp_path)
    assert "`mine` is not a task of the paper" in refused.err
    assert "for a task of your own give --answer" in refused.err


def test_escapes_in_an_error_are_shown(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = cli("plan", tmp_path / "no\x1b[31m\u202e.yaml")
    assert told.code == 2
    assert r"no\u001b[31m\u202e.yaml" in told.err

    def fail() -> dict[str, str]:
        raise ValueError("got \x1b[31m")

    monkeypatch.setattr("mentorkd.cli.run.shipped_titles", fail)
    unexpected = cli("recipes")
    assert unexpected.code == 1
    assert unexpected.err.startswith("Traceback")
    assert unexpected.err.endswith("ValueError: got \\u001b[31m\n")


def test_report_is_made_anew(cli: Cli, folder: Path) -> None:
    page = folder / "run" / "report" / "index.html"
    page.write_text("")
    assert cli("report", folder / "run", "--quiet").code == 0
    assert "</html>" in page.read_text()


def test_inspect_shows_a_store(cli: Cli, folder: Path) -> None:
    store = next((folder / "run/learners/mentor/seed-1/soft_labels").iterdir())
    told = json.loads(cli("inspect", store, "--json").out)
    assert told["form"] == "hidden"
    assert told["nll"] > 0
    assert told["tokens"] > 0


def test_import_normalises_and_counts(cli: Cli, shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "mentor-kd/aug/flan-t5_large/svamp_rand3_aug3.json"
    told = cli("import", file, "--task", "svamp", "--output", tmp_path, "--json")
    counts = json.loads(told.out)
    assert counts["questions"] == 700
    assert counts["rationales"] == 2100
    assert counts["verdicts"]["correct"] == 1558
    refused = cli("import", file, "--task", "svamp", "--output", tmp_path)
    assert refused.code == 2
    assert "--force" in refused.err
    again = cli("import", tmp_path / "questions.jsonl", "--task", "svamp", "--output", tmp_path / "again", "--json")
    assert json.loads(again.out)["questions"] == 700


def test_import_by_force_leaves_no_rationales_of_another_import(cli: Cli, tmp_path: Path) -> None:
    file, output = tmp_path / "mine.jsonl", tmp_path / "out"
    file.write_text('{"question": "2 + 2?", "answer": "4", "rationale": "It is 4."}\n')
    assert cli("import", file, "--answer", "number", "--output", output).code == 0
    file.write_text('{"question": "3 + 2?", "answer": "5"}\n')
    assert cli("import", file, "--answer", "number", "--output", output, "--force").code == 0
    assert [path.name for path in output.iterdir()] == ["questions.jsonl"]


def test_plan_tells_needs_and_epochs_and_never_cuts_a_name(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    told = cli("plan", folder / "recipe.yaml", "--run", folder / "run")
    for row in json.loads(cli("plan", folder / "recipe.yaml", "--run", folder / "run", "--json").out)["stages"]:
        assert f" {row['stage']} " in told.out
    monkeypatch.setenv("COLUMNS", "120")
    lines = cli("plan", folder / "recipe.yaml", "--run", folder / "run").out.splitlines()
    [training] = [line for line in lines if "learners/mentor/seed-1/train" in line]
    assert " 1-2 " in training
    assert " x 3 " in training


def test_shipped_recipes_run_by_name_on_data_in_the_working_folder(
    cli: Cli, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").symlink_to(shared_data / "mentor-kd")
    monkeypatch.chdir(tmp_path)
    told = cli("recipes")
    names = [line.split()[0] for line in told.out.splitlines()]
    assert {"date", "last_letter", "shuffled", "shuffled-from-scratch", "svamp"} <= set(names)
    assert json.loads(cli("plan", "svamp", "--json").out)["recipe"] == "svamp"
    assert cli("plan", "svamp", "data.root=elsewhere").code == 2
    assert "did you mean `svamp`" in cli("run", "svmap").err
    assert cli("annotate", "svamp", "--run", tmp_path / "run").code == 0


def test_quickstart_leaves_a_recipe_to_edit_beside_its_data(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "a run"
    assert cli("quickstart", "--run", run, "task.test=nowhere.jsonl").code == 2  # after writing, before running
    copy = run / "task" / "recipe.yaml"
    assert json.loads(cli("plan", copy, "--json").out)["recipe"] == "quickstart"
    copy.write_text(copy.read_text().replace("name: quickstart", "name: mine"))
    cli("quickstart", "--run", run, "task.test=nowhere.jsonl")
    assert "name: mine" in copy.read_text()


def test_schema_describes_every_setting(cli: Cli) -> None:
    schema = json.loads(cli("schema").out)
    assert "learners" in schema["properties"]
    assert all(
        "description" in field for field in schema["$defs"]["Learner"]["properties"].values() if "$ref" not in field
    )


# --- mistakes -------------------------------------------------------------------------------------------------------


def without(*path: str) -> Callable[[dict[str, Any]], Any]:
    def change(recipe: dict[str, Any]) -> None:
        for key in path[:-1]:
            recipe = recipe[key]
        del recipe[path[-1]]

    return change


def with_(value: Any, *path: str) -> Callable[[dict[str, Any]], Any]:
    def change(recipe: dict[str, Any]) -> None:
        for key in path[:-1]:
            recipe = recipe[key]
        recipe[path[-1]] = value

    return change


BROKEN_RECIPES = {
    "unknown key": (with_(1, "learners", "student", "kd_wieght"), "kd_wieght"),
    "unknown source": (with_(["techer"], "learners", "student", "rationales"), "techer"),
    "unknown mentor": (with_("nobody", "learners", "student", "soft_labels"), "nobody"),
    "cycle": (with_(["student"], "learners", "mentor", "rationales"), "mentor"),
    "no teacher": (without("teacher"), "teacher"),
    "weight out of range": (with_(1.5, "learners", "student", "kd_weight"), "kd_weight"),
    "no answer kind": (without("task", "answer"), "answer"),
    "missing file": (with_("nowhere.jsonl", "task", "train"), "nowhere.jsonl"),
    "wrong type": (with_("many", "training", "epochs"), "epochs"),
    "two sources of a model": (
        with_({"name": "a", "from_config": {"model_type": "t5"}}, "learners", "vanilla", "model"),
        "exactly one",
    ),
    "no learners": (with_({}, "learners"), "learners"),
    "bad name": (with_("../escape", "name"), "name"),
}


@pytest.mark.parametrize("case", BROKEN_RECIPES)
def test_a_broken_recipe_gives_one_clear_error_and_writes_nothing(cli: Cli, tmp_path: Path, case: str) -> None:
    change, told = BROKEN_RECIPES[case]
    recipe = small_recipe(tmp_path)
    change(recipe)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    outcome = cli("run", tmp_path / "recipe.yaml", "--run", tmp_path / "run")
    assert outcome.code == 2
    assert outcome.err.startswith("mentorkd: ")
    assert told in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "run").exists()


BROKEN_DATA = {
    "train is no JSON": ("train.jsonl", '{"question": "a", "answer": "1"}\n{"question": \n', "row 2"),
    "train has no answer": ("train.jsonl", '{"question": "a"}\n', "answer"),
    "train has an empty question": ("train.jsonl", '{"question": "", "answer": "1"}\n', "row 1"),
    "train has a question that is no text": ("train.jsonl", '{"question": {"a": 1}, "answer": "1"}\n', "question"),
    "train is empty": ("train.jsonl", "", "train.jsonl"),
    "train is binary": ("train.jsonl", "\udcff\udcfe\x00", "train.jsonl"),
    "train is a list of texts": ("train.jsonl", '"a"\n"b"\n', "row 1"),
    "no answer is a number": ("train.jsonl", '{"question": "a", "answer": "none"}\n', "no training question remains"),
    "rationales have no text": ("teacher.jsonl", '{"question": "a", "answer": "1"}\n', "rationale"),
    "a rationale is a number": ("teacher.jsonl", '{"question": "a", "answer": "1", "rationale": 5}\n', "rationale"),
    "test has other columns": ("test.jsonl", '{"text": "a", "gold": "1"}\n', "question"),
}


@pytest.mark.parametrize("case", BROKEN_DATA)
def test_a_broken_data_file_gives_one_clear_error_and_no_half_output(cli: Cli, tmp_path: Path, case: str) -> None:
    name, text, told = BROKEN_DATA[case]
    recipe = write_small_recipe(tmp_path)
    (tmp_path / "data" / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    outcome = cli("run", recipe, "--run", tmp_path / "run", "--quiet")
    assert outcome.code == 2, outcome.err
    assert outcome.err.startswith("mentorkd: ")
    assert told in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "run" / "learners").exists()
    assert not (tmp_path / "run" / "report").exists()


def test_strict_data_turns_counted_faults_into_errors(cli: Cli, tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path)
    train = tmp_path / "data" / "train.jsonl"
    train.write_text(train.read_text() + train.read_text().splitlines()[0] + "\n")
    outcome = cli("run", recipe, "data.strict=true", "--run", tmp_path / "run")
    assert outcome.code == 2
    assert "repeated question" in outcome.err


def test_mistakes_about_runs(cli: Cli, folder: Path, tmp_path: Path) -> None:
    for arguments, told in (
        (["ask", tmp_path, "?"], "is not a run folder"),
        (["ask", folder / "run", "?", "--learner", "nobody"], "expected one of mentor, vanilla, student"),
        (["report", tmp_path], "is not a run folder"),
        (["run", folder / "recipe.yaml", "--run", folder / "run", "--force", "nothing"], "--force nothing"),
        (["inspect", tmp_path], "a run keeps its stores in learners/"),
        (["init", folder / "recipe.yaml"], "is a file; give a folder"),
        (["cache", "merge", tmp_path / "all.sqlite", tmp_path], "no such cache"),
        (["import", tmp_path / "x.json", "--task", "svamp"], "x.json"),
        (["import", tmp_path / "x.json"], "--answer"),
        (
            ["evaluate", folder / "run", "--learner=student", "--questions=q.jsonl", "--output=nodir/p.jsonl"],
            "a folder that exists",
        ),
        (["run", folder / "recipe.yaml", "--run", folder / "recipe.yaml"], "recipe.yaml: "),
        (["run", tmp_path / "no.yaml"], "no.yaml"),
    ):
        outcome = cli(*arguments)
        assert outcome.code == 2, arguments
        assert told in outcome.err
        assert "Traceback" not in outcome.err
    assert not (tmp_path / "all.sqlite").exists()


def test_a_run_whose_data_has_moved_is_told_how_to_say_so(cli: Cli, folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(folder / "run", tmp_path / "run")
    data = shutil.copytree(folder / "data", tmp_path / "moved")
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(folder / "data"), str(tmp_path / "gone")))
    outcome = cli("report", run)
    assert outcome.code == 2
    assert "mentorkd run RUN/recipe.yaml --run RUN data.root=DIR" in outcome.err
    assert cli("run", recipe, "--run", run, f"data.root={data}", "--quiet").code == 0
    assert cli("report", run, "--quiet").code == 0


def test_the_version_is_told(cli: Cli) -> None:
    assert cli("--version").out == f"mentorkd {mentorkd.__version__}\n"
