"""Seeds of one recipe that ran one at a time, pooled: the results of one run with all the seeds, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from finished import copy_run
from mentorkd.cli.main import main
from mentorkd.errors import RunError
from mentorkd.pipeline.compare import compare_runs
from mentorkd.pipeline.pool import pool_seeds
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import load_recipe
from mentorkd.reporting.schema import Results
from mentorkd.reporting.write import read_results, write_report
from small_recipe import small_recipe


@pytest.fixture(scope="module")
def runs(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of one recipe: `both` (seeds 1, 2), `one` (1), `two` (2) and `third` (3), each trained by itself, except
    `third`, which continued a copy of `one`. `longer` has seed 3 and more epochs."""
    place = tmp_path_factory.mktemp("pool")
    recipe = place / "recipe.yaml"
    recipe.write_text(json.dumps(small_recipe(place)))

    def made(name: str, *overrides: str) -> None:
        Pipeline(load_recipe(recipe, overrides), place / name).run()

    copy_run(small_run / "run", place / "one")
    made("one", "seeds=[1]")
    made("two", "seeds=[2]")
    made("both", "seeds=[1,2]")
    copy_run(place / "one", place / "third")
    made("third", "seeds=[3]")
    copy_run(place / "third", place / "longer")
    made("longer", "seeds=[3]", "learners.vanilla.training={learning_rate: 0.02}")
    return place


@pytest.fixture(scope="module")
def both(runs: Path) -> Results:
    return read_results(runs / "both" / "report")


@pytest.fixture(scope="module")
def pooled(runs: Path) -> Results:
    return pool_seeds([runs / "one", runs / "two"], "mentorkd compare one two --pool-seeds")


def test_the_pool_of_two_seeds_is_the_run_with_both(pooled: Results, both: Results) -> None:
    # `run` has costs and environment. Which questions have rationales of any seed is not in results: `written` counts those of one.
    apart = {"run", "written"}
    assert {key: value for key, value in pooled.items() if key not in apart} == {
        key: value for key, value in both.items() if key not in apart
    }
    assert pooled["written"]["entries"] == both["written"]["entries"]
    assert [row["seed"] for row in pooled["learners"][0]["per_seed"]] == [1, 2]
    assert pooled["headline"]["comparison"] == 0


def test_reports_alone_give_the_same_statistics(runs: Path, both: Results, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(runs / name / "report" / "results.json", tmp_path / name)
    results = pool_seeds([tmp_path / "one" / "results.json", tmp_path / "two"], "")
    for key in ("learners", "comparisons", "headline", "decompositions", "curves", "protocol"):
        assert results[key] == both[key], key  # type: ignore[literal-required]
    unknown = "Costs and environment of one and two are not known (no run.json); no cost includes them."
    assert results["warnings"] == [unknown, *both["warnings"]]
    assert results["run"]["spent"] == results["run"]["costs"] == []


def test_seeds_keep_the_order_of_the_runs(runs: Path, both: Results) -> None:
    results = pool_seeds([runs / "two", runs / "one"], "")
    assert results["seeds"] == [2, 1]
    for learner, other in zip(results["learners"], both["learners"], strict=True):
        assert learner["per_seed"] == other["per_seed"][::-1]
        assert learner["rows"] == other["rows"][::-1]
        assert learner["accuracy"] == other["accuracy"]


def test_work_of_each_run_counts_and_reused_work_counts_once(runs: Path, pooled: Results) -> None:
    def costs(results: Results) -> dict[str, Any]:
        return {row["name"]: row for row in results["run"]["costs"]}

    single = {name: costs(read_results(runs / name / "report")) for name in ("one", "two", "third")}
    own = {f"{run}:{stage}" for run in ("one", "two") for stage in ("prepare", "annotate")}
    assert own <= costs(pooled).keys()
    assert len(costs(pooled)) == len(single["one"]) + len(single["two"])
    assert (
        costs(pooled)["learners/vanilla/seed-2/train"]["needs"]
        != single["two"]["learners/vanilla/seed-2/train"]["needs"]
    )
    spent = {row["learner"]: row for row in pooled["run"]["spent"]}
    for run, seed in (("one", "1"), ("two", "2")):
        [row] = [row for row in read_results(runs / run / "report")["run"]["spent"] if row["learner"] == "vanilla"]
        assert spent["vanilla"]["stages"][seed] == row["stages"][seed]
    reused = costs(pool_seeds([runs / "one", runs / "third"], ""))
    assert {"prepare", "annotate"} <= reused.keys()
    assert len(reused) == len(single["one"]) + len(single["third"]) - 2
    three = costs(pool_seeds([runs / "one", runs / "two", runs / "third"], ""))
    assert {name for name in three if "learners/" not in name and "budget/" not in name} == own


def test_a_pool_is_pooled_and_compared_again(runs: Path, pooled: Results, tmp_path: Path) -> None:
    write_report(pooled, tmp_path / "pool")
    again = pool_seeds([tmp_path / "pool", runs / "third"], "")
    direct = pool_seeds([runs / "one", runs / "two", runs / "third"], "")
    for key in ("seeds", "learners", "comparisons", "headline", "curves", "filters", "soft_labels"):
        assert again[key] == direct[key], key  # type: ignore[literal-required]
    compared = compare_runs([tmp_path / "pool", runs / "both"], "")
    across = {(row["a"], row["b"]): row["difference"] for row in compared["comparisons"]}
    assert across["both/student", "pool/student"] == 0
    assert {*compared["run"]["manifest"]["run pool"]} >= {"run one", "run two"}
    write_report(compared, tmp_path / "compared")
    with pytest.raises(RunError, match="compared is a comparison of several runs; expected single runs"):
        pool_seeds([tmp_path / "compared", runs / "third"], "")


def test_the_command_pools_and_refuses_in_one_line(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def called(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["mentorkd", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capsys.readouterr()

    out = tmp_path / "pool"
    code, said, _ = called(runs / "one", runs / "two" / "report" / "results.json", "--pool-seeds", "--out", out)
    assert code in (0, None)
    assert "2 seeds" in said
    assert read_results(out)["seeds"] == [1, 2]
    assert "--pool-seeds" in read_results(out)["run"]["manifest"]["command"]
    for arguments, told in (
        ((runs / "one", runs / "both"), "got seed 1 in one and in both; expected different seeds in each run"),
        (
            (runs / "one", runs / "longer"),
            "vanilla of one and of longer differ in settings.learning_rate (0.01 and 0.02)",
        ),
        ((runs / "one", runs / "one"), "expected two or more different run folders"),
        (
            (runs / "one", runs / "one" / "recipe.yaml"),
            "expected a run folder, the folder of a report, or a results.json",
        ),
    ):
        code, _, error = called(*arguments, "--pool-seeds", "--out", tmp_path / "none")
        assert code == 2, arguments
        assert told in error
        assert len(error.splitlines()) == 1
    assert not (tmp_path / "none").exists()
