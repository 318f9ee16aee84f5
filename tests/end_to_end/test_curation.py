"""Rationales in a real browser: look, curate, run again; and a table of 10^5 rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

pytest.importorskip("duckdb", reason="duckdb is installed by pip install 'mentorkd[view]'")

from browser import open_browser, open_page, viewing
from finished import copy_run
from mentorkd.pipeline.records import AnnotateRecord, PrepareRecord
from mentorkd.pipeline.run import Pipeline, open_run
from mentorkd.pipeline.run_folder import RunFolder, Stage, sealed
from mentorkd.recipe.load import load_recipe
from mentorkd.records import Question, Rationale, write_jsonl

NARROW = {"width": 390, "height": 844}


@pytest.fixture
def run(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished small run, whose recipe has an overlay."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = copy_run(small_run / "run", tmp_path / "run")
    raw = yaml.safe_load((small_run / "recipe.yaml").read_text())
    raw["teacher"]["overlay"] = "curated.jsonl"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    Pipeline(load_recipe(tmp_path / "recipe.yaml"), run).run()
    return run


@pytest.mark.slow
def test_a_rationale_is_rejected_in_the_browser_and_the_run_does_without_it(run: Path) -> None:
    with open_browser() as browser, viewing(run) as address:
        with open_page(browser, address) as page:
            page.goto("/run/run/rationales?by=teacher")
            page.keyboard.press("/")
            page.keyboard.type("First there")
            page.keyboard.press("Enter")
            page.wait_for_url("**q=First+there**")
            assert page.locator("mark.found").count() > 0
            page.keyboard.press("j")
            page.keyboard.press("Enter")
            page.wait_for_url("**question=**")
            card = page.locator("article", has_text="teacher").first
            card.locator("summary").click()
            card.locator("input[name=why]").fill("<b>no</b> \u202e")
            card.get_by_role("button", name="Reject").click()
            page.wait_for_url("**#**")
            assert page.locator("article.rejected").count() == 1
            assert page.get_by_text("rejected · next run").count() == 1
            assert page.locator("article b", has_text="no").count() == 0
            page.go_back()
            page.locator("a", has_text="tokens").last.click()
            page.wait_for_selector(".token", timeout=120_000)
            page.locator(".token").first.focus()
            page.keyboard.press("ArrowRight")
            tip = page.locator(".token:focus .tip")
            assert tip.is_visible()
            assert "mentor" in tip.inner_text()
        decision = json.loads((run.parent / "curated.jsonl").read_text())
        assert (decision["action"], decision["why"]) == ("reject", "<b>no</b> \u202e")
        open_run(run).run(until="curate")
        with open_page(browser, address, viewport=NARROW) as page:
            page.goto("/run/run/rationales?curated=decided")
            assert page.locator("tbody tr").count() == 1
            assert "rejected" in page.locator("td.verdict").inner_text()
            assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]


@pytest.mark.slow
def test_a_hundred_thousand_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run, size = tmp_path / "run", 100_000
    folder, questions = RunFolder(run), [Question.create(f"How many, {n}?", str(n), "train") for n in range(size // 4)]
    run.mkdir()
    task = {"name": "made-up", "train": "absent.jsonl", "test": "absent.jsonl", "answer": "number"}
    recipe = {"name": "large", "task": task, "teacher": {"rationales": "absent.jsonl"}}
    recipe |= {"learners": {"vanilla": {"model": "nano-t5-small"}}}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with folder.lock():
        for kind, target, record in (
            ("prepare", "data", PrepareRecord(questions={"train": len(questions)}, faults=[])),  # type: ignore[typeddict-item]
            ("annotate", "teacher", AnnotateRecord(rationales={"correct": size}, faults=[])),  # type: ignore[typeddict-item]
        ):
            stage = Stage(kind, kind, target, {}, "0" * 16)
            workdir = folder.begin(stage)
            if kind == "prepare":
                write_jsonl(workdir / "out" / "questions.jsonl", questions)
            else:
                rationales = (
                    Rationale.create(question.id, f"It is {n} of {sample}.", "1", "correct", "teacher", sample)
                    for n, question in enumerate(questions)
                    for sample in range(4)
                )
                write_jsonl(workdir / "out" / "rationales.jsonl", rationales)
            folder.publish(stage, workdir, sealed(record, stage, workdir))
    with open_browser() as browser, viewing(run) as address, open_page(browser, address) as page:
        page.goto("/run/run/rationales")
        page.wait_for_selector("table.rationales", timeout=60_000)  # the page that tells of the copy loads itself again
        assert "100,000" in page.locator("main .note").first.inner_text()
        page.goto("/run/run/rationales?q=it+is+24999+of+3")
        assert page.locator("tbody tr").count() == 1
        page.goto("/run/run/rationales?page=2000")
        assert "24999" in page.locator("tbody tr").last.inner_text()
        page.locator("a[rel=prev]").click()
        page.wait_for_url("**page=1999**")
