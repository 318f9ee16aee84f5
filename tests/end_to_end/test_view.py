"""`mentorkd view` in a browser: every page, on finished runs and on one that runs, with planted texts, by mouse and keyboard."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from browser import open_browser, open_page, viewing
from command_line import Cli
from finished import copy_run
from mentorkd.files.seals import FileSeal, read_sealed, write_sealed
from mentorkd.pipeline.live import LIVE_NAME
from mentorkd.pipeline.run import Pipeline
from mentorkd.pipeline.run_folder import RunFolder
from mentorkd.printable import printable
from mentorkd.recipe.load import load_recipe

PLANTED = (
    '<script>window.planted=1</script><img src=x onerror="window.planted=2">{{ 7*7777 }}\x1b[31m\u202e'
    '"><svg/onload=window.planted=3>'
)
HOSTILE = ["planted <b>", "planted <i>"]
PAGES = ["/", "/run/runs/one/", "/run/runs/one/predictions", "/run/runs/one/ask", "/compare?run=runs/one&run=runs/two"]


@pytest.fixture(scope="module")
def runs(small_run: Path) -> Path:
    """Two finished runs, and two with planted texts."""
    for name in ("one", "two", *HOSTILE):
        copy_run(small_run / "run", small_run / "runs" / name)
    for name in HOSTILE:
        plant(small_run / "runs" / name)
    return small_run / "runs"


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    with viewing(runs) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as chromium:
        yield chromium


def rewrite(run: Path, stage: str, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every JSON value of a published file, as if the stage had written it so."""
    mark = RunFolder(run).mark(stage)
    record = {key: value for key, value in read_sealed(mark).items() if key != "seal"}
    file = run / record["target"] / name
    text = file.read_text()
    rows = [json.loads(each) for each in (text.splitlines() if name.endswith(".jsonl") else [text])]
    for row in rows:
        change(row)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_sealed(mark, record | {"files": record["files"] | {name: asdict(FileSeal.of(file))}})


def plant(run: Path) -> None:
    """Put texts that a hostile model or data set may have everywhere."""

    def plant_in_questions(row: dict[str, Any]) -> None:
        row |= {"text": row["text"] + PLANTED, "answer": PLANTED}

    def plant_in_answers(row: dict[str, Any]) -> None:
        row |= {"text": f"3 + 4 = 8. {PLANTED}", "predicted": PLANTED, "verdict": "wrong"}

    def plant_in_results(results: dict[str, Any]) -> None:
        results["headline"]["statement"] += PLANTED
        for learner in results["learners"]:
            learner["model"] += PLANTED

    rewrite(run, "prepare", "questions.jsonl", plant_in_questions)
    for learner in ("mentor", "vanilla", "student"):
        rewrite(run, f"learners/{learner}/seed-1/evaluate", "predictions.jsonl", plant_in_answers)
    rewrite(run, "report", "results.json", plant_in_results)
    live = {"progress": {}, "notes": [[1e9, PLANTED, PLANTED]], "stopped": PLANTED}
    (run / LIVE_NAME).write_text(json.dumps(live))


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_fit_the_window_and_have_no_error(browser: Any, address: str, width: int) -> None:
    with open_page(browser, address, viewport={"width": width, "height": 800}) as page:
        for path in PAGES:
            assert page.goto(path).ok
            page.wait_for_timeout(100)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            assert page.locator("h1").count() == 1, path


def test_planted_texts_stay_texts(browser: Any, address: str) -> None:
    run, both = "/run/runs/planted%20%3Cb%3E/", "run=runs/planted+<b>&run=runs/planted+<i>"
    with open_page(browser, address) as page:
        for path in ("/", run, f"{run}predictions", f"{run}ask", f"/compare?{both}"):
            page.goto(path)
            page.wait_for_timeout(150)
            assert page.evaluate("window.planted") is None, path
            assert page.locator("main script, main img, main i:not(.dot)").count() == 0, path
            assert "54439" not in page.inner_text("main"), path  # of {{ 7*7777 }}
        page.goto(f"{run}predictions")
        page.click("td.text a")
        assert printable(PLANTED) in page.locator(".cards article p").first.inner_text()
        assert page.locator("mark").first.inner_text() == "3 + 4 = 8."
        page.click("text=ask it again")
        assert PLANTED in page.input_value("#question")
        assert page.evaluate("window.planted") is None
        page.goto(run)
        assert "window.planted" in page.inner_text("#log")


def test_filters_keys_and_the_back_button(browser: Any, address: str) -> None:
    with open_page(browser, address) as page:
        page.goto("/")
        page.keyboard.press("/")
        page.keyboard.type("runs/one")
        page.keyboard.press("Enter")
        page.wait_for_url("**/?q=runs%2Fone*")
        assert page.locator("tbody tr").count() == 1
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_url("**/run/runs/one/")
        page.click("nav >> text=Predictions")
        page.select_option("[name=show]", "none")
        page.click("button >> text=Show")
        page.wait_for_url("**show=none*")
        page.keyboard.press("j")
        page.keyboard.press("j")
        page.keyboard.press("k")
        page.keyboard.press("j")
        second = page.evaluate("document.activeElement.querySelector('a').textContent")
        page.keyboard.press("Enter")
        page.wait_for_url("**question=*")
        assert page.inner_text(".question") == second
        page.keyboard.press("ArrowRight")
        page.wait_for_selector(".steps >> text=3 of 10")
        page.go_back()
        page.go_back()
        assert "show=none" in page.url
        assert page.input_value("[name=show]") == "none"
        page.go_back()
        page.go_back()
        page.go_back()
        assert page.input_value("[name=q]") == "runs/one"


def test_runs_are_ticked_to_compare(browser: Any, address: str) -> None:
    with open_page(browser, address, color_scheme="dark") as page:
        page.goto("/?sort=run")
        page.check("[value='runs/one']")
        page.check("[value='runs/two']")
        page.click("button >> text=Compare")
        page.wait_for_url("**/compare?run=runs%2Fone&run=runs%2Ftwo")
        assert "None: the recipes are equal." in page.inner_text("main")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"


def test_a_learner_is_asked_and_graded(browser: Any, address: str) -> None:
    with open_page(browser, address) as page:
        page.goto("/run/runs/one/ask")
        page.fill("#question", "Finn has 3 stamps and buys 4 more. How many stamps does Finn have?")
        page.fill("[name=answer]", "7")
        page.select_option("[name=model]", "vanilla@seed-1")
        page.click("button >> text=Ask")
        page.wait_for_selector(".cards .badge", timeout=60_000)
        card = page.inner_text(".cards article")
        assert "vanilla, seed 1" in card
        assert "24 tokens, cut off" in card
        assert "no answer" in card
        assert page.inner_text(".cards p").strip()
    with open_page(browser, address, java_script_enabled=False) as page:
        page.goto("/run/runs/one/ask?question=1+plus+1%3F")
        page.click("button >> text=Ask")
        assert "24 tokens, cut off" in page.inner_text(".cards article")
        assert page.input_value("#question") == "1 plus 1?"


def test_a_page_follows_a_run(browser: Any, address: str, runs: Path, small_run: Path) -> None:
    run = copy_run(runs / "one", runs / "live")
    for stage in ("learners/student/seed-1/train", "learners/student/seed-1/evaluate", "report"):
        RunFolder(run).mark(stage).unlink()
    recipe = load_recipe(run / "recipe.yaml", check_files=False)
    with open_page(browser, address) as page:
        page.goto("/run/runs/live/ask")  # of the models that are there
        assert page.locator("option").all_inner_texts() == ["mentor, seed 1", "vanilla, seed 1"]
        page.goto("/run/runs/live/predictions")
        assert "student" not in page.inner_text("main")
        page.goto("/run/runs/live/")
        assert "stopped" in page.inner_text("#facts")
        assert "10 of 13 done" in page.inner_text("#stages")
        page.evaluate("window.same = true")
        thread = threading.Thread(target=lambda: Pipeline(recipe, run).run())
        thread.start()
        page.wait_for_selector("#facts .state.running")
        page.wait_for_selector("#stages tr.running progress")
        assert "student" in page.inner_text("tr.running")
        page.wait_for_selector("#curves .end")  # the curve of a training that goes on
        page.wait_for_selector("#facts .state.finished", timeout=60_000)
        thread.join()
        assert "13 of 13 done" in page.inner_text("#stages")
        assert page.evaluate("window.same")  # the page was never loaded again
        page.click("#facts >> text=report")
        assert page.locator("h1").inner_text() == "small"


def test_bad_input_gives_one_line(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = cli("view", tmp_path / "none", "--no-browser")
    assert (missing.code, missing.out) == (2, "")
    assert re.fullmatch("mentorkd: got .*none, which is no folder; expected a run folder, or .*\n", missing.err)
    empty = cli("view", tmp_path, "--no-browser")
    assert (empty.code, empty.out) == (2, "")
    assert empty.err == f"mentorkd: got {tmp_path}, with no run in it; `mentorkd run RECIPE` makes one\n"
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = cli("view", tmp_path, "--no-browser", "--port", port)
    assert refused.code == 2
    assert refused.err == (
        f"mentorkd: got the address 127.0.0.1:{port}, which is in use; give another --port, or none for any free one\n"
    )
    unknown = cli("view", tmp_path, "--no-browser", "--host", "no.such.host.invalid")
    assert unknown.code == 2
    assert unknown.err.count("\n") == 1
    for package in ("duckdb", "pyarrow"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            lacking = cli("view", tmp_path, "--no-browser")
        assert lacking.code == 2
        assert re.fullmatch(
            r"mentorkd: `mentorkd view` needs an optional package; install it with: pip .*\[view\].*\n", lacking.err
        )


def test_an_address_that_others_reach_has_a_token(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mentorkd.web.server.run_server", lambda app, sock: sock.close())
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    outcome = cli("view", tmp_path, "--no-browser", "--host", "0.0.0.0")
    own, shared = outcome.out.splitlines()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{32}  \(Ctrl-C ends\)", own)
    assert re.fullmatch(r"http://[\w.-]+:\d+/\?token=[\w-]{32}  \(for other machines\)", shared)
    assert "token" not in cli("view", tmp_path, "--no-browser").out
    for host in ("::1", "[::1]"):
        assert re.fullmatch(
            r"http://\[::1\]:\d+/  \(Ctrl-C ends\)\n", cli("view", tmp_path, "--no-browser", "--host", host).out
        )
