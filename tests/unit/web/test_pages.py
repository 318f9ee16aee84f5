from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from finished import copy_run
from mentorkd.pipeline.run_folder import RunFolder
from mentorkd.reporting.schema import SCHEMA
from mentorkd.web.runs import Runs
from web_client import cross_site, web_client

PAGES = ["/", "/run/runs/one/", "/run/runs/one/predictions", "/run/runs/one/ask", "/compare?run=runs/one&run=runs/two"]


@pytest.fixture(scope="module")
def runs(small_run: Path) -> Path:
    """A folder with two equal finished runs and one that has only begun."""
    for name in ("one", "two"):
        copy_run(small_run / "run", small_run / "runs" / name)
    (small_run / "runs" / "new").mkdir()
    (small_run / "runs" / "new" / "recipe.yaml").write_bytes((small_run / "run" / "recipe.yaml").read_bytes())
    return small_run / "runs"


@pytest.fixture(scope="module")
def client(runs: Path) -> TestClient:
    return web_client(runs)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_comes_as_html_json_and_csv(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200, page.text
    assert page.headers["content-type"].startswith("text/html")
    assert " style=" not in page.text  # the policy forbids it
    assert "<script>" not in page.text
    form = "&" if "?" in path else "?"
    rows = client.get(f"{path}{form}format=json").json()["rows"]
    table = list(csv.DictReader(io.StringIO(client.get(f"{path}{form}format=csv").text)))
    assert len(table) == len(rows) > 0
    assert list(table[0]) == list(rows[0])


def test_nothing_in_a_run_changes_when_it_is_looked_at(client: TestClient, runs: Path) -> None:
    def contents() -> dict[str, tuple[int, int]]:
        stats = {str(path): path.stat() for path in sorted(runs.rglob("*"))}
        return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}

    before = contents()
    for path in PAGES:
        client.get(path)
    assert contents() == before


def test_runs_are_filtered_and_sorted(client: TestClient) -> None:
    def names(query: str) -> list[str]:
        return [row["run"] for row in client.get(f"/?format=json&{query}").json()["rows"]]

    assert names("sort=run") == ["runs/new", "runs/one", "runs/two"]
    assert names("sort=-run") == ["runs/two", "runs/one", "runs/new"]
    assert names("sort=-seconds")[-1] == "runs/new"  # it has none
    assert names("state=new") == ["runs/new"]
    assert names("sort=run&q=totals+ONE") == ["runs/one"]
    assert names("q=zebra") == []


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/?sort=nothing", 400, "got sort=nothing; expected one of run, state"),
        ("/?format=xml", 400, "got format=xml; expected one of json, csv"),
        ("/run/runs/none/", 404, "got the run &#39;runs/none&#39;"),
        ("/run/runs/%2e%2e/one/", 404, "got the run"),
        ("/run/runs/one/predictions?seed=7", 400, "got seed=7; expected one of 1, or all"),
        ("/run/runs/one/predictions?show=x", 400, "got show=x; expected one of all, differ"),
        ("/run/runs/one/predictions?page=0", 400, "got page=0"),
        (f"/run/runs/one/predictions?page={'9' * 5000}", 400, "got page=99999999999999999999…"),
        ("/run/runs/one/predictions?page=999", 404, "got page 999; there is 1"),
        ("/run/runs/one/rationales?page=999", 404, "got page 999; there"),
        ("/run/runs/one/report/%00", 404, "no file of the report"),
        ("/nothing", 404, "got the address /nothing, which is none here; start at the page of all runs"),
        ("/run/runs/one/predictions?question=x", 404, "not among the test questions"),
        ("/run/runs/new/predictions", 409, "has no questions yet"),
        ("/run/runs/one/report/%2e%2e/recipe.yaml", 404, ""),
        ("/compare?run=runs/one", 400, "got 1 runs to compare"),
        ("/compare?run=runs/one&run=runs/new", 409, "is not finished"),
    ],
)
def test_a_wrong_address_gives_a_page_that_says_what_is_wrong(
    client: TestClient, path: str, status: int, words: str
) -> None:
    page = client.get(path)
    assert page.status_code == status
    assert words in page.text
    as_json = client.get(f"{path}{'&' if '?' in path else '?'}format=json")
    if words and "xml" not in path:
        assert as_json.json()["error"]


def test_a_damaged_file_gives_a_page_that_names_it(client: TestClient, runs: Path, tmp_path: Path) -> None:
    copy = copy_run(runs / "one", tmp_path / "damaged")
    (copy / "learners/student/seed-1/predictions.jsonl").write_text("{}\n")
    (copy / "report/results.json").write_text("{")
    browser = web_client(copy)
    page = browser.get("/run/damaged/predictions")
    assert page.status_code == 409
    assert "learners/student/seed-1/predictions.jsonl has 3 bytes, expected" in page.text
    assert "the report cannot be read" in browser.get("/").text
    assert browser.get("/run/damaged/").status_code == 200
    RunFolder(copy).mark("prepare").write_text("{")
    assert "prepare.json" in browser.get("/run/damaged/").text


def test_a_fault_of_a_run_s_files_does_not_take_its_page_away(runs: Path, tmp_path: Path) -> None:
    copy = copy_run(runs / "one", tmp_path / "damaged")
    lines = [{"time": 1, "stage": "prepare"}, {"time": 1e300, "event": "started", "stage": "prepare"}, [1], 10**400]
    with (copy / "log.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    notes = [[1e300, "a", "b"]]
    (copy / ".live.json").write_text(json.dumps({"progress": {}, "notes": notes, "stopped": None}))
    history = ['{"step": 1, "loss": NaN}', '{"step": Infinity, "loss": 1}', "[1]", '{"step": 2, "loss": "x"}', "7"]
    history += ['{"step": 3, "loss": 1e300}', '{"step": 4, "loss": 5e-324}', '{"step": 5, "loss": 2.0}']
    (copy / "learners/mentor/seed-1/metrics.jsonl").write_text("\n".join(history))
    browser = web_client(copy)
    page = browser.get("/run/damaged/")
    assert page.status_code == 200
    assert page.text.count('aria-label="Training loss') == 1
    (copy / "recipe.yaml").write_bytes(b"name: caf\xe9\n")
    assert browser.get("/run/damaged/recipe").text == "name: caf\\xe9\n"
    assert "not UTF-8" in browser.get("/run/damaged/").text


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("report/results.json", "[]", "got a list, expected an object"),
        ("report/results.json", '{"schema": "SCHEMA", "task": [], "headline": 1}', "the report cannot be read"),
        ("manifest.json", '{"stages": {}, "seconds": "x"}', ""),
        ("manifest.json", '{"stages": {}, "seconds": NaN}', ""),
    ],
)
def test_one_damaged_run_leaves_the_page_of_all_runs(
    runs: Path, tmp_path: Path, name: str, text: str, words: str
) -> None:
    copy_run(runs / "one", tmp_path / "runs" / "good")
    (copy_run(runs / "one", tmp_path / "runs" / "bad") / name).write_text(text.replace("SCHEMA", SCHEMA))
    page = web_client(tmp_path / "runs").get("/")
    assert page.status_code == 200
    assert words in page.text
    assert "runs/good" in page.text


def test_folders_that_cannot_be_shown_are_told(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_run(runs / "one", tmp_path / "runs" / "good")
    for name in (os.fsdecode(b"caf\xe9"), "two\nlines"):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "recipe.yaml").write_text("name: x\n")
    locked = tmp_path / "runs" / "locked"
    locked.mkdir()
    listed = Path.iterdir

    def refuse(folder: Path) -> Iterator[Path]:  # rights do not stop the administrator, who may run the tests
        if folder == locked:
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    browser = web_client(tmp_path / "runs")
    value = browser.get("/?format=json").json()
    assert [row["run"] for row in value["rows"]] == ["runs/good"]
    assert len(value["left_out"]) == 3
    page = browser.get("/").text
    assert "caf\\udce9" in page
    assert "locked&#39;, which cannot be read: Permission denied" in page
    monkeypatch.undo()
    monkeypatch.setattr(Runs, "find", lambda self, left_out: iter([("runs/gone", tmp_path / "gone")]))
    assert "gone&#39;, which cannot be read: No such file" in browser.get("/").text


def test_a_fault_of_the_program_gives_a_page_and_is_logged(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Runs, "find", lambda self, left_out: 1 / 0)
    page = client.get("/")
    assert page.status_code == 500
    assert "a fault of mentorkd (ZeroDivisionError: division by zero)" in page.text
    assert "content-security-policy" in page.headers
    assert "a fault of mentorkd, at /" in caplog.text
    assert "Traceback" in caplog.text


def test_the_report_is_shown_with_its_own_style_and_without_scripts(client: TestClient) -> None:
    page = client.get("/run/runs/one/report/index.html")
    assert "<style>" in page.text
    assert "sandbox" in page.headers["content-security-policy"]
    assert "script" not in page.headers["content-security-policy"]
    assert client.get("/run/runs/one/report/").headers["location"] == "/run/runs/one/report/index.html"
    assert client.get("/run/runs/one/report/results.json").json()["name"] == "small"
    assert client.get("/run/runs/one/recipe").text.startswith("name: small")


def test_a_question_stands_between_its_neighbours(client: TestClient) -> None:
    rows = client.get("/run/runs/one/predictions?format=json").json()["rows"]
    ids = [row["question_id"] for row in rows]
    page = client.get(f"/run/runs/one/predictions?question={ids[1]}").text
    assert f'rel="prev" href="?question={ids[0]}"' in page
    assert f'rel="next" href="?question={ids[2]}"' in page
    found = client.get(f"/run/runs/one/predictions?question={ids[1]}&learner=student&format=json").json()
    assert [row["learner"] for row in found["rows"]] == ["student"]
    assert found["answer"] == rows[1]["answer"]


def listen(client: TestClient, path: str, seen: Callable[[str], bool]) -> list[str]:
    """The pieces of a stream, until `seen` says that the browser leaves, or to its end."""
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "raw_path": path.encode()}
    scope |= {"headers": [(b"host", b"127.0.0.1:8000")], "http_version": "1.1"}
    pieces: list[str] = []

    async def stream() -> None:
        left = asyncio.Event()

        async def receive() -> dict[str, str]:
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, bytes]) -> None:
            if body := message.get("body"):
                pieces.append(body.decode())
                if seen(pieces[-1]):
                    left.set()

        await asyncio.wait_for(client.app(scope, receive, send), 10)  # type: ignore[arg-type]

    asyncio.run(stream())
    return pieces


def test_events_have_the_parts_of_the_page_and_end_when_the_browser_leaves(client: TestClient) -> None:
    first, *_ = listen(client, "/run/runs/one/events", lambda piece: True)
    parts = json.loads(first.removeprefix("data: "))
    assert list(parts) == ["facts", "graph", "stages", "curves", "log"]
    page = client.get("/run/runs/one/").text
    assert all(part in page for part in parts.values())


def test_the_last_event_of_a_run_that_is_removed_says_so(runs: Path, tmp_path: Path) -> None:
    copy = copy_run(runs / "one", tmp_path / "removed")

    def remove(piece: str) -> bool:
        shutil.rmtree(copy, ignore_errors=True)
        return False

    *_, last = listen(web_client(copy), "/run/removed/events", remove)
    assert last.startswith('event: gone\ndata: "The run cannot be read any more')
    assert last.endswith("\n\n")


def test_runs_may_lie_below_a_folder_report(runs: Path, tmp_path: Path) -> None:
    for name in ("report/a", "b/report"):
        copy_run(runs / "one", tmp_path / "all" / name)
    browser = web_client(tmp_path / "all")
    found = [row["run"] for row in browser.get("/?sort=run&format=json").json()["rows"]]
    assert found == ["all/b/report", "all/report/a"]
    for run in found:
        assert browser.get(f"/run/{run}/").status_code == 200
        assert browser.get(f"/run/{run}/report/").headers["location"] == f"/run/{run}/report/index.html"
        assert browser.get(f"/run/{run}/report/index.html").status_code == 200


def test_the_address_of_a_form_leads_to_its_page(client: TestClient) -> None:
    for form in ("overlay", "divergences"):
        assert client.get(f"/run/runs/one/{form}?q=a").headers["location"] == "rationales?q=a"
    refused = client.delete("/run/runs/one/ask")
    assert refused.status_code == 405
    assert "got DELETE /run/runs/one/ask; expected GET" in refused.text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"model": "nobody@seed-1"},
            "got the model 'nobody@seed-1'; expected one of mentor@seed-1, vanilla@seed-1, student@seed-1",
        ),
        ({"question": " "}, "got no question"),
        ({"temperature": "hot"}, "got the temperature 'hot'"),
        ({"temperature": "nan"}, "got the temperature 'nan'"),
        ({"temperature": "3"}, "from 0 (greedy) to 2"),
    ],
)
def test_a_wrong_form_is_refused(client: TestClient, fields: dict[str, str], words: str) -> None:
    form = {"model": "student@seed-1", "question": "1 + 1?", "cross_site": cross_site(client)} | fields
    reply = client.post("/run/runs/one/ask?format=json", data=form)
    assert reply.status_code == 400
    assert words in reply.json()["error"]
