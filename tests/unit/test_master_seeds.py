"""What runs under several master seeds show together, from their results alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mentorkd.errors import RunError
from mentorkd.reporting.write import read_results
from one_run import one_run
from places import ROOT


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("master_seeds", ROOT / "scripts" / "master_seeds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUNS = [one_run(0.09, "a_better"), one_run(-0.1, "b_better", turned=True), one_run(-0.01), one_run(0.06)]


def test_the_table_counts_runs(script: ModuleType) -> None:
    assert script.headline_pairs(RUNS[0]) == [("student", "vanilla")]
    row = script.table(RUNS, [("student", "vanilla")]).splitlines()[-1]
    assert row == "| `student` - `vanilla` | +6.0 [-1.9, 13.9] | -1.0 | 3 of 4 | 2 of 4 |"


@pytest.mark.parametrize(
    ("runs", "pair", "words"),
    [
        (RUNS, ("student", "mentor"), "run 1 of 4 does not compare student with mentor; name two learners of all runs"),
        (RUNS[:1], ("student", "vanilla"), "got 1 runs; expected two or more"),
    ],
)
def test_what_cannot_be_joined_is_refused(
    script: ModuleType, runs: list[dict[str, Any]], pair: tuple[str, str], words: str
) -> None:
    with pytest.raises(RunError, match=words):
        script.table(runs, [pair])


def test_without_a_headline_pairs_have_to_be_named(script: ModuleType) -> None:
    with pytest.raises(RunError, match="no headline; name pairs of learners with --pairs"):
        script.headline_pairs(RUNS[1])


def test_committed_results_are_joined_without_the_rest_of_their_reports(script: ModuleType, tmp_path: Path) -> None:
    folders = sorted((ROOT / "docs" / "results" / "quickstart").glob("[0-9]"))
    assert len(folders) >= 2
    joined = script.table([read_results(folder, run_optional=True) for folder in folders], [("student", "self-taught")])
    page = (ROOT / "docs" / "results" / "quickstart.md").read_text(encoding="utf-8")
    assert joined.splitlines()[-1] in page

    (tmp_path / "results.json").write_text('{"schema": "other/1"}')
    for folder, words in ((tmp_path / "none", "no results.json"), (tmp_path, "got schema 'other/1', expected")):
        with pytest.raises(RunError, match=words):
            read_results(folder, run_optional=True)
