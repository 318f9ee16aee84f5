"""The request cache: what was paid for stays, whatever happens."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mentorkd.errors import RunError
from mentorkd.teachers.cache import Reply, RequestCache, damage_in_replies, export, open_replies, request_key
from mentorkd.teachers.limits import Spending


def asked(number: int) -> dict[str, Any]:
    return {"endpoint": "http://e/v1", "model": "m", "messages": [{"role": "user", "content": f"é {number}"}], "max": 9}


def reply(number: int) -> Reply:
    return Reply(f"réponse {number}", "stop", 10, number)


def test_cache_finds_a_reply_by_its_request(tmp_path: Path) -> None:
    with RequestCache(tmp_path / "sub" / "requests.sqlite") as cache:
        cache.put(asked(1), 0, reply(1)).result()
        shuffled = dict(reversed(asked(1).items()))
        assert cache.get(request_key(shuffled), 0) == reply(1)
        assert cache.get(request_key(asked(1)), 1) is None
        assert cache.get(request_key({**asked(1), "model": "n"}), 0) is None
    with RequestCache(tmp_path / "sub" / "requests.sqlite") as cache:
        assert cache.get(request_key(asked(1)), 0) == reply(1)
        assert len(cache) == 1
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["requests.sqlite"]


def test_cache_keeps_the_first_reply_to_a_sample(tmp_path: Path) -> None:
    with RequestCache(tmp_path / "c") as cache:
        cache.put(asked(1), 0, reply(1)).result()
        cache.put(asked(1), 0, reply(2)).result()
        assert cache.get(request_key(asked(1)), 0) == reply(1)


def test_ledger_counts_open_requests_at_their_worst_cost(tmp_path: Path) -> None:
    worst = Spending(1, 100, 50, 900)
    with RequestCache(tmp_path / "c", account="a") as cache:
        first, second, third = (cache.open(worst).result() for _ in range(3))
        cache.settle(first, Spending(1, 80, 20, 500), (asked(1), 0, reply(1))).result()
        cache.settle(second, Spending()).result()
        assert third not in (first, second)
        assert cache.spending() == Spending(2, 180, 70, 1400, 900)
        assert cache.get(request_key(asked(1)), 0) == reply(1)
    with RequestCache(tmp_path / "c", account="b") as cache:
        assert cache.spending() == Spending()


def test_faults_are_counted_over_runs_also_in_caches_of_earlier_versions(tmp_path: Path) -> None:
    with RequestCache(tmp_path / "a.sqlite") as cache:
        assert cache.faults() == {}  # the table is not there, as in a cache of an earlier version
        for kind in ("malformed", "timeout", "malformed"):
            cache.settle(cache.open(Spending(1)).result(), Spending(1), fault=kind).result()
    with RequestCache(tmp_path / "a.sqlite") as cache:
        cache.settle(cache.open(Spending(1)).result(), Spending(1), fault="timeout").result()
        assert cache.faults() == {"malformed": 2, "timeout": 2}
    with RequestCache(tmp_path / "a.sqlite", account="another recipe") as cache:
        assert cache.faults() == {}


def test_cache_knows_the_most_tokens_that_a_model_reported(tmp_path: Path) -> None:
    def asked(endpoint: str, model: str, n: int) -> dict[str, Any]:
        return {"endpoint": endpoint, "body": {"model": model, "n": n}}

    with RequestCache(tmp_path / "a.sqlite") as cache:
        assert cache.most_tokens("e", "m") == (0, 0)
        for n, (endpoint, model, reply) in enumerate(
            [
                ("e", "m", Reply("", "stop", 50, 4)),
                ("e", "m", Reply("", "stop", 9, 70)),
                ("e", "m", Reply("", "stop", 900, 900, estimated=True)),
                ("e", "n", Reply("", "stop", 800, 800)),
                ("f", "m", Reply("", "stop", 800, 800)),
            ]
        ):
            cache.put(asked(endpoint, model, n), 0, reply).result()
        assert cache.most_tokens("e", "m") == (50, 70)
        with sqlite3.connect(cache.path) as damaged:
            damaged.execute("UPDATE replies SET body = '{' WHERE json_extract(body, '$.output_tokens') = 70")
        damaged.close()
        assert cache.most_tokens("e", "m") == (50, 4)


def test_cache_is_shared_by_threads(tmp_path: Path) -> None:
    others = threading.active_count()
    with RequestCache(tmp_path / "c") as cache, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: cache.put(asked(n), 0, reply(n)).result(), range(400)))
        assert list(pool.map(lambda n: cache.get(request_key(asked(n)), 0), range(400))) == list(map(reply, range(400)))
        assert threading.active_count() <= others + 8 + 1  # the pool's, and one that writes


_WRITER = """
import sys
from pathlib import Path
from mentorkd.teachers.cache import Reply, RequestCache
from mentorkd.teachers.limits import Spending
start = int(sys.argv[2])
with RequestCache(Path(sys.argv[1])) as cache:
    for number in range(start, start + int(sys.argv[3])):
        pending = cache.open(Spending(1, 10, 10, 10)).result()
        kept = ({"n": number}, 0, Reply(str(number), "stop", 1, 1))
        cache.settle(pending, Spending(1, 1, 1, 1), kept).result()
        print(number, flush=True)
"""


def writer(path: Path, start: int, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, path, str(start), str(count)], stdout=subprocess.PIPE, text=True
    )


def test_cache_is_shared_by_processes(tmp_path: Path) -> None:
    path = tmp_path / "c"
    processes = [writer(path, start, 50) for start in (0, 50, 100)]
    assert [process.communicate(timeout=60) and process.returncode for process in processes] == [0, 0, 0]
    with RequestCache(path) as cache:
        assert len(cache) == 150
        assert cache.spending() == Spending(150, 150, 150, 150, 0)


def test_cache_that_another_process_creates_meanwhile_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, link = tmp_path / "c", os.link

    def fill() -> None:
        with RequestCache(path) as first:
            first.put(asked(1), 0, reply(1)).result()

    def second(source: Path, target: Path) -> None:
        monkeypatch.undo()
        other = threading.Thread(target=fill)
        other.start()
        other.join()
        link(source, target)

    monkeypatch.setattr(os, "link", second)
    with RequestCache(path) as cache:
        assert len(cache) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


def test_cache_is_created_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with RequestCache(tmp_path / "c") as cache:
        cache.put(asked(1), 0, reply(1)).result()
    with RequestCache(tmp_path / "c") as cache:
        assert len(cache) == 1


def test_cache_that_shrank_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c").touch()
    with pytest.raises(RunError, match="is empty \\(0 bytes\\), so paid replies may be lost; put a copy back"):
        RequestCache(tmp_path / "c")
    assert (tmp_path / "c").stat().st_size == 0


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 5000])
def test_commands_that_read_leave_a_file_that_is_no_cache_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(RunError):
        export(tmp_path / "c", tmp_path / "out.jsonl")
    with RequestCache(tmp_path / "into") as cache, pytest.raises(RunError):
        cache.merge(tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {"c", "into"}


def test_export_leaves_the_cache_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a b#1").mkdir()
    path = tmp_path / "a b#1" / "c"
    with RequestCache(path) as cache:
        cache.put(asked(1), 0, reply(1)).result()
        assert export(path, tmp_path / "while-open.jsonl") == 1
    before = path.read_bytes()
    assert export(path, tmp_path / "out.jsonl") == 1
    with open_replies(path) as look_up:
        assert look_up(request_key(asked(1)), 0) == reply(1)
        assert look_up(request_key(asked(1)), 1) is None
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["c"]


DAMAGE = {
    "cut": "UPDATE replies SET body = substr(body, 1, 20) WHERE key = ?",
    "edited": "UPDATE replies SET body = replace(body, 'réponse', 'response') WHERE key = ?",
    "no text": "UPDATE replies SET body = CAST(x'80ff' AS TEXT) WHERE key = ?",
    "not an object": "UPDATE replies SET body = '[]' WHERE key = ?",
}


@pytest.mark.parametrize("damage", [*DAMAGE, "request"])
def test_a_damaged_row_costs_that_row_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    path, key = tmp_path / "c", request_key(asked(2))
    with RequestCache(path) as cache:
        for number in range(4):
            cache.put(asked(number), 0, reply(number)).result()
    with closing(sqlite3.connect(path)) as vandal:
        vandal.execute(DAMAGE.get(damage, "UPDATE requests SET body = '{}' WHERE key = ?"), (key,))
        vandal.commit()
    name = f"{key[:12]} (sample 0)"

    assert f"has a row with a damaged request or reply ({name})" in (damage_in_replies(path) or "")
    assert not caplog.records
    assert export(path, tmp_path / "out.jsonl") == 3
    with RequestCache(tmp_path / "other") as other:
        assert other.merge(path) == 3
    assert [name in message for message in caplog.messages] == [True, True]
    caplog.clear()

    with RequestCache(path) as cache:
        if damage != "request":
            assert cache.get(key, 0) is None
            assert cache.get(key, 0) is None
            assert [name in message for message in caplog.messages] == [True]
        assert cache.get(request_key(asked(3)), 0) == reply(3)
        cache.put(asked(2), 0, reply(2)).result()
        assert cache.get(key, 0) == reply(2)
    assert export(path, tmp_path / "out.jsonl") == 4
    assert damage_in_replies(path) is None


def test_merging_replaces_a_damaged_row(tmp_path: Path) -> None:
    with RequestCache(tmp_path / "a") as a, RequestCache(tmp_path / "b") as b:
        a.put(asked(1), 0, reply(1)).result()
        b.put(asked(1), 0, reply(5)).result()
        with closing(sqlite3.connect(tmp_path / "a")) as vandal:
            vandal.execute("UPDATE replies SET body = 'x'")
            vandal.commit()
        assert a.merge(tmp_path / "b") == 1
        assert a.get(request_key(asked(1)), 0) == reply(5)


def test_replies_of_earlier_versions_are_read(tmp_path: Path) -> None:
    with RequestCache(tmp_path / "c") as cache:
        cache.put(asked(1), 0, reply(1)).result()
        with closing(sqlite3.connect(tmp_path / "c")) as old:
            [[body]] = old.execute("SELECT body FROM replies").fetchall()
            fields = json.loads(body)
            del fields["digest"]
            old.execute("UPDATE replies SET body = ?", (json.dumps(fields),))
            old.commit()
        assert cache.get(request_key(asked(1)), 0) == reply(1)


def test_one_process_asks_at_a_time_and_a_killed_one_holds_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "c"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom mentorkd.teachers.cache import RequestCache\n"
        "with RequestCache(Path(sys.argv[1])) as cache, cache.asking():\n    print('in', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        waited = []

        def heard() -> None:
            waited.append(True)
            other.kill()

        with RequestCache(path) as cache:
            cache.put(asked(1), 0, reply(1)).result()  # to read and to keep needs no turn
            with cache.asking(heard):
                assert waited == [True]
            with cache.asking(heard):
                assert waited == [True]


def test_confirmed_writes_survive_a_kill(tmp_path: Path) -> None:
    path, lines = tmp_path / "c", []
    for start in range(0, 3_000_000, 1_000_000):
        with writer(path, start, 1_000_000) as process:
            assert process.stdout is not None
            lines += [process.stdout.readline() for _ in range(20)]
            time.sleep(0.05)
            os.kill(process.pid, signal.SIGKILL)
            lines += process.stdout.readlines()
    numbers = [int(line) for line in lines if line.endswith("\n")]
    with RequestCache(path) as cache:
        assert len(numbers) >= 60
        assert all(cache.get(request_key({"n": number}), 0) == Reply(str(number), "stop", 1, 1) for number in numbers)
        spending = cache.spending()
        # At most one request of each killed process was open, and it counts at its worst.
        assert spending.unsure_picodollars in (0, 10, 20, 30)
        assert spending.requests == len(cache) + spending.unsure_picodollars // 10


def test_caches_merge_and_export(tmp_path: Path) -> None:
    with RequestCache(tmp_path / "a") as a, RequestCache(tmp_path / "b") as b:
        for number in range(5):
            a.put(asked(number), 0, reply(number)).result()
        for number in range(3, 9):
            b.put(asked(number), 0, reply(number + 100)).result()
        assert a.merge(tmp_path / "b") == 4
        assert a.merge(tmp_path / "b") == 0
        assert a.get(request_key(asked(4)), 0) == reply(4)
        assert a.get(request_key(asked(8)), 0) == reply(108)
        assert export(tmp_path / "a", tmp_path / "out.jsonl") == 9
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert all(request_key(row["request"]) == row["key"] for row in rows)
    assert sorted(row["reply"]["text"] for row in rows)[-1] == "réponse 4"
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_file_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database at all, but long enough to look at" * 100)
    with pytest.raises(RunError, match="not a request cache, or a damaged one"):
        RequestCache(tmp_path / "text")
    assert (damage_in_replies(tmp_path / "text") or "").startswith("not a request cache, or a damaged one")
    with sqlite3.connect(tmp_path / "other") as other:
        other.execute("CREATE TABLE t (a)")
    other.close()
    with pytest.raises(RunError, match="a SQLite file, but no request cache"):
        RequestCache(tmp_path / "other")
    with RequestCache(tmp_path / "c") as cache:
        with pytest.raises(RunError, match="no such cache file"):
            cache.merge(tmp_path / "missing")
        with pytest.raises(RunError, match="a SQLite file, but no request cache"):
            cache.merge(tmp_path / "other")
    with sqlite3.connect(tmp_path / "c") as newer:
        newer.execute("PRAGMA user_version = 9")
    newer.close()
    with pytest.raises(RunError, match="of version 9, expected 1"):
        RequestCache(tmp_path / "c")


def test_failed_write_reaches_every_waiting_task(tmp_path: Path) -> None:
    with RequestCache(tmp_path / "c") as cache:
        with sqlite3.connect(tmp_path / "c") as vandal:
            vandal.execute("DROP TABLE replies")
        vandal.close()
        with pytest.raises(RunError, match="cannot be used"):
            cache.put(asked(1), 0, reply(1)).result()
        with pytest.raises(RunError, match="cannot be used"):
            cache.get("k", 0)
    with pytest.raises(RunError, match="was closed"):
        cache.put(asked(1), 0, reply(1))


def test_a_hundred_thousand_replies_are_read_again_quickly(tmp_path: Path) -> None:
    """10,000 here; the whole in test_load.py."""
    with RequestCache(tmp_path / "c") as cache:
        done = [cache.put(asked(number), 0, reply(number)) for number in range(10_000)]
        done[-1].result()
        keys = [request_key(asked(number)) for number in range(10_000)]
        began = time.perf_counter()
        assert all(cache.get(key, 0) is not None for key in keys)
        assert time.perf_counter() - began < 2.0
