"""Several finished runs in one report: names, pairs, seeds, what differs between them, and what is refused."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finished import copy_run
from mentorkd.cli.main import main
from mentorkd.errors import DamagedError, MentorkdError
from mentorkd.pipeline.compare import compare_runs
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import load_recipe
from mentorkd.reporting.schema import Results
from mentorkd.reporting.write import read_results
from small_recipe import small_recipe

CLI = "import sys\nfrom mentorkd.cli.main import main\ntry: main()\nfinally: print('torch' in sys.modules, file=sys.stderr)"


@pytest.fixture(scope="module")
def runs(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `first` (seeds 1, 2), `second` (2, another kd_weight), `lone` (vanilla alone, 5), `begun`."""
    place = tmp_path_factory.mktemp("compare")
    raw = small_recipe(place)
    recipe = place / "recipe.yaml"
    recipe.write_text(json.dumps(raw))

    copy_run(small_run / "run", place / "first")

    def made(name: str, *overrides: str, until: str | None = None) -> None:
        Pipeline(load_recipe(recipe, overrides), place / name).run(until=until)

    made("first", "seeds=[1,2]")
    copy_run(place / "first", place / "second")
    made("second", "seeds=[2]", "learners.student.kd_weight=0.7")
    made("begun", until="annotate")
    raw["learners"] = {"vanilla": raw["learners"]["vanilla"]}
    recipe.write_text(json.dumps(raw))
    made("lone", "seeds=[5]")
    return place


@pytest.fixture(scope="module")
def two(runs: Path) -> Results:
    return compare_runs([runs / "first", runs / "second"], "mentorkd compare first second")


@pytest.fixture(scope="module")
def unpaired(runs: Path) -> Results:
    return compare_runs([runs / "first", runs / "lone"], "mentorkd compare first lone")


def test_learners_of_one_name_are_told_apart_by_their_runs(two: Results) -> None:
    names = [learner["name"] for learner in two["learners"]]
    assert names == [f"{run}/{name}" for run in ("first", "second") for name in ("mentor", "vanilla", "student")]
    student = two["learners"][-1]
    assert student["rationales"] == ["teacher", "second/mentor"]
    assert (student["imitates"], student["kd_weight"]) == ({"second/mentor": 1.0}, 0.7)
    assert {row["source"] for row in two["filters"]} == {"teacher", "first/mentor", "second/mentor"}
    assert {row["learner"] for row in two["soft_labels"]} == {"first/student", "second/student"}
    assert two["seeds"] == [1, 2]
    assert two["match"] is None


def test_pairs_are_those_within_and_across_runs_and_the_students_lead(two: Results) -> None:
    pairs = [(row["a"], row["b"]) for row in two["comparisons"]]
    assert len(pairs) == 15 == len({frozenset(pair) for pair in pairs})
    assert pairs[:3] == [(f"second/{name}", f"first/{name}") for name in ("student", "vanilla", "mentor")]
    assert {("first/student", "first/vanilla"), ("second/student", "second/vanilla")} <= set(pairs[3:5])
    assert two["headline"]["comparison"] == 0
    assert "this second/student and this first/student" in two["headline"]["statement"]  # one seed in common


def test_shared_seeds_are_paired_and_equal_trainings_do_not_differ(two: Results) -> None:
    across = {(row["a"], row["b"]): row for row in two["comparisons"]}
    vanilla = across["second/vanilla", "first/vanilla"]
    assert vanilla["seeds"] == vanilla["paired_with"] == [2]
    assert (vanilla["difference"], vanilla["only_a"], vanilla["only_b"]) == (0, 0, 0)
    assert across["first/student", "first/vanilla"]["seeds"] == [1, 2]
    assert any(
        "fewer seeds than the learners have: second/student and first/student" in line for line in two["warnings"]
    )


def test_runs_without_a_common_seed_are_paired_by_order_and_say_so(unpaired: Results) -> None:
    across = {(row["a"], row["b"]): row for row in unpaired["comparisons"]}
    vanilla = across["lone/vanilla", "first/vanilla"]
    assert (vanilla["seeds"], vanilla["paired_with"]) == ([5], [1])
    assert any(
        line.startswith("No seed in common: student and lone/vanilla; lone/vanilla and first/vanilla")
        for line in unpaired["warnings"]
    )
    note = unpaired["differing"]["note"]
    assert "student with seed 1" in note
    assert "lone/vanilla with seed 5" in note


def test_where_a_run_s_student_has_no_namesake_it_is_held_against_what_leads_the_other(unpaired: Results) -> None:
    assert [(row["a"], row["b"]) for row in unpaired["comparisons"] if row["headline"]] == [
        ("student", "lone/vanilla"),
        ("lone/vanilla", "first/vanilla"),
        ("student", "first/vanilla"),
    ]


def test_unequal_trainings_are_a_caveat_and_unique_names_stay(unpaired: Results, two: Results) -> None:
    names = [learner["name"] for learner in unpaired["learners"]]
    assert names == ["mentor", "first/vanilla", "student", "lone/vanilla"]
    told = [line for line in unpaired["warnings"] if "not matched" in line]
    assert len(told) == 1
    assert "lone/vanilla" in told[0]
    assert not [line for line in two["warnings"] if "not matched" in line]
    assert not [line for line in two["warnings"] if "Different rationales" in line or "different questions" in line]


def test_costs_stay_those_of_each_run(two: Results, runs: Path) -> None:
    own = {row["learner"]: row for row in read_results(runs / "second" / "report")["run"]["spent"]}
    spent = {row["learner"]: row for row in two["run"]["spent"]}
    for name in ("mentor", "vanilla", "student"):
        stages = {seed: [f"second:{stage}" for stage in names] for seed, names in own[name]["stages"].items()}
        assert spent[f"second/{name}"] == own[name] | {"learner": f"second/{name}", "stages": stages}


def test_arms_of_two_runs_make_no_decomposition(two: Results) -> None:
    assert two["decompositions"] == []  # each run lacks the arms; together they would seem to have them


def test_the_command_writes_a_report_without_torch_and_touches_no_run(runs: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for name in ("first", "second") for path in (runs / name).rglob("*")}
    arguments = ["compare", str(runs / "first"), str(runs / "second"), "--out", str(tmp_path / "out")]
    for _ in range(2):  # the second time over the first one's report
        told = subprocess.run([sys.executable, "-c", CLI, *arguments], capture_output=True, text=True, check=True)
        assert told.stderr.splitlines()[-1] == "False"
    assert "second/student" in told.stdout
    results = read_results(tmp_path / "out")
    for file in ("index.html", "report.md", "learners.csv", "learners.tex", "comparisons.csv", "comparisons.tex"):
        assert "second/student" in (tmp_path / "out" / file).read_text(encoding="utf-8"), file
    manifest = results["run"]["manifest"]
    assert manifest["run second"]["folder"] == (runs / "second").as_posix()
    assert manifest["command"].startswith("mentorkd compare")
    assert str(runs) not in (tmp_path / "out" / "results.json").read_text()
    assert before == {
        path: path.stat().st_mtime_ns for name in ("first", "second") for path in (runs / name).rglob("*")
    }


def edited(run: Path, place: Path, file: str, change: Callable[[Any], Any]) -> Path:
    """A copy of a run with one of its JSON Lines (or JSON) files changed."""
    shutil.copytree(run, place)
    lines = (place / file).read_text(encoding="utf-8").splitlines()
    rows = change([json.loads(line) for line in lines] if file.endswith(".jsonl") else [json.loads("\n".join(lines))])
    (place / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return place


def without_report(run: Path, place: Path) -> Path:
    """A copy of a run without its report: it is read from its stages."""
    shutil.copytree(run, place)
    shutil.rmtree(place / "report")
    return place


def same(results: Results) -> dict[str, Any]:
    """What a comparison computes, without its examples of training rationales, which a report limits, and without its run."""
    return {key: value for key, value in results.items() if key not in ("run", "written")}


def test_results_and_stages_give_the_same_comparison(runs: Path, tmp_path: Path, two: Results) -> None:
    bare = without_report(runs / "first", tmp_path / "first"), without_report(runs / "second", tmp_path / "second")
    from_stages = compare_runs(bare, "mentorkd compare first second")
    assert same(from_stages) == same(two)
    assert from_stages["run"]["spent"] == two["run"]["spent"]


def test_reports_alone_can_be_compared_and_so_can_runs_of_another_version(
    runs: Path, tmp_path: Path, two: Results
) -> None:
    shutil.copytree(runs / "second" / "report", tmp_path / "second")
    old = tmp_path / "first"
    shutil.copytree(runs / "first", old)
    mark = old / ".stages/learners.vanilla.seed-1.train.json"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"fingerprint": "0" * 16}))
    results = compare_runs([old, tmp_path / "second"], "")
    assert results["comparisons"] == two["comparisons"]
    assert results["headline"] == two["headline"]
    assert "The texts of second/" in results["differing"]["note"]
    assert "first" not in results["differing"]["note"].split("The texts of ")[1]


def test_results_json_alone_is_compared_and_costs_are_not_known(
    runs: Path, tmp_path: Path, two: Results, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "second").mkdir()
    shutil.copy(runs / "second" / "report" / "results.json", tmp_path / "second")
    shutil.copy(runs / "second" / "recipe.yaml", tmp_path / "second")  # beside its results: still no run folder
    unknown = "Costs and environment of second are not known (no run.json); no cost includes them."
    for path in (tmp_path / "second", tmp_path / "second" / "results.json"):
        arguments = ["mentorkd", "compare", str(runs / "first"), str(path), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit):
            main()
        assert f"! {unknown}" in capsys.readouterr().out
        results = read_results(tmp_path / "out")
        assert results["warnings"] == [unknown, *two["warnings"]]
        for key in ("learners", "comparisons", "headline", "curves"):
            assert results[key] == two[key], key  # type: ignore[literal-required]
        assert {row["learner"].partition("/")[0] for row in results["run"]["spent"]} == {"first"}
        assert results["run"]["costs"]
        for file in ("index.html", "report.md"):
            assert unknown in (tmp_path / "out" / file).read_text(encoding="utf-8")
    shutil.copy(runs / "second" / "report" / "run.json", tmp_path / "second")
    with_costs = compare_runs([runs / "first", tmp_path / "second" / "results.json"], "")
    assert with_costs["run"]["spent"] == two["run"]["spent"]
    assert with_costs["warnings"] == two["warnings"]


def test_a_finished_run_without_run_json_is_read_from_its_stages(
    runs: Path, tmp_path: Path, two: Results, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "second"
    shutil.copytree(runs / "second", place)
    (place / "report" / "run.json").unlink()
    results = compare_runs([runs / "first", place], "")
    assert same(results) == same(two)
    assert results["run"]["spent"] == two["run"]["spent"]
    with pytest.raises(MentorkdError, match=r"no run\.json"):
        read_results(place / "report")


def test_a_report_of_an_earlier_schema_is_read_from_the_stages(runs: Path, tmp_path: Path, two: Results) -> None:
    old = tmp_path / "second"
    shutil.copytree(runs / "second", old)
    file = old / "report" / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": "mentorkd.results/2"}))
    assert same(compare_runs([runs / "first", old], "")) == same(two)
    with pytest.raises(MentorkdError, match=r"got schema 'mentorkd\.results/2'"):
        compare_runs([runs / "first", old / "report"], "")


def test_a_damaged_report_is_left_for_the_stages_with_a_warning(
    runs: Path, tmp_path: Path, two: Results, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "second"
    shutil.copytree(runs / "second", place)
    with (place / "report" / "results.json").open("a") as file:
        file.write("\n")
    assert same(compare_runs([runs / "first", place], "")) == same(two)
    [message] = caplog.messages
    assert message.startswith(f"{place / 'report' / 'results.json'} has ")
    assert "the stages of the run are compared instead" in message
    (place / ".stages" / "prepare.json").unlink()
    with pytest.raises(DamagedError, match=r"results\.json has "):
        compare_runs([runs / "first", place], "")


def test_a_report_of_another_recipe_than_the_run_s_is_not_used(runs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs / "lone", other)
    recipe = other / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("- 5\n", "- 6\n").replace("[5]", "[6]"))
    assert recipe.read_text() != (runs / "lone" / "recipe.yaml").read_text()
    with pytest.raises(MentorkdError, match="is not finished"):
        compare_runs([runs / "first", other], "")


def test_other_questions_and_answers_are_refused_with_what_differs(runs: Path, tmp_path: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        test = [row for row in rows if row["split"] == "test"]
        test[0] |= {"id": "f" * 16, "text": "Another\nquestion?"}
        test[1] |= {"answer": "-1"}
        test[2] |= {"answer": "-1"}
        return rows

    other = edited(without_report(runs / "lone", tmp_path / "bare"), tmp_path / "other", "data/questions.jsonl", change)
    with pytest.raises(MentorkdError) as told:
        compare_runs([runs / "first", other], "", verify=False)
    line = str(told.value)
    assert "1 of 10 only in first" in line
    assert "1 of 10 only in other ('Another question?')" in line
    assert "2 with other gold answers" in line
    assert "\n" not in line


def test_what_was_taught_from_other_text_is_a_caveat(runs: Path, tmp_path: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [rows[0] | {"text": "Changed."}, *rows[1:]]

    other = edited(
        without_report(runs / "lone", tmp_path / "bare"), tmp_path / "other", "teacher/rationales.jsonl", change
    )
    warnings = compare_runs([runs / "first", other], "", verify=False)["warnings"]
    assert any(line.startswith("Different rationales of the teacher: first ") for line in warnings)


def test_runs_that_cannot_be_compared_give_one_line_and_an_exit_code(runs: Path, tmp_path: Path) -> None:
    def aged(rows: list[Any]) -> list[Any]:
        del rows[0]["seal"]
        return [rows[0] | {"fingerprint": "0" * 16}]

    bare = without_report(runs / "lone", tmp_path / "bare")
    old = edited(bare, tmp_path / "old", ".stages/learners.vanilla.seed-5.train.json", aged)
    odd = tmp_path / "odd"
    shutil.copytree(bare, odd)
    with (odd / "recipe.yaml").open("a") as file:
        file.write("\nfrom_the_future: 1\n")
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    first = runs / "first"
    for arguments, told in (
        ([first], "expected two or more different run folders"),
        ([first, first / "."], "expected two or more different run folders"),
        ([first, tmp_path / "absent"], "absent is not a run folder"),
        ([first, runs / "begun"], "begun is not finished ("),
        ([first, old], "was made by another version of mentorkd, or its recipe, data or models have changed"),
        ([first, odd], "odd: its recipe.yaml is not of this version"),
        ([first, runs / "second", "--out", first / "report"], "expected a new folder outside the runs"),
        ([first, runs / "second", "--out", other], "expected a new folder"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            patch.setattr(sys, "argv", ["mentorkd", "compare", *map(str, arguments)])
            code, said = called()
        assert code == 2, (arguments, said)
        assert told in said
        assert len(said.splitlines()) == 1
    assert [path.name for path in other.iterdir()] == ["notes.txt"]


def called() -> tuple[object, str]:
    """Exit code and stderr of the command line in this process."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as stop:
            return stop.code, said.getvalue()
    return 0, said.getvalue()
