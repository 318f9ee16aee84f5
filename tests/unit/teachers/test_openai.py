"""The client against servers that misbehave; test_load.py has the same at full size."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from asking import KEY, KEY_VARIABLE, annotate, graded, sums, teacher, texts
from hostile_server import running
from mentorkd.errors import TeacherError
from mentorkd.teachers.annotation import SamplingResult
from mentorkd.teachers.cache import RequestCache, export
from mentorkd.teachers.openai import annotate_openai
from mentorkd.teachers.openai_client import OpenAIClient, read_key
from mentorkd.teachers.prompting import Prompter
from places import HELPERS


def asking(url: str, cache: Path, **settings: Any) -> subprocess.Popen[str]:
    """A process that asks 100 questions, three samples each."""
    command = [sys.executable, str(HELPERS / "asking.py"), url, str(cache), "100", json.dumps(settings)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # who started the tests may ignore it
    )


def test_rationales_of_a_hostile_and_a_friendly_server_are_equal_and_nothing_is_paid_twice(tmp_path: Path) -> None:
    questions = sums(60)
    with running("friendly") as friendly, running("hostile", seed=1) as hostile:
        calm = annotate(friendly.url, tmp_path / "a", questions, concurrency=16)
        settings: dict[str, Any] = {"concurrency": 16, "retries": 12, "timeout": 1.0}
        rough = annotate(hostile.url, tmp_path / "b", questions, **settings)
        statistics = hostile.statistics()
        assert texts(rough) == texts(calm)
        assert rough.lost == []
        outcomes = Counter(r.meta["outcome"] for r in rough.rationales)
        assert outcomes == {"ok": 159, "refusal": 9, "empty": 6, "length": 6}
        assert set(statistics["delivered"].values()) == {3}
        assert rough.traffic["sent"] == rough.spending.requests
        # Each request that was sent arrived. Only where time ran out may the server, on a busy machine, not have heard of
        # it; but then it is not the server that made time run out.
        unheard = rough.traffic["sent"] - len(statistics["arrivals"])
        assert 0 <= unheard <= rough.traffic.get("fault_timeout", 0) - statistics["stalled"]
        faults = sum(count for name, count in rough.traffic.items() if name.startswith("fault_"))
        assert faults == rough.traffic["sent"] - len(rough.rationales) > 10
        assert statistics["most_in_flight"] <= 16

        again = annotate(hostile.url, tmp_path / "b", questions, **settings)
        assert [r.id for r in again.rationales] == [r.id for r in rough.rationales]
        assert all(r.meta["cached"] for r in again.rationales)
        assert again.traffic["sent"] == 0
        # A filter, another limit or more samples never ask again for what is there.
        more = annotate(hostile.url, tmp_path / "b", questions[:20], **settings | {"samples": 4, "concurrency": 3})
        assert more.traffic["cached"] == 60
        assert set(hostile.statistics()["delivered"].values()) == {3, 4}


def test_retry_after_is_obeyed_and_retries_are_not_more_than_allowed(tmp_path: Path) -> None:
    with running("wait", seed=3) as server:
        annotation = annotate(server.url, tmp_path / "a", sums(4), samples=1, concurrency=1, retries=20)
        statistics = server.statistics()
        assert annotation.lost == []
        # One request at a time: the request that got a wait is the next to arrive.
        assert len(statistics["waits"]) >= 1
        for _, at, seconds in statistics["waits"]:
            assert min(arrival for arrival in statistics["arrivals"] if arrival > at) - at >= seconds
    with running("dead") as server:
        annotation = annotate(server.url, tmp_path / "b", sums(3), samples=1, retries=2, concurrency=2)
        assert [lost.kind for lost in annotation.lost] == ["server_error"] * 3
        assert set(server.statistics()["attempts"].values()) == {3}


def test_dead_endpoint_is_given_up_and_replies_are_kept(tmp_path: Path) -> None:
    with (
        running("dead") as server,
        pytest.raises(TeacherError, match=r"20 requests in a row got no reply.*HTTP 500") as e,
    ):
        annotate(server.url, tmp_path / "a", sums(400), retries=0, concurrency=8)
    assert str(tmp_path / "a") in str(e.value)
    with pytest.raises(TeacherError, match=r"20 requests in a row.*the connection failed"):
        annotate("http://127.0.0.1:9/v1", tmp_path / "a", sums(30), retries=0, concurrency=8)


@pytest.mark.parametrize(("profile", "said"), [("locked", "does not accept the key"), ("bankrupt", "out of credit")])
def test_fatal_errors_stop_at_once(tmp_path: Path, profile: str, said: str) -> None:
    with running(profile) as server:
        with pytest.raises(TeacherError, match=said):
            annotate(server.url, tmp_path / "a", sums(100), concurrency=4)
        assert len(server.statistics()["arrivals"]) <= 4


def test_overload_slows_the_whole_client_down_and_passes(tmp_path: Path) -> None:
    with running("overload") as server:
        annotation = annotate(server.url, tmp_path / "a", sums(60), concurrency=32, retries=6)
        statistics = server.statistics()
    assert annotation.lost == []
    assert annotation.traffic["overloads"] >= 1
    # Two seconds of overload: the first wave, then single probes; without a breaker, hundreds of requests.
    assert statistics["fates"]["429"] <= 32 + 8 + 10
    assert statistics["most_in_flight"] <= 32


def test_constant_overload_is_told_and_stops_after_a_stated_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    words = (
        r"no request got a reply for .* s, and the next pause would take 2 s: HTTP 429: .*fate 429.*`teacher.max_wait`"
    )
    with running("overloaded") as server, pytest.raises(TeacherError, match=words):
        annotate(server.url, tmp_path / "a", sums(60), concurrency=16, retries=50, max_wait=2.0)
    assert time.monotonic() - began < 30
    told = [record.getMessage() for record in caplog.records if "overloaded" in record.getMessage()]
    assert len(told) == 1
    assert re.search(r"HTTP 429: .*fate 429.*no request is sent for 1 s.*stops after 2 s without a reply", told[0])


def test_wait_beyond_the_longest_is_told_and_not_sat_out(tmp_path: Path) -> None:
    words = (
        r"the next pause would take 3,600 s: HTTP 429: .*quota of the day.*asks to wait 3,600 s.*`max_wait` is 600 s"
    )
    with running("closed for an hour") as server:
        with pytest.raises(TeacherError, match=words):
            annotate(server.url, tmp_path / "a", sums(60), concurrency=16)
        few = annotate(server.url, tmp_path / "b", sums(3), concurrency=1, samples=1)
        # On a busy machine some requests follow before half of the replies are in.
        assert len(server.statistics()["arrivals"]) <= 2 * 16 + 3
    assert [(lost.kind, "asks to wait 3,600 s" in lost.message) for lost in few.lost] == [("overloaded", True)] * 3


@pytest.mark.parametrize("profile", ["endless", "endless 500"])
def test_endless_reply_is_read_up_to_a_bound(tmp_path: Path, profile: str) -> None:
    settings = json.dumps({"retries": 0, "samples": 1, "timeout": 60})
    with running(profile) as server:
        command = [sys.executable, str(HELPERS / "asking.py"), server.url, str(tmp_path / "c"), "4", settings]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    result = json.loads(done.stdout)
    assert (result["account"]["lost"], result["account"]["malformed"]) == (4, 4)
    assert result["megabytes"] < 200


def test_redirect_to_another_host_is_refused_and_to_the_same_host_followed(tmp_path: Path) -> None:
    with running("redirecting") as server:
        with pytest.raises(
            TeacherError, match=r"HTTP 307: the endpoint redirects from 127.0.0.1 to http://localhost:\d+"
        ):
            annotate(server.url, tmp_path / "a", sums(9), concurrency=2)
        assert len(server.statistics()["arrivals"]) <= 2
    with running("moved") as server:
        assert len(annotate(server.url, tmp_path / "b", sums(3)).rationales) == 9


def test_reply_of_another_model_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running("other model") as server:
        for _ in range(2):  # the second time from the cache
            done = annotate(server.url, tmp_path / "a", sums(3))
            assert caplog.text.count("answers with the model a-cheaper-one; the recipe asks for m") == 1
            assert {rationale.meta["model"] for rationale in done.rationales} == {"a-cheaper-one"}
            caplog.clear()


def test_malformed_replies_of_all_runs_are_counted(tmp_path: Path) -> None:
    with running("babbling") as server:
        for runs in (1, 2):
            done = annotate(server.url, tmp_path / "a", sums(3), samples=1, retries=1)
            assert (done.account()["malformed"], done.traffic["fault_malformed"]) == (6 * runs, 6)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_waits_for_what_is_in_flight_and_keeps_it(tmp_path: Path, sent: signal.Signals) -> None:
    with running("steady") as server:
        with asking(server.url, tmp_path / "c", concurrency=16, price={"input": 1.0, "output": 1.0}) as process:
            while len(server.statistics()["arrivals"]) < 24:
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(sent)
            _, said = process.communicate(timeout=60)
        arrivals = len(server.statistics()["arrivals"])
    assert process.returncode == -sent
    assert re.search(r"interrupted; waiting for \d+ replies in flight", said)
    with RequestCache(tmp_path / "c") as cache:
        assert len(cache) == arrivals < 300
        assert (cache.spending().requests, cache.spending().unsure_dollars) == (arrivals, 0.0)


def test_second_interrupt_abandons_what_is_in_flight(tmp_path: Path) -> None:
    with (
        running("stuck") as server,
        asking(server.url, tmp_path / "c", concurrency=4, price={"input": 1.0, "output": 1.0}) as process,
    ):
        while len(server.statistics()["arrivals"]) < 4:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "waiting for 4 replies in flight" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    with RequestCache(tmp_path / "c") as cache:
        assert (len(cache), cache.spending().requests) == (0, 4)
        assert cache.spending().unsure_dollars > 0


def test_rate_limits_hold(tmp_path: Path) -> None:
    with running("immediate") as server:
        annotate(server.url, tmp_path / "a", sums(20), concurrency=32, requests_per_minute=1800)
        arrivals = server.statistics()["arrivals"]
    assert len(arrivals) == 60
    for at in arrivals:
        assert sum(at <= other < at + 1 for other in arrivals) <= 33
    assert 1.7 <= arrivals[-1] - arrivals[0] <= 4.0


def test_budget_of_requests_is_not_crossed_and_can_be_raised(tmp_path: Path) -> None:
    questions = sums(20)
    with running("friendly") as server:
        first = annotate(server.url, tmp_path / "a", questions, budget={"requests": 25})
        assert first.stopped is not None
        assert "budget of 25 requests" in first.stopped
        assert "raise `teacher.budget`" in first.stopped
        assert len(first.rationales) == len(server.statistics()["arrivals"]) == 25
        # The limit holds over runs: the same recipe again asks for nothing.
        again = annotate(server.url, tmp_path / "a", questions, budget={"requests": 25})
        assert (again.traffic["sent"], len(again.rationales)) == (0, 25)
        last = annotate(server.url, tmp_path / "a", questions, budget={"requests": 60})
        assert (last.stopped, len(last.rationales), len(server.statistics()["arrivals"])) == (None, 60, 60)


def test_processes_that_share_a_cache_have_one_budget_and_pay_once(tmp_path: Path) -> None:
    def together(url: str, **settings: Any) -> list[dict[str, Any]]:
        script, cache = HELPERS / "asking.py", str(tmp_path / "c")
        command = [sys.executable, str(script), url, cache, "20", json.dumps(settings | {"concurrency": 8})]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        outputs = [process.communicate(timeout=250) for process in both]
        assert [process.returncode for process in both] == [0, 0], outputs
        assert sum("another process asks through" in err for _, err in outputs) <= 1
        return [json.loads(out)["traffic"] for out, _ in outputs]

    with running("friendly") as server:
        first = together(server.url, budget={"requests": 25})
        assert len(server.statistics()["arrivals"]) == 25
        assert sorted(one["sent"] for one in first) == [0, 25]
        rest = together(server.url)
        assert sorted(one["sent"] for one in rest) == [0, 35]
        assert set(server.statistics()["delivered"].values()) == {3}


def test_budget_of_dollars_is_never_crossed(tmp_path: Path) -> None:
    price = {"input": 10.0, "output": 40.0}
    with running("unmetered", seed=2) as server:
        annotation = annotate(
            server.url, tmp_path / "a", sums(100), concurrency=32, budget={"dollars": 0.05}, price=price, retries=12
        )
        statistics = server.statistics()
    charged = (statistics["input_tokens"] * 10.0 + statistics["output_tokens"] * 40.0) / 1e6
    assert annotation.stopped is not None
    assert charged <= annotation.spending.dollars <= 0.05
    assert annotation.spending.dollars > 0.044
    assert annotation.spending.unsure_picodollars > 0


@pytest.mark.parametrize("profile", ["hidden prompt", "hidden prompt, half broken"])
def test_budget_holds_where_the_endpoint_counts_more_than_our_bound(tmp_path: Path, profile: str) -> None:
    """The first request goes alone and tells of the hidden prompt; a second run knows of it from the cache."""
    settings: dict[str, Any] = {"concurrency": 32, "price": {"input": 1.0, "output": 4.0}, "retries": 3}
    with running(profile, seed=2) as server:
        for dollars in (0.05, 0.10):
            done = annotate(server.url, tmp_path / "a", sums(100), **settings, budget={"dollars": dollars})
            statistics = server.statistics()
            charged = (statistics["input_tokens"] * 1.0 + statistics["output_tokens"] * 4.0) / 1e6
            assert done.stopped is not None
            assert 0.88 * dollars < charged <= dollars
            assert done.spending.dollars == pytest.approx(charged)
            assert done.spending.unsure_dollars == 0.0
        assert statistics["most_in_flight"] > 4


def test_endpoint_that_tells_no_usage_is_not_asked_one_by_one_for_ever(tmp_path: Path) -> None:
    with running("silent about usage") as server:
        done = annotate(server.url, tmp_path / "a", sums(20), concurrency=8, budget={"tokens": 10**6})
        assert len(done.rationales) == 60
        assert server.statistics()["most_in_flight"] > 4


def test_until_correct_asks_only_where_needed(tmp_path: Path) -> None:
    questions = sums(60)
    with running("friendly") as server:
        annotation = annotate(server.url, tmp_path / "a", questions, samples=1, until_correct={"want": 2, "tries": 5})
        delivered = server.statistics()["attempts"]
    numbers = {int(prompt.split("What is ")[1].split()[0]): count for prompt, count in delivered.items()}
    assert numbers == {a: 5 if 7 <= a % 50 <= 11 else 2 for a in range(60)}
    assert len(annotation.rationales) == sum(numbers.values())


def test_two_calls_a_sample_by_completions(tmp_path: Path) -> None:
    with running("friendly") as server:
        settings: dict[str, Any] = {"prompt": "two_stage", "endpoint": "completions", "samples": 2}
        annotation = annotate(server.url, tmp_path / "a", sums(7), **settings)
        assert all(r.verdict == "correct" and len(r.meta["requests"]) == 2 for r in annotation.rationales)
        assert annotation.traffic["sent"] == 28
        assert annotate(server.url, tmp_path / "a", sums(7), **settings).traffic["sent"] == 0


def test_base_model_gets_the_papers_words_and_its_next_question_is_cut_off(tmp_path: Path) -> None:
    """Also where the endpoint knows no `stop`, and writes on until the limit."""
    settings: dict[str, Any] = {"prompt": "two_stage", "endpoint": "completions", "samples": 1}
    questions = sums(7)
    with running("immediate") as obeying, running("rambling") as rambling:
        expected = annotate(obeying.url, tmp_path / "a", questions, **settings)
        cut = annotate(rambling.url, tmp_path / "b", questions, **settings)
        statistics = rambling.statistics()
        again = annotate(rambling.url, tmp_path / "b", questions, **settings)
    assert texts(cut) == texts(expected) == texts(again)
    assert {(r.verdict, r.meta["outcome"], r.meta["finish_reason"]) for r in cut.rationales} == {
        ("correct", "ok", "stop")
    }
    first = [f"Q: {question.text}\nA: Let's think step by step." for question in questions]
    second = [f"{a} {r.text}\nTherefore, the answer is" for a, r in zip(first, cut.rationales, strict=True)]
    assert statistics["attempts"] == dict.fromkeys([*first, *second], 1)
    assert statistics["stops"] == [["\nQ:"]] * 14
    assert again.traffic["sent"] == 0


def test_chat_is_cut_only_at_the_recipes_stops(tmp_path: Path) -> None:
    with running("rambling") as server:
        cut = annotate(server.url, tmp_path / "a", sums(3), samples=1)
        stopped = annotate(server.url, tmp_path / "b", sums(3), samples=1, stop=["\nQ:", "###"])
        assert server.statistics()["stops"] == [None] * 3 + [["\nQ:", "###"]] * 3
    assert [r.meta["outcome"] for r in cut.rationales] == ["length"] * 3
    assert [r.verdict for r in stopped.rationales] == ["correct"] * 3


def test_equal_requests_in_flight_are_sent_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)

    async def run(url: str) -> None:
        with RequestCache(tmp_path / "a") as cache:
            async with OpenAIClient(teacher(url), cache) as client:
                ask = [client.ask("What is 1 + 2?", 0, max_tokens=9, temperature=0.7) for _ in range(5)]
                assert len({str(answer) for answer in await asyncio.gather(*ask)}) == 1

    with running("friendly") as server:
        asyncio.run(run(server.url))
        assert len(server.statistics()["arrivals"]) == 1


def test_annotation_works_inside_a_running_loop(tmp_path: Path) -> None:
    async def notebook(url: str) -> SamplingResult:
        return annotate(url, tmp_path / "a", sums(2))

    with running("friendly") as server:
        assert len(asyncio.run(notebook(server.url)).rationales) == 6


def test_graders_may_be_slow_in_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with running("friendly") as server, RequestCache(tmp_path / "a") as cache:
        prompter = Prompter("zero_shot_cot")
        done = annotate_openai(sums(3), teacher(server.url), prompter, cache, grade=graded, grade_in_threads=True)
    assert [r.verdict for r in done.rationales] == ["correct"] * 9


@pytest.mark.parametrize("profile", ["echo", "echo 500", "echo 400", "drop", "locked"])
def test_key_is_in_no_file_and_no_message(tmp_path: Path, profile: str) -> None:
    """Not in the cache, the export, the log at its chattiest, the output or the error, whatever the server says."""
    script = (
        "import logging, sys; logging.basicConfig(filename=sys.argv.pop(1), level=logging.DEBUG); "
        "from pathlib import Path; import asking; from mentorkd.teachers.cache import export\n"
        "try: asking.main()\n"
        "finally: export(Path(sys.argv[2]), Path(sys.argv[2] + '.jsonl'))"
    )
    run = tmp_path / "run"
    run.mkdir()
    settings = json.dumps({"retries": 0, "samples": 1})
    with running(profile) if profile != "drop" else running("unmetered") as server:
        command = [sys.executable, "-c", script, str(run / "log"), server.url, str(run / "c.sqlite"), "30", settings]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HELPERS), *sys.path])}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert "Traceback" not in done.stderr or profile in ("locked", "echo 500", "echo 400")
    written = {path.name: path.read_bytes() for path in run.iterdir()}
    assert len(written["log"]) > 1000
    assert set(written) >= {"log", "c.sqlite", "c.sqlite.jsonl"}
    seen = b"".join([*written.values(), done.stdout.encode(), done.stderr.encode()])
    assert KEY.encode() not in seen
    assert KEY[3:].encode() not in seen
    if profile == "echo":
        assert b"Bearer [key]" in written["c.sqlite.jsonl"]


@pytest.mark.parametrize("profile", ["echo", "echo 500"])
@pytest.mark.parametrize("key", ["k3y", "ollama"])
def test_short_key_is_in_no_file_and_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, profile: str, key: str
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key)
    with running(profile) as server, RequestCache(tmp_path / "a") as cache, caplog.at_level(logging.INFO, "mentorkd"):
        config = teacher(server.url, samples=1, retries=0)
        done = annotate_openai(sums(3), config, Prompter("zero_shot_cot"), cache, grade=graded)
    export(tmp_path / "a", tmp_path / "b")
    seen = (tmp_path / "b").read_text() + str(done) + caplog.text
    assert key not in seen
    assert "Bearer [key]" in seen


def test_unfit_key_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(TeacherError, match=f"{KEY_VARIABLE} is not set"):
        read_key(KEY_VARIABLE)
    for bad in ("sk-secret\nx", "sk secret", "sk-sécret"):
        monkeypatch.setenv(KEY_VARIABLE, bad)
        with pytest.raises(TeacherError, match="holds no key") as caught:
            read_key(KEY_VARIABLE)
        assert "cret" not in str(caught.value)
    monkeypatch.setenv(KEY_VARIABLE, f" {KEY}\n")
    assert read_key(KEY_VARIABLE) == KEY
    assert read_key(None) is None


def test_given_up_requests_are_logged_without_the_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running("echo 500") as server, caplog.at_level(logging.DEBUG):
        annotation = annotate(server.url, tmp_path / "a", sums(2), retries=0, samples=1)
    assert [(lost.kind, lost.message) for lost in annotation.lost] == [
        ("server_error", 'HTTP 500: {"error": {"message": "Bearer [key]", "code": null}}')
    ] * 2
    assert "gave up a request" in caplog.text
    assert KEY not in caplog.text
