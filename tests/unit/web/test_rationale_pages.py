"""The pages of rationales and tokens, on a finished run whose recipe has an overlay."""

from __future__ import annotations

import csv
import io
import re
import threading
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

pytest.importorskip("duckdb", reason="duckdb is installed by pip install 'mentorkd[view]'")

from finished import copy_run
from mentorkd.data.overlay import Decision, append_decision, read_overlay
from mentorkd.pipeline.run import Pipeline, open_run
from mentorkd.recipe.load import load_recipe
from mentorkd.records import Rationale
from mentorkd.web import copies
from mentorkd.web.pages import rationales
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


def read_csv(client: TestClient, query: str) -> list[dict[str, str]]:
    reply = client.get(f"{PAGE}?format=csv&{query}")
    assert reply.status_code == 200, reply.text
    return list(csv.DictReader(io.StringIO(reply.text, newline="")))


def rationale_of(row: dict[str, Any]) -> Rationale:
    return Rationale.create(row["question_id"], row["text"], None, "wrong", "teacher", row["sample"])


def decide(client: TestClient, **fields: str) -> Any:
    form = {"cross_site": cross_site(client), "query": "?q=a&page=2", "why": "for a test", **fields}
    return client.post(f"{RUN}/overlay", data=form)


def test_a_page_comes_as_html_json_and_csv(client: TestClient) -> None:
    question = value(client)["rows"][0]
    for query in ("", f"question={question['question_id']}&"):
        page, rows = client.get(f"{PAGE}?{query}"), value(client, query)["rows"]
        assert page.status_code == 200
        assert " style=" not in page.text
        table = read_csv(client, f"{query}page=1")
        assert [row["rationale_id"] for row in table] == [row["rationale_id"] for row in rows]
    assert question["outcomes"] == {f"{learner}@seed-1": "kept" for learner in ("mentor", "vanilla", "student")}


def test_csv_without_a_page_has_the_whole_view(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rationales, "_PIECE", 50)
    pages = [row["rationale_id"] for number in (1, 2, 3) for row in value(client, f"sort=length&page={number}")["rows"]]
    table = read_csv(client, "sort=length")
    assert [row["rationale_id"] for row in table] == pages
    assert len(pages) == 128
    assert table[0].keys() == table[-1].keys() == value(client)["rows"][0].keys()
    assert len(read_csv(client, "q=no+such+text")) == 0
    page = client.get(f"{PAGE}?sort=length&page=2").text
    assert '"?sort=length&amp;format=csv">CSV</a> (all)' in page


def test_rows_say_what_was_decided(client: TestClient) -> None:
    row = value(client, "by=teacher")["rows"][0]
    assert (row["decision"], row["edited_text"], row["waits"]) == (None, None, False)
    text = "It is 5.\nTherefore, the answer is 5."
    decide(client, rationale=row["rationale_id"], action="edit", text=text)
    (row,) = value(client, "curated=decided")["rows"]
    assert (row["decision"], row["why"], row["waits"]) == ("edit", "for a test", True)
    assert (row["edited_text"], row["edited_predicted"]) == ("It is 5.", "5")
    assert row["decided_by"]
    assert row["decided_at"].endswith("+00:00")
    (same,) = read_csv(client, "curated=decided")
    assert (same["edited_text"], same["why"]) == ("It is 5.", "for a test")


def test_a_narrow_page_has_a_field_to_sort_by(client: TestClient) -> None:
    page = client.get(f"{PAGE}?sort=-length").text
    field = page[page.index('<select name="sort">') :].partition("</select>")[0]
    assert re.findall('value="(.*?)"', field) == ["question", "-question", "length", "-length"]
    assert re.findall('value="([^"]*)" selected', field) == ["-length"]


def test_the_page_of_a_question_has_one_heading(client: TestClient) -> None:
    row = value(client, "by=teacher")["rows"][0]
    page = client.get(f"{PAGE}?question={row['question_id']}").text
    assert len(re.findall("<h1", page)) == 1


@pytest.mark.slow  # it trains again
def test_what_learners_read_after_decisions(client: TestClient, folder: Path) -> None:
    first, second = value(client, "by=teacher")["rows"][:2]
    decide(client, rationale=first["rationale_id"], action="reject")
    decide(client, rationale=second["rationale_id"], action="edit", text="It is 5.\nTherefore, the answer is 5.")
    open_run(folder / "run").run()
    page = client.get(f"{PAGE}?question={first['question_id']}").text
    card = page[page.index(f'id="{first["rationale_id"]}"') :].partition("</article>")[0]
    assert ">rejected</span> for" in card
    assert ">tokens</a>" not in card
    row = client.get(f"{PAGE}?curated=decided&sort=question").text
    assert len(re.findall(">rejected", row)) == 1
    tokens = f"{RUN}/tokens?rationale="
    reply = client.get(tokens + first["rationale_id"])
    assert reply.status_code == 409
    assert "no trained learner was given this text: it was rejected" in reply.text
    found = value(client, f"rationale={second['rationale_id']}", f"{RUN}/tokens")
    assert (found["edited"], found["predicted"]) == (True, "5")
    page = client.get(tokens + second["rationale_id"]).text
    assert '<span class="decision">edited</span>' in page
    assert found["verdict"].replace("_", " ") in page


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


def fields_of(page: str) -> dict[str, str]:
    """The fields of the first form of a card, as a browser sends them."""
    form = page[page.index("<details><summary>Curate") :]
    text = re.search(r'<textarea name="text" rows="7">\n(.*?)</textarea>', form, re.DOTALL)
    why = re.search(r'<input name="why" value="(.*?)"', form, re.DOTALL)
    assert text
    assert why
    return {name: re.sub("\r\n?|\n", "\r\n", unescape(each[1])) for name, each in (("text", text), ("why", why))}


def test_a_form_sends_back_the_text_as_it_is(client: TestClient, folder: Path) -> None:
    row = value(client, "by=teacher")["rows"][0]
    text = "\nIt is \u200f5\u202e &amp; <b>.\r\x1b[31m"
    append_decision(folder / "curated.jsonl", Decision.on(rationale_of(row), "edit", by="ann", why="\u200f", text=text))
    sent = fields_of(client.get(f"{PAGE}?question={row['question_id']}").text)
    assert sent == {"text": text.replace("\n", "\r\n").replace("\r\x1b", "\r\n\x1b"), "why": "\u200f"}
    reply = decide(client, rationale=row["rationale_id"], action="edit", **sent)
    assert reply.status_code == 409
    assert "got the text as it is" in reply.text
    assert len((folder / "curated.jsonl").read_text().splitlines()) == 1
    assert decide(client, rationale=row["rationale_id"], action="edit", text=f"{sent['text']} 5").status_code == 303
    saved = read_overlay(folder / "curated.jsonl")[row["rationale_id"]].text
    assert saved == "\nIt is \u200f5\u202e &amp; <b>.\n\x1b[31m 5"


def test_enter_in_a_field_decides_nothing(client: TestClient) -> None:
    page = client.get(f"{PAGE}?question={value(client, 'by=teacher')['rows'][0]['question_id']}").text
    forms = re.findall(r'<form method="post".*?</form>', page, re.DOTALL)
    assert forms
    assert all("disabled" in re.findall("<button[^>]*>", form)[0] for form in forms)


def test_decisions_that_change_nothing_are_refused(client: TestClient, folder: Path) -> None:
    row = value(client, "by=teacher")["rows"][0]
    for action, text, message in [
        ("reject", "", None),
        ("reject", "", "which is rejected already"),
        ("edit", row["text"], "got the text as the teacher wrote it; restore the rationale instead"),
        ("restore", "", None),
        ("restore", "", "about which nothing was decided"),
        ("edit", "new", None),
        ("edit", "new", "got the text as it is"),
        ("edit", row["text"], "got the text as the teacher wrote it; restore the rationale instead"),
    ]:
        reply = decide(client, rationale=row["rationale_id"], action=action, text=text)
        assert reply.status_code == (409 if message else 303)
        assert (message or "") in reply.text
    assert len((folder / "curated.jsonl").read_text().splitlines()) == 3


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
        ({"action": "reject", "why": "x" * 501}, 409, "got a reason of 501 characters; expected at most 500"),
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


def test_an_overlay_in_the_run_folder_is_not_written_to(client: TestClient, folder: Path) -> None:
    known = value(client, "by=teacher")["rows"][0]["rationale_id"]
    recipe = folder / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(folder / "curated.jsonl"), str(folder / "run" / "curated.jsonl")))
    reply = decide(client, rationale=known, action="reject")
    assert reply.status_code == 409
    assert "curated.jsonl lies in the run folder" in reply.text
    assert not (folder / "run" / "curated.jsonl").exists()


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
    reply = client.get(f"{PAGE}?format=csv")
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
    assert reply.text == "a table of 128 rationales is made, once; ask again when it is there\n"
    reply = client.get(f"{PAGE}?format=json")
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
