"""What a run says of where its results come from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mentorkd.pipeline import provenance
from mentorkd.pipeline.records import StageRecord
from mentorkd.pipeline.run import Pipeline, open_run
from mentorkd.recipe.load import load_recipe
from small_recipe import small_recipe


def made(kind: str, **facts: Any) -> StageRecord:
    here = {"command": "mentorkd run a.yaml", "git": "abc", "versions": {"torch": "2"}, "host": {"cores": 2}}
    return StageRecord(kind=kind, made_by={**here, **facts})


def test_facts_are_those_of_the_stages() -> None:
    one = made("train").made_by
    assert provenance.summary([made("train"), made("evaluate"), made("report", git="new")], one) == one
    assert provenance.summary([], None) == dict.fromkeys(one)


def test_facts_that_differ_between_stages_are_all_told() -> None:
    facts = provenance.summary([made("train"), made("evaluate", git="new"), made("score", git=None)], None)
    assert facts["git"] == ["abc", "new"]
    assert facts["command"] == "mentorkd run a.yaml"


def test_records_that_do_not_say_are_not_taken_for_todays() -> None:
    assert provenance.summary([StageRecord(kind="train")], made("report").made_by) == {
        **dict.fromkeys(("command", "git", "versions", "host")),
        "report": made("report").made_by,
    }


def test_a_report_written_anew_keeps_what_the_run_was_made_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = small_recipe(tmp_path, seeds=[1])
    raw["training"] |= {"epochs": 1, "select_on": "last"}
    raw["sampling"] |= {"samples": 1, "max_new_tokens": 4}
    raw["learners"] = {"vanilla": raw["learners"]["vanilla"]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(raw))
    run, trained = tmp_path / "run", made("train").made_by
    monkeypatch.setattr(provenance, "here", lambda: trained)
    Pipeline(load_recipe(tmp_path / "recipe.yaml"), run).run()
    told = json.loads((run / "report" / "run.json").read_text())["manifest"]
    assert told == trained

    shutil.rmtree(run / "report")
    monkeypatch.setattr(provenance, "here", lambda: {**trained, "command": "mentorkd report run", "git": "later"})
    manifest = open_run(run).run(force=["report"])
    told = json.loads((run / "report" / "run.json").read_text())["manifest"]
    assert told == {**trained, "report": {"command": "mentorkd report run", "git": "later"}}
    assert (manifest["command"], manifest["git"]) == (trained["command"], trained["git"])
    page = (run / "report" / "report.md").read_text()
    assert "command: mentorkd run a.yaml" in page
    assert "report: command mentorkd report run, git later" in page
