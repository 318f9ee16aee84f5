"""The client at full size: 2,000 questions x 3 samples, kills, money, overhead. Minutes long, so marked slow."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from asking import annotate, sums, teacher, texts
from hostile_server import running
from mentorkd.teachers.annotation import SamplingResult
from mentorkd.teachers.cache import Reply, RequestCache
from mentorkd.teachers.prompting import Prompter
from mentorkd.teachers.wire import build_request
from places import HELPERS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

QUESTIONS = 2000
ROUGH: dict[str, Any] = {"concurrency": 64, "retries": 12, "timeout": 2.0}
A_SECOND = 200


def start(url: str, cache: Path, count: int, **settings: Any) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        str(HELPERS / "asking.py"),
        url,
        str(cache),
        str(count),
        json.dumps(settings),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    with process:
        output = process.communicate(timeout=1500)[0]
    assert process.returncode == 0
    return dict(json.loads(output))


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> SamplingResult:
    """What a friendly server leads to."""
    with running("immediate") as server:
        return annotate(server.url, tmp_path_factory.mktemp("calm") / "c", sums(QUESTIONS), concurrency=64)


def test_hostile_server_at_full_size(tmp_path: Path, calm: SamplingResult) -> None:
    with running("hostile", seed=7) as server:
        rough = annotate(server.url, tmp_path / "c", sums(QUESTIONS), requests_per_minute=60 * A_SECOND, **ROUGH)
        statistics = server.statistics()
    assert texts(rough) == texts(calm)
    assert (len(rough.rationales), rough.lost) == (3 * QUESTIONS, [])
    # Nothing that was delivered was asked for again; filtered prompts are answered by an error, not delivered.
    assert set(statistics["delivered"].values()) == {3}
    assert len(statistics["delivered"]) == QUESTIONS - QUESTIONS // 50
    # Every request is accounted for, and none was repeated more often than allowed.
    faults = sum(count for name, count in rough.traffic.items() if name.startswith("fault_"))
    assert rough.traffic["sent"] == rough.spending.requests == 3 * QUESTIONS + faults
    # Each request that was sent arrived. Only where time ran out may the server, on a busy machine, not have heard of
    # it; but then it is not the server that made time run out.
    unheard = rough.traffic["sent"] - len(statistics["arrivals"])
    assert 0 <= unheard <= rough.traffic.get("fault_timeout", 0) - statistics["stalled"]
    assert max(statistics["attempts"].values()) <= 3 * (1 + ROUGH["retries"])
    assert set(statistics["fates"]) >= {
        "429",
        "429 with wait",
        "500",
        "503",
        "slow",
        "trickle",
        "drop",
        "cut",
        "half json",
        "no choices",
    }
    assert statistics["most_in_flight"] <= 64
    arrivals = statistics["arrivals"]
    # The limit's every second is tested on a clock of its own: a server that had to wait for a processor sees requests of several.
    seconds = arrivals[-1] - arrivals[0]
    print(f"{len(arrivals)} requests in {seconds:.1f} s, at most {A_SECOND} a second")
    assert len(arrivals) <= A_SECOND * (seconds + 1)


def test_five_kills_repeat_no_more_than_was_in_flight(tmp_path: Path, calm: SamplingResult) -> None:
    path, moments = tmp_path / "c", random.Random(5)
    in_flight = 0
    with running("hostile", seed=8) as server:
        for _ in range(5):
            process = start(server.url, path, QUESTIONS, **ROUGH)
            deadline, begun = time.monotonic() + 60, len(server.statistics()["arrivals"])
            while len(server.statistics()["arrivals"]) == begun and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(moments.uniform(0.1, 4.0))
            os.kill(process.pid, signal.SIGKILL)
            with process:
                process.wait()
            with sqlite3.connect(path) as ledger:
                open_now = ledger.execute("SELECT count(*) FROM pending").fetchone()[0] - in_flight
            ledger.close()
            assert 0 <= open_now <= 64
            in_flight += open_now
        assert in_flight > 0
        done = annotate(server.url, path, sums(QUESTIONS), price={"input": 1.0, "output": 2.0}, **ROUGH)
        statistics = server.statistics()
    repeated = sum(statistics["delivered"].values()) - 3 * (QUESTIONS - QUESTIONS // 50)
    print(f"{repeated} repeated, {in_flight} in flight at the kills")
    assert repeated <= in_flight
    assert len(done.rationales) == 3 * QUESTIONS

    def without_way(annotation: SamplingResult) -> Counter[tuple[Any, ...]]:
        # A repeated request gets another way to say the same.
        return Counter((r.question_id, r.predicted, r.verdict, r.meta["outcome"]) for r in annotation.rationales)

    assert without_way(done) == without_way(calm)
    # The ledger counts what was in flight at its worst, so it never says less than was asked.
    assert done.spending.requests >= len(statistics["arrivals"])
    assert done.spending.input_tokens >= statistics["input_tokens"]
    assert done.spending.output_tokens >= statistics["output_tokens"]


def test_ten_cents_are_never_crossed(tmp_path: Path) -> None:
    price = {"input": 0.5, "output": 1.5}
    settings: dict[str, Any] = {"concurrency": 64, "retries": 12, "price": price, "budget": {"dollars": 0.10}}
    with running("unmetered", seed=9) as server:
        first = annotate(server.url, tmp_path / "c", sums(QUESTIONS), **settings)
        statistics = server.statistics()
        charged = (statistics["input_tokens"] * 0.5 + statistics["output_tokens"] * 1.5) / 1e6
        print(f"charged ${charged:.6f}, counted ${first.spending.dollars:.6f} of $0.10")
        assert first.stopped is not None
        assert charged <= first.spending.dollars <= 0.10
        assert first.spending.dollars > 0.099
        again = annotate(server.url, tmp_path / "c", sums(QUESTIONS), **settings)
        assert again.spending.dollars <= 0.10
        assert len(again.rationales) >= len(first.rationales)


def test_overhead(tmp_path: Path) -> None:
    with running("immediate") as server:
        done = finish(start(server.url, tmp_path / "c", QUESTIONS, concurrency=64, plainly=True))
    assert done["traffic"]["sent"] == 3 * QUESTIONS
    print(
        f"{3 * QUESTIONS} requests in {done['seconds']:.1f} s, plainly {done['seconds_plainly']:.1f} s, {done['megabytes']:.0f} MB"
    )
    assert done["seconds"] < 6 * done["seconds_plainly"]
    assert done["megabytes"] < 300


def test_a_hundred_thousand_cached_replies(tmp_path: Path) -> None:
    count = 100_002 // 3
    prompter, url = Prompter("zero_shot_cot", answer_kind="number"), "http://127.0.0.1:9/v1"
    with RequestCache(tmp_path / "c") as cache:
        for question in sums(count):
            request = build_request(teacher(url), prompter.first(question.text), max_tokens=64, temperature=0.7)
            text = f"The sum is {question.answer}.\nTherefore, the answer is {question.answer}."
            kept = [cache.put(request, sample, Reply(text, "stop", 40, 20)) for sample in range(3)]
        kept[-1].result()
    few, done = (finish(start(url, tmp_path / "c", number, concurrency=64)) for number in (count // 10, count))
    print(f"{done['traffic']['cached']:,} cached replies in {done['seconds']:.1f} s, a tenth in {few['seconds']:.1f} s")
    assert (done["traffic"]["cached"], done["account"]["correct"]) == (3 * count, 3 * count)
    assert done["seconds"] < 15 * few["seconds"]
