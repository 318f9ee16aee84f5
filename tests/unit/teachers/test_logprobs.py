"""Log-probabilities from an endpoint to a rationale: asked for once, kept with the replies, missed before money is spent."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from asking import annotate, sums, teacher
from hostile_server import Running, running
from mentorkd.data.prompts import render_target
from mentorkd.data.readers import read_rationales
from mentorkd.data.token_logprobs import TokenLogprobs, target_logprobs
from mentorkd.errors import DataError, RecipeError, TeacherError
from mentorkd.recipe.load import parse_recipe
from mentorkd.records import Rationale, write_jsonl
from mentorkd.teachers.annotation import SamplingResult
from mentorkd.teachers.cache import RequestCache, export, open_replies
from mentorkd.teachers.openai import OpenAITeacher, dry_run_openai
from mentorkd.teachers.prompting import Prompter
from places import HELPERS

AT_ONE: dict[str, Any] = {"temperature": 1.0, "samples": 1, "concurrency": 8}
WANTED: dict[str, Any] = AT_ONE | {"logprobs": True}
SUMS = sums(20)
APPLES = SUMS[17]
"""The solution to this one has characters of four bytes, an arrow, and whitespace around it."""


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running("immediate") as immediate:
        yield immediate


def without_meta(annotation: SamplingResult) -> list[tuple[str, str, Any]]:
    return [(each.id, each.text, each.meta.get("logprobs")) for each in annotation.rationales]


def arrivals(server: Running) -> int:
    return len(server.statistics()["arrivals"])


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_rationales_carry_the_log_probabilities_of_their_text(endpoint: str, server: Running, tmp_path: Path) -> None:
    annotation = annotate(server.url, tmp_path / "c", SUMS, endpoint=endpoint, **WANTED)
    assert len(annotation.rationales) == len(SUMS)
    for each in annotation.rationales:
        if each.meta["outcome"] in ("empty", "refusal"):
            continue
        read = TokenLogprobs.from_json(each.meta["logprobs"])
        assert read.ends[-1] == len(each.text.encode())
        pieces = target_logprobs(each, render_target(each.text, "5", "therefore"))
        assert pieces is not None
        assert pieces.masked >= len(" Therefore, the answer is 5.")
    [apples] = [each for each in annotation.rationales if each.question_id == APPLES.id]
    way = apples.text[4]  # the server counts its replies
    assert apples.text == f"Wäy {way}. 17 🍎 + 18 🍎 --> 35 🍎."
    target = render_target(apples.text, "35", "arrow")
    pieces = target_logprobs(apples, target)
    assert pieces is not None
    spans = [target[a:b] for a, b in pairwise((0, *pieces.edges))]
    assert spans == ["Wä", f"y {way}", ". 1", "7 🍎", " + ", "18 ", "🍎 -> ", "35 ", "🍎.", " --> 35"]
    # The server's tokens have three bytes and a value that is a sum over them. The last one has a line's end, too.
    expected = [math.nan if "->" in piece else -sum(piece.encode()) / 256 for piece in spans]
    expected[-2] -= ord("\n") / 256
    assert pieces.values == pytest.approx(expected, abs=1e-4, nan_ok=True)


def test_replies_that_are_kept_answer_both_ways(server: Running, tmp_path: Path) -> None:
    wanted = annotate(server.url, tmp_path / "c", SUMS, **WANTED)
    sent = arrivals(server)
    again = annotate(server.url, tmp_path / "c", SUMS, **WANTED)
    assert without_meta(again) == without_meta(wanted)
    # Without `logprobs` the same replies serve.
    plain = annotate(server.url, tmp_path / "c", SUMS, **AT_ONE)
    assert [each.text for each in plain.rationales] == [each.text for each in wanted.rationales]
    config = teacher(server.url, **AT_ONE)
    with open_replies(tmp_path / "c") as look_up:
        assert dry_run_openai(SUMS, config, Prompter("zero_shot_cot"), look_up=look_up).requests == 20
        number_prompts = Prompter("zero_shot_cot", answer_kind="number")
        assert dry_run_openai(SUMS, config, number_prompts, look_up=look_up).requests == 0
    assert arrivals(server) == sent

    # Replies without them do not serve a recipe that wants them.
    annotate(server.url, tmp_path / "d", SUMS, **AT_ONE)
    asked = annotate(server.url, tmp_path / "d", SUMS, **WANTED)
    assert asked.traffic["sent"] == len(SUMS)
    export(tmp_path / "d", tmp_path / "d.jsonl")
    rows = [json.loads(line)["reply"] for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    with_them = [row for row in rows if "logprobs" in row]
    assert 0 < len(with_them) < len(rows) / 2
    assert all(row["logprobs"]["ends"][-1] == len(row["text"].encode()) for row in with_them)


def test_a_killed_annotation_resumes_with_the_log_probabilities_that_it_has(tmp_path: Path) -> None:
    script, cache = HELPERS / "asking.py", tmp_path / "c"
    with running("friendly") as server:
        command = [sys.executable, str(script), server.url, str(cache), "20", json.dumps(WANTED | {"concurrency": 1})]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as killed:
            while arrivals(server) < 8:
                assert killed.poll() is None
                time.sleep(0.02)
            killed.send_signal(signal.SIGKILL)
        resumed = annotate(server.url, cache, SUMS, **WANTED)
        assert resumed.traffic["cached"] >= 6
        assert arrivals(server) <= len(SUMS) + 1
    with running("immediate") as other:
        undisturbed = annotate(other.url, tmp_path / "d", SUMS, **WANTED)
    assert without_meta(resumed) == without_meta(undisturbed)


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_an_endpoint_without_them_stops_the_annotation_after_one_request(endpoint: str, tmp_path: Path) -> None:
    with running("without logprobs") as server:
        with pytest.raises(TeacherError) as stopped:
            annotate(server.url, tmp_path / "c", SUMS, endpoint=endpoint, **WANTED)
        message = str(stopped.value)
        assert "asks for log-probabilities, and the endpoint does not give them: it has no `logprobs`" in message
        assert "set `teacher.logprobs: false`" in message
        assert "\n" not in message
        assert arrivals(server) == 1
        # That reply was paid for, and is one to the same request without them. Asked for again, they are asked for again.
        with pytest.raises(TeacherError):
            annotate(server.url, tmp_path / "c", SUMS, endpoint=endpoint, **WANTED)
        assert arrivals(server) == 2
        plain = annotate(server.url, tmp_path / "c", SUMS, endpoint=endpoint, **AT_ONE)
        assert (plain.traffic["cached"], plain.traffic["sent"]) == (1, len(SUMS) - 1)


def test_an_endpoint_that_refuses_the_field_stops_the_annotation_after_one_request(tmp_path: Path) -> None:
    with running("refusing logprobs") as server:
        with pytest.raises(TeacherError, match=r"does not give them: HTTP 400: .*not supported.*logprobs: false"):
            annotate(server.url, tmp_path / "c", SUMS, **WANTED)
        assert arrivals(server) == 1
        assert annotate(server.url, tmp_path / "c", SUMS, **AT_ONE).traffic["sent"] == len(SUMS)


def test_later_replies_without_them_are_kept_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    questions = sums(6)
    with running("with some logprobs", seed=2) as server:
        annotation = annotate(server.url, tmp_path / "c", questions, **WANTED | {"concurrency": 1, "samples": 4})
        sent = arrivals(server)
        again = annotate(server.url, tmp_path / "c", questions, **WANTED | {"concurrency": 1, "samples": 4})
        assert without_meta(again) == without_meta(annotation)
        assert arrivals(server) == sent == 24
    lacking = [each for each in annotation.rationales if "logprobs" not in each.meta]
    assert 0 < len(lacking) < 24
    assert caplog.text.count("a reply came without log-probabilities: it has no `logprobs`") == len(lacking)
    remarks = OpenAITeacher(recipe("logprobs: true, temperature: 1"), teacher("http://e/v1", **WANTED)).remarks(
        annotation
    )
    assert remarks == [
        f"{len(lacking)} of 24 replies came without log-probabilities, so they get no soft labels of the teacher"
    ]


def test_a_reply_that_is_cut_at_a_stop_keeps_those_of_what_is_left(tmp_path: Path) -> None:
    with running("rambling") as server:
        annotation = annotate(server.url, tmp_path / "c", SUMS[:3], endpoint="completions", **WANTED)
    with running("rambling") as server:
        whole = annotate(server.url, tmp_path / "d", SUMS[:3], endpoint="completions", stop=["nothing"], **WANTED)
    assert all(each.meta["outcome"] == "ok" for each in annotation.rationales)
    for cut, long in zip(annotation.rationales, whole.rationales, strict=True):
        assert long.text.startswith(cut.text)
        assert cut.meta["logprobs"]["ends"][-1] == len(cut.text.encode())
        shared = len(cut.meta["logprobs"]["ends"]) - 1
        assert cut.meta["logprobs"]["values"][:shared] == long.meta["logprobs"]["values"][:shared]


def test_the_second_call_of_two_stages_asks_for_none(server: Running, tmp_path: Path) -> None:
    annotation = annotate(server.url, tmp_path / "c", SUMS[:3], prompt="two_stage", **WANTED)
    export(tmp_path / "c", tmp_path / "c.jsonl")
    bodies = [json.loads(line)["request"]["body"] for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert (
        sorted((body["temperature"], body.get("logprobs", False)) for body in bodies)
        == [(0.0, False)] * 3 + [(1.0, True)] * 3
    )
    assert all("logprobs" in each.meta for each in annotation.rationales)


# Recorded files ------------------------------------------------------------------------------------------------------


def test_recorded_rationales_are_read_back(server: Running, tmp_path: Path) -> None:
    annotation = annotate(server.url, tmp_path / "c", SUMS, **WANTED)
    solutions = [each for each in annotation.rationales if each.meta["outcome"] == "ok"]
    write_jsonl(tmp_path / "rationales.jsonl", solutions)
    read = read_rationales(tmp_path / "rationales.jsonl", SUMS, kind="number")
    assert [(each.text, each.meta["logprobs"]) for each in read] == [(e.text, e.meta["logprobs"]) for e in solutions]
    damaged = json.loads((tmp_path / "rationales.jsonl").read_text().splitlines()[0])
    damaged["meta"]["logprobs"]["ends"][-1] = 900
    (tmp_path / "damaged.jsonl").write_text(json.dumps(damaged) + "\n")
    with pytest.raises(DataError, match=r"row 1: field `meta.logprobs`: the last of `ends` is 900"):
        read_rationales(tmp_path / "damaged.jsonl", SUMS, kind="number", needs_logprobs=True)
    (read_without,) = read_rationales(tmp_path / "damaged.jsonl", SUMS, kind="number")
    assert read_without.meta.keys() == read[0].meta.keys() - {"logprobs"}


def recorded(path: Path, *, needs_logprobs: bool = True, **row: Any) -> list[Rationale]:
    question = {"question": SUMS[2].text, "answer": SUMS[2].answer}
    path.write_text(json.dumps([question | row, question | {"rationale": "2 + 14 = 16", "lp": None, "logprobs": None}]))
    columns = {"logprobs": "lp"} if "lp" in row else None
    return read_rationales(path, SUMS, kind="number", columns=columns, needs_logprobs=needs_logprobs)


@pytest.mark.parametrize("name", ["logprobs", "lp"])
def test_a_column_of_a_recorded_file_has_them(name: str, tmp_path: Path) -> None:
    fields = {"ends": [3, 12, 19], "values": [-1.0, -2.0, -3.0]}
    first, second = recorded(tmp_path / "r.json", rationale=" 2 + 14 = 16 --> 16", **{name: fields})
    assert first.text == "2 + 14 = 16"
    assert first.meta["logprobs"] == {"ends": [2, 11], "values": [-1.0, -2.0]}
    assert "logprobs" not in second.meta
    several = recorded(
        tmp_path / "r.json", rationale=["2 + 14 = 16", "So 16"], **{name: [None, {"ends": [5], "values": [None]}]}
    )
    assert [each.meta.get("logprobs") for each in several] == [None, {"ends": [5], "values": [None]}, None]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("x", "got str, expected an object of `ends` and `values`"),
        ([{"ends": [1], "values": [-1]}] * 2, "got 2 entries for 1 rationales"),
        ({"ends": [99], "values": [-1]}, "the last of `ends` is 99, and the text has 5 bytes"),
    ],
)
def test_a_column_with_something_else_is_told(
    value: Any, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DataError, match=f"row 1: field `logprobs`: {said}"):
        recorded(tmp_path / "r.json", rationale="So 16", logprobs=value)
    for _ in range(2):  # one warning a file
        first, _ = recorded(tmp_path / "r.json", rationale="So 16", logprobs=value, needs_logprobs=False)
        assert "logprobs" not in first.meta
    (warning,) = [line for line in caplog.messages if "in another form is ignored" in line]
    assert f"{tmp_path / 'r.json'}: what `logprobs` has" in warning


# The recipe ----------------------------------------------------------------------------------------------------------


def recipe(settings: str) -> Any:
    task, learners = "task: {name: svamp, train: a.json, test: b.json}", "learners: {vanilla: {model: a/b}}"
    text = f"name: r\n{task}\nteacher: {{kind: openai, model: m, {settings}}}\n{learners}\n"
    return parse_recipe(text, source="a recipe", base=Path("/recipes"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("logprobs: true", "`logprobs` needs `temperature: 1` and `top_p: 1`, got temperature: 0.7, top_p: 1"),
        ("logprobs: true, temperature: 1, top_p: 0.9", "got temperature: 1, top_p: 0.9"),
        ("logprobs: true, temperature: 1, extra_body: {top_logprobs: 5}", "top_logprobs cannot stand beside"),
    ],
)
def test_values_of_another_distribution_are_refused(settings: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe(settings)


def test_the_dry_run_says_that_the_first_request_shows_whether_they_come(tmp_path: Path) -> None:
    for settings, warned in (("temperature: 1", False), ("temperature: 1, logprobs: true", True)):
        read = recipe(settings)
        preview = OpenAITeacher(read, read.teacher).preview(SUMS, tmp_path, roughly=True)
        assert any("that request goes alone" in line for line in preview.lines()) == warned


def test_the_key_enters_an_identity_only_where_it_is_set() -> None:
    off, on = (recipe(f"temperature: 1, logprobs: {value}") for value in ("false", "true"))
    [settings], [wanted] = (OpenAITeacher(each, each.teacher).identity() for each in (off, on))
    assert "logprobs" not in settings
    assert wanted == settings | {"logprobs": True}


def test_damaged_log_probabilities_in_the_cache_are_a_damaged_reply(server: Running, tmp_path: Path) -> None:
    annotate(server.url, tmp_path / "c", SUMS[:1], **WANTED)
    with RequestCache(tmp_path / "c") as cache:
        sql = "UPDATE replies SET body = replace(body, '\"ends\": [3,', '\"ends\": [4,')"
        assert cache._connection().execute(sql).rowcount == 1
    again = annotate(server.url, tmp_path / "c", SUMS[:1], **WANTED)
    assert again.traffic["sent"] == 1
