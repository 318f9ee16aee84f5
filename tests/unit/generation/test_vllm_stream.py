"""How live rows pass through vLLM's own queue. Its place is taken by a stand-in with the same calls, since it needs a GPU."""

from __future__ import annotations

import itertools
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from live_rows import Written, write
from mentorkd.generation.engine import SamplingParams
from mentorkd.generation.vllm_engine import VllmEngine


class Queue:
    """vLLM's `LLMEngine`: each step adds a token to every request, and outputs hold all tokens so far. A request writes 10, 11, ..."""

    def __init__(self) -> None:
        self.requests: dict[str, Any] = {}
        self.settings: list[Any] = []
        self.aborted: list[str] = []
        self.failing = False

    def add_request(self, name: str, prompt: Any, settings: Any) -> None:
        assert name not in self.requests
        self.settings.append(settings)
        self.requests[name] = SimpleNamespace(
            start=prompt["prompt_token_ids"][0], settings=settings, ids=[], logprobs=[]
        )

    def abort_request(self, names: list[str]) -> None:
        self.aborted += names
        for name in names:
            self.requests.pop(name, None)

    def step(self) -> list[Any]:
        if self.failing:
            raise RuntimeError("no memory is left")
        outputs = []
        for name, request in list(self.requests.items()):
            token = request.start + len(request.ids)
            request.ids.append(token)
            request.logprobs.append({7: SimpleNamespace(logprob=-0.5), token: SimpleNamespace(logprob=-2.0)})
            settings = request.settings
            finished = token in settings.stop_token_ids or len(request.ids) == settings.max_tokens
            logprobs = None if settings.logprobs is None else request.logprobs
            sample = SimpleNamespace(token_ids=list(request.ids), logprobs=logprobs)
            outputs.append(SimpleNamespace(request_id=name, outputs=[sample], finished=finished))
            if finished:
                del self.requests[name]
        return outputs


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=SimpleNamespace))
    opened: Any = VllmEngine.__new__(VllmEngine)
    opened.llm, opened.end_ids, opened._numbers = SimpleNamespace(llm_engine=Queue()), [14], itertools.count()
    return opened


@pytest.mark.parametrize("every", [0, 3])
def test_rows_get_their_tokens_and_end(engine: Any, every: int) -> None:
    greedy, hot = (
        SamplingParams(max_new_tokens=3),
        SamplingParams(max_new_tokens=9, temperature=0.5, top_p=0.9, top_k=4),
    )
    rows = [
        Written(engine, [20], greedy),
        Written(engine, [10], hot, likeliest=1, seed=3),
        Written(engine, [30], hot),
    ]
    rows[2].cancel_after = 2
    write(engine, rows, every=every)
    assert [row.ids for row in rows] == [[20, 21, 22], [10, 11, 12, 13, 14], [30, 31]]
    assert [row.tokens[-1].finish_reason for row in rows] == ["length", "stop", None]
    assert [(token.logprob, token.likeliest) for token in rows[1].tokens] == [(-2.0, [(7, -0.5)])] * 5
    queue = engine.llm.llm_engine
    assert len(queue.aborted) == 1
    assert not queue.requests
    first, second, third = queue.settings
    assert (first.temperature, first.logprobs, first.seed) == (0.0, None, None)
    assert (second.temperature, second.top_p, second.top_k, second.logprobs) == (0.5, 0.9, 4, 1)
    assert second.seed == rows[1].row.own_seed
    assert third.seed is None


def test_an_error_leaves_no_requests_behind(engine: Any) -> None:
    queue, params = engine.llm.llm_engine, SamplingParams(max_new_tokens=3)
    queue.failing = True
    with pytest.raises(RuntimeError, match="no memory is left"):
        write(engine, [Written(engine, [20], params), Written(engine, [30], params)])
    assert not queue.requests
    queue.failing = False
    row = Written(engine, [10], params)
    write(engine, [row])
    assert row.ids == [10, 11, 12]
    assert queue.aborted == ["0", "1"]
