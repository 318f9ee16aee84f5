"""The pages of rationales and tokens, on a finished run whose recipe has an overlay."""

from __future__ import annotations

import csv
import io
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

pytest.importorskip("duckdb", reason="duckdb is installed by pip install 'mentorkd[view]'")

from finished import copy_run
from mentorkd.data.overlay import read_overlay
from mentorkd.pipeline.run import Pipeline, open_run
from mentorkd.recipe.load import load_recipe
from mentorkd.web import copies
from web_client import cross_site, web_client

RUN = "/run/run"
PAGE = f"{RUN}/rationales"


@pytest.fixture
def folder(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished small run in `run`, with an overlay beside its recipe."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy_run(small_run / "run", tmp_path / "run")
    raw = yaml.safe_load((small_run / "recipe.yaml").read_text())
    raw["teacher"]["overlay"] = "curated.jsonl"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    Pipeline(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "run").run()  # nothing to do but to keep the recipe
    return tmp_path


@pytest.fixture
def client(folder: Path) -> TestClient:
    return web_client(folder / "run")


def value(client: TestClient, query: str = "", page: str = PAGE) -> dict[str, Any]:
    reply = client.get(f"{page}?format=json&{query}")
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def decide(client: TestClient, **fields: str) -> Any:
    form = {"cross_site": cross_site(client), "query": "?q=a&page=2", "why": "for a test", **fields}
    return client.post(f"{RUN}/overlay", data=form)


def test_a_page_comes_as_html_json_and_csv(client: TestClient) -> None:
    question = value(client)["rows"][0]
    for query in ("", f"question={question['question_id']}&"):
        page, rows = client.get(f"{PAGE}?{query}"), value(client, query)["rows"]
        assert page.status_code == 200
        assert " style=" not in page.text
        table = list(csv.DictReader(io.StringIO(client.get(f"{PAGE}?{query}format=csv").text)))
        assert [row["rationale_id"] for row in table] == [row["rationale_id"] for row in rows]
    assert question["outcomes"] == {f"{learner}@seed-1": "kept" for learner in ("mentor", "vanilla", "student")}


def test_an_address_chooses_rationales(client: TestClient) -> None:
    everything = value(client)
    assert everything["total"] == 128
    assert len(everything["rows"]) == 50
    assert len(value(client, "page=3")["rows"]) == 28
    assert "got page 4; there are 3" in client.get(f"{PAGE}?page=4").text
    assert value(client, "by=teacher")["total"] == 48
    assert value(client, "by=mentor@seed-1&verdict=")["total"] == 80
    assert {row["verdict"] for row in value(client, "verdict=wrong")["rows"]} == {"wrong"}
    dropped = value(client, "outcome=dropped&reader=vanilla@seed-1")
    assert (
        dropped["total"]
        == value(client, "outcome=correct&reader=vanilla@seed-1")["total"]
        + value(client, "outcome=deduplicate&reader=vanilla@seed-1")["total"]
    )
    lengths = [row["characters"] for row in value(client, "sort=-length")["rows"]]
    assert lengths == sorted(lengths, reverse=True)
    assert value(client, "curated=decided")["total"] == 0


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("verdict=x", "got verdict=x; expected one of correct, wrong, no_answer, ungraded"),
        ("sort=x", "got sort=x; expected one of question, length, nll, kl"),
        ("reader=x", "got reader=x; expected one of mentor@seed-1, vanilla@seed-1, student@seed-1"),
        ("by=x", "got by=x; expected one of teacher, mentor@seed-1"),
        ("curated=x", "got curated=x; expected one of decided, waiting"),
        ("page=0", "got page=0; expected a number from 1"),
    ],
)
def test_a_wrong_address_is_told(client: TestClient, query: str, message: str) -> None:
    reply = client.get(f"{PAGE}?{query}")
    assert reply.status_code == 400
    assert message in reply.text


def test_texts_are_shown_and_not_obeyed(client: TestClient, folder: Path) -> None:
    row = value(client, "by=teacher")["rows"][0]
    text = "<script>alert(1)</script> \x1b[31m. So 2 + 3 = 6. <img src=x>"
    assert decide(client, rationale=row["rationale_id"], action="edit", text=text).status_code == 303
    page = client.get(f"{PAGE}?question={row['question_id']}&q=<script>").text
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert '<mark class="false"' in page


def test_decisions_are_appended_and_take_effect_with_the_next_run(client: TestClient, folder: Path) -> None:
    first, second = value(client, "by=teacher")["rows"][:2]
    reply = decide(client, rationale=first["rationale_id"], action="reject")
    assert reply.headers["location"] == f"{PAGE}?q=a&page=2#{first['rationale_id']}"
    decide(client, rationale=second["rationale_id"], action="edit", text="It is 5.\r\nSo it is 5.")
    decisions = read_overlay(folder / "curated.jsonl")
    assert decisions[first["rationale_id"]].why == "for a test"
    assert decisions[second["rationale_id"]].text == "It is 5.\nSo it is 5."
    assert value(client, "curated=waiting")["total"] == 2
    page = client.get(f"{PAGE}?curated=waiting").text
    assert "2 decisions" in page
    assert len(re.findall("· next run", page)) == 2

    open_run(folder / "run").run(until="curate")
    rows = value(client, "curated=decided")["rows"]
    assert [row["overlay"] for row in rows] == ["reject", "edit"]
    assert value(client, "curated=waiting")["total"] == 0
    decide(client, rationale=first["rationale_id"], action="restore")
    assert value(client, "curated=waiting")["total"] == 1
    assert "restored · next run" in client.get(f"{PAGE}?curated=waiting").text


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"action": "drop"}, 409, "got the action &#39;drop&#39;; expected one of reject, restore, edit"),
        ({"action": "restore"}, 409, "about which nothing was decided"),
        ({"action": "edit", "text": ""}, 409, "got the text as it is; change it, or reject the rationale"),
        ({"action": "reject", "rationale": "x"}, 404, "which the run does not have"),
        (
            {"action": "reject", "rationale": "of the mentor"},
            409,
            "got a rationale of mentor, which writes its texts again",
        ),
        ({"action": "reject", "cross_site": "x"}, 403, "load the page again"),
    ],
)
def test_what_cannot_be_decided_is_told_and_not_written(
    client: TestClient, folder: Path, fields: dict[str, str], status: int, message: str
) -> None:
    by = "mentor" if fields.get("rationale") == "of the mentor" else "teacher"
    known = value(client, f"by={by}")["rows"][0]["rationale_id"]
    reply = decide(client, **{**fields, "rationale": "x" if fields.get("rationale") == "x" else known})
    assert reply.status_code == status
    assert message in reply.text
    assert not (folder / "curated.jsonl").exists()


def test_without_an_overlay_the_page_tells_how_to_have_one(small_run: Path) -> None:
    client = web_client(small_run / "run")
    assert "give the recipe the key `teacher: {overlay: NAME.jsonl}`" in client.get(PAGE).text
    known = value(client, "by=teacher")["rows"][0]["rationale_id"]
    assert decide(client, rationale=known, action="reject").status_code == 409


def test_a_file_that_is_no_overlay_is_not_written_to(client: TestClient, folder: Path) -> None:
    known = value(client, "by=teacher")["rows"][0]["rationale_id"]
    (folder / "curated.jsonl").write_text("export PATH=x\n")
    reply = decide(client, rationale=known, action="reject")
    assert reply.status_code == 409
    assert "curated.jsonl, row 1: not JSON" in reply.text
    assert (folder / "curated.jsonl").read_text() == "export PATH=x\n"


def test_a_large_table_tells_how_far_its_copy_is(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "IN_MEMORY", 0)
    go_on = threading.Event()
    write = copies.write_copy
    monkeypatch.setattr(copies, "write_copy", lambda *given: go_on.wait() and write(*given))
    assert "is made, once, in your cache folder" in client.get(PAGE).text
    reply = client.get(f"{PAGE}?format=json")
    assert (reply.status_code, reply.json()["progress"]) == (202, 0.0)
    go_on.set()
    while reply.status_code == 202:
        reply = client.get(f"{PAGE}?format=json")
    assert reply.json()["total"] == 128


def test_tokens_of_a_rationale(client: TestClient) -> None:
    row = value(client, "by=teacher&outcome=kept")["rows"][0]
    page = f"{RUN}/tokens"
    found = value(client, f"rationale={row['rationale_id']}", page)
    assert found["learner"] == "student@seed-1"
    assert found["kl"] == pytest.approx(sum(token["kl"] for token in found["rows"]) / len(found["rows"]))
    html = client.get(f"{page}?rationale={row['rationale_id']}&reader=student@seed-1").text
    assert html.count('class="tip"') == len(found["rows"])
    assert " style=" not in html
    surprise = client.get(f"{page}?rationale={row['rationale_id']}&reader=vanilla@seed-1")
    assert "What surprises vanilla" in surprise.text
    assert client.get(f"{page}?rationale=x").status_code == 404


def test_divergences_of_a_view_are_measured_kept_and_sorted_by(client: TestClient, folder: Path) -> None:
    query = "?by=teacher&sort=length"
    form = {"cross_site": cross_site(client)}
    reply = client.post(f"{RUN}/divergences{query}", data=form)
    assert reply.status_code == 303, reply.text
    assert reply.headers["location"] == f"{PAGE}?by=teacher&sort=-kl"
    found = [row["kl"]["student@seed-1"] for row in value(client, "by=teacher&sort=-kl")["rows"]]
    known = [each for each in found if each is not None]
    assert len(known) == value(client, "by=teacher&outcome=kept")["total"]
    assert known == sorted(known, reverse=True)
    again = client.post(f"{RUN}/divergences{query}", data=form)
    assert again.status_code == 409
    assert "no further rationale of this view" in again.text
    other = value(web_client(folder / "run"), "by=teacher&sort=-kl")["rows"]  # another start of the server
    assert [row["kl"]["student@seed-1"] for row in other][: len(known)] == pytest.approx(known, abs=1e-6)
