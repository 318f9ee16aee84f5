"""One engine for several clients."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from mentorkd.data.encoding import encode_prompt
from mentorkd.errors import ModelError
from mentorkd.generation import batcher
from mentorkd.generation.batcher import Batcher, LiveRequest, OverloadedError
from mentorkd.generation.engine import SamplingParams
from mentorkd.generation.live import Take, Token
from mentorkd.generation.sampling import completion
from mentorkd.generation.transformers_engine import TransformersEngine
from tiny_families import PROMPTS
from tiny_models import tiny_t5, tiny_tokenizer

PARAMS = SamplingParams(max_new_tokens=12)
LONG = SamplingParams(max_new_tokens=100_000)


class Engine(TransformersEngine):
    """The real engine, which notes how many rows it writes together, and fails if it is told to."""

    failing: type[Exception] | None = None

    def stream(self, take: Take) -> None:
        self.most = 0

        def noting(live: int) -> list[Any]:
            rows = take(live)
            self.most = max(self.most, live + len(rows))
            self.joined = [len(rows)] if not live else [*self.joined, len(rows)]
            if self.failing and rows:
                raise self.failing("no more memory for this")
            return rows

        super().stream(noting)


@pytest.fixture(scope="module")
def engine() -> Engine:
    tokenizer = tiny_tokenizer()
    model = tiny_t5(tokenizer)
    model.generation_config.eos_token_id = 1
    return Engine(model, tokenizer, "seq2seq", batch_size=16)


@pytest.fixture
def running(engine: Engine) -> Iterator[Batcher]:
    engine.failing = None
    started = Batcher(engine)
    yield started
    started.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "transformers engine"]


def ids(engine: Engine, prompt: str) -> list[int]:
    return encode_prompt(engine.tokenizer, engine.kind, prompt)


async def whole(request: LiveRequest) -> list[list[Token]]:
    """All tokens of a request's texts."""
    texts: list[list[Token]] = [[] for _ in request.rows]
    try:
        while not all(text and text[-1].finish_reason for text in texts):
            for sample, token in await request.tokens():
                texts[sample].append(token)
    finally:
        request.close()
    return texts


def test_clients_are_written_together_each_its_own_text(engine: Engine, running: Batcher) -> None:
    """More clients than a batch has room for, some with several samples, some that want all at once."""

    async def ask() -> list[list[list[Token]]]:
        requests = [
            whole(running.begin(ids(engine, prompt), PARAMS, at_once=number % 2 == 0))
            for number, prompt in enumerate(PROMPTS * 3)
        ]
        several = replace(PARAMS, n=3, temperature=1.0)
        return await asyncio.gather(*requests, whole(running.begin(ids(engine, PROMPTS[0]), several, seed=3)))

    *texts, samples = asyncio.run(ask())
    expected = engine.sample(PROMPTS, PARAMS, seed=0)
    for number, [tokens] in enumerate(texts):
        written = completion([token.id for token in tokens], engine.tokenizer, engine.end_ids)
        assert [written] == expected[number % len(PROMPTS)]
    assert len({tuple(token.id for token in text) for text in samples}) == 3
    assert engine.most == engine.batch_size


def test_a_row_joins_texts_that_are_being_written(engine: Engine, running: Batcher) -> None:
    async def ask() -> None:
        long = running.begin(ids(engine, PROMPTS[0]), LONG)
        await long.tokens()
        await whole(running.begin(ids(engine, PROMPTS[1]), PARAMS))
        assert not long.rows[0].ended
        long.close()

    asyncio.run(ask())


def test_who_hangs_up_costs_nothing_more(engine: Engine, running: Batcher) -> None:
    async def ask() -> LiveRequest:
        request = running.begin(ids(engine, PROMPTS[0]), LONG)
        task = asyncio.create_task(whole(request))
        while not request.rows[0].written:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return request

    request = asyncio.run(ask())
    until(lambda: request.rows[0].ended)
    written = request.rows[0].written
    time.sleep(0.05)
    assert request.rows[0].written == written < LONG.max_new_tokens


def test_one_text_of_several_can_end(engine: Engine, running: Batcher) -> None:
    async def ask() -> LiveRequest:
        request = running.begin(ids(engine, PROMPTS[0]), replace(LONG, n=2, temperature=1.0), seed=5)
        await request.tokens()
        request.cancel(0)
        while not request.rows[0].ended:
            await request.tokens()
        await request.tokens()
        assert not request.rows[1].ended
        request.close()
        return request

    request = asyncio.run(ask())
    until(lambda: request.rows[1].ended)


def test_texts_beyond_those_that_may_wait_are_refused(engine: Engine) -> None:
    """A text that was waiting and is given up makes room."""

    async def ask() -> None:
        running = Batcher(engine, most_waiting=4)
        requests = []
        for _ in range(engine.batch_size // 4):
            requests.append(running.begin(ids(engine, PROMPTS[0]), replace(LONG, n=4, temperature=1.0)))
            while not all(row.written for row in requests[-1].rows):
                await asyncio.sleep(0.001)
        waiting = [running.begin(ids(engine, PROMPTS[0]), LONG) for _ in range(4)]
        with pytest.raises(OverloadedError, match=r"4 texts wait already, of at most 4; ask again later"):
            running.begin(ids(engine, PROMPTS[0]), LONG)
        waiting.pop().close()
        waiting.append(running.begin(ids(engine, PROMPTS[0]), LONG))
        for request in [*requests, *waiting]:
            request.close()
        running.close()

    engine.failing = None
    asyncio.run(ask())


@pytest.mark.parametrize(
    ("error", "message"),
    [(ModelError, "no more memory for this"), (ZeroDivisionError, "the transformers engine failed")],
)
def test_an_engine_that_fails_tells_its_clients_and_goes_on(
    engine: Engine, running: Batcher, error: type[Exception], message: str
) -> None:
    async def ask() -> None:
        engine.failing = error
        with pytest.raises(ModelError, match=message):
            await whole(running.begin(ids(engine, PROMPTS[0]), PARAMS))
        engine.failing = None
        await whole(running.begin(ids(engine, PROMPTS[0]), PARAMS))

    asyncio.run(ask())


def test_closing_ends_what_is_written_and_what_waits(engine: Engine) -> None:
    async def ask() -> None:
        engine.failing = None
        running = Batcher(engine)
        tasks = [
            asyncio.create_task(whole(running.begin(ids(engine, PROMPTS[0]), LONG)))
            for _ in range(engine.batch_size + 2)
        ]
        await asyncio.sleep(0.1)
        await asyncio.to_thread(running.close)
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, ModelError)
            assert str(outcome) == "the model is no longer served"
        with pytest.raises(ModelError, match="no longer served"):
            running.begin(ids(engine, PROMPTS[0]), PARAMS)

    asyncio.run(ask())


def test_long_prompts_are_not_read_together(engine: Engine, running: Batcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention needs memory by the square of the longest."""
    monkeypatch.setattr(batcher, "MOST_ATTENTION", 2 * 30**2)

    async def ask(lengths: Sequence[int]) -> None:
        await asyncio.gather(*(whole(running.begin([5] * length, PARAMS)) for length in lengths))

    asyncio.run(ask([30, 30, 30, 40, 10]))
    assert max(engine.joined) == 2
    asyncio.run(ask([10] * 10))
    assert engine.most == 10


def until(happened: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)
