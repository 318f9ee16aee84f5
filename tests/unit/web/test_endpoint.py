"""The OpenAI-compatible endpoint, asked by OpenAI's own client over a real server."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from mentorkd import generation
from mentorkd.data.prompts import render_prompt
from mentorkd.errors import ModelError
from mentorkd.generation.batcher import Batcher, LiveRequest
from mentorkd.generation.engine import SamplingParams
from mentorkd.generation.live import LiveEngine, LiveRow
from mentorkd.generation.transformers_engine import TransformersEngine
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.run import open_run
from mentorkd.teachers.wire import Body, read_body
from mentorkd.web.endpoint import build_endpoint
from mentorkd.web.serving import ServedLearners
from served_run import endpoint_over, make_served_run

openai = pytest.importorskip("openai")

QUESTION = "Tom has 3 apples and buys 4 more. How many apples does he have now?"
LEARNERS = ["t5", "converted", "plain", "chat"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_served_run(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def served(run: Path) -> Iterator[ServedLearners]:
    learners = ServedLearners(run)
    yield learners
    learners.close()


@pytest.fixture(scope="module")
def url(served: ServedLearners) -> Iterator[str]:
    with endpoint_over(served) as base_url:
        yield base_url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=url, api_key="any", max_retries=0, timeout=60) as opened:
        yield opened


def chat(client: Any, question: str = QUESTION, **fields: Any) -> Any:
    return client.chat.completions.create(messages=[{"role": "user", "content": question}], **{"model": "t5", **fields})


def complete(client: Any, prompt: Any = QUESTION, **fields: Any) -> Any:
    return client.completions.create(prompt=prompt, **{"model": "t5", **fields})


def test_models(client: Any) -> None:
    names = [model.id for model in client.models.list()]
    assert names == [
        name for learner in ["t5", "chat", "plain", "converted"] for name in (learner, f"{learner}@seed-2")
    ]
    assert client.models.retrieve("plain@seed-2").id == "plain@seed-2"
    assert client.models.retrieve("plain@seed-1").owned_by == "mentorkd"
    with pytest.raises(
        openai.NotFoundError, match="got the model 'nobody'; expected one of t5, t5@seed-2, chat"
    ) as caught:
        client.models.retrieve("nobody")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("model", LEARNERS)
def test_both_addresses_give_the_text_of_the_learner(client: Any, run: Path, model: str) -> None:
    """Its prompt template is applied, decoding is greedy, and the limit is the learner's own, as in its evaluation."""
    pipeline = open_run(run)
    context, learner = RunContext(pipeline.recipe, pipeline.folder), pipeline.recipe.learners[model]
    engine = context.engine(learner, context.model_folder(model, 1, None))
    [[expected]] = engine.sample(
        [render_prompt(QUESTION, learner.eval_prompt)], SamplingParams(max_new_tokens=24), seed=0
    )
    answered, completed = chat(client, model=model), complete(client, model=model)
    [choice], [text] = answered.choices, completed.choices
    assert choice.message.content == text.text == expected.text
    assert choice.message.role == "assistant"
    assert choice.finish_reason == text.finish_reason == expected.finish_reason
    assert answered.usage == completed.usage
    assert answered.usage.completion_tokens == expected.tokens
    assert answered.usage.total_tokens == answered.usage.prompt_tokens + expected.tokens
    assert answered.model == model


@pytest.mark.parametrize("model", LEARNERS)
def test_the_pieces_of_a_stream_add_up(client: Any, model: str) -> None:
    whole = chat(client, model=model, temperature=1.0, n=2, seed=4)
    chunks = list(
        chat(client, model=model, temperature=1.0, n=2, seed=4, stream=True, stream_options={"include_usage": True})
    )
    *pieces, last = chunks
    assert last.choices == []
    assert last.usage == whole.usage
    for choice in whole.choices:
        own = [piece.choices[0] for piece in pieces if piece.choices[0].index == choice.index]
        assert "".join(piece.delta.content for piece in own) == choice.message.content
        assert [piece.delta.role for piece in own] == ["assistant"] + [None] * (len(own) - 1)
        assert [piece.finish_reason for piece in own] == [None] * (len(own) - 1) + [choice.finish_reason]
        assert len(own) > 2
    assert whole.choices[0].message.content != whole.choices[1].message.content
    streamed = list(complete(client, ["a", "b"], model=model, stream=True))
    texts = ["".join(piece.choices[0].text for piece in streamed if piece.choices[0].index == n) for n in (0, 1)]
    assert texts == [choice.text for choice in complete(client, ["a", "b"], model=model).choices]
    assert all(piece.usage is None for piece in streamed)


@pytest.mark.parametrize("model", LEARNERS)
def test_a_seed_repeats_all_samples_of_all_prompts(client: Any, model: str) -> None:
    def texts(seed: int) -> list[str]:
        reply = complete(client, ["a", "b"], model=model, temperature=1.2, top_p=0.9, n=2, seed=seed, max_tokens=8)
        assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
        return [choice.text for choice in reply.choices]

    first = texts(1)
    assert texts(1) == first != texts(2)
    assert len(set(first)) > 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["t5", "converted"])
def test_a_text_ends_before_a_stop_text(client: Any, model: str, stream: bool) -> None:
    fields: dict[str, Any] = {"model": model, "temperature": 1.0, "seed": 3, "extra_body": {"top_k": 5}}
    whole = complete(client, **fields)
    text = whole.choices[0].text
    stop = text[5:9]
    expected = text[: text.index(stop)]
    reply = complete(client, **fields, stop=[stop, "never to be seen"], stream=stream)
    chunks = list(reply) if stream else [reply]
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "stop"
    if not stream:
        assert reply.usage.completion_tokens < whole.usage.completion_tokens
        assert complete(client, **fields, stop=stop).choices[0].text == expected


@pytest.mark.parametrize("model", LEARNERS)
def test_log_probabilities_in_both_shapes(client: Any, model: str) -> None:
    """Tokens spell the text, and the reader of our own teachers takes them all."""
    fields: dict[str, Any] = {"model": model, "temperature": 1.5, "seed": 5}
    chatted = chat(client, **fields, logprobs=True, top_logprobs=2)
    completed = complete(client, **fields, logprobs=2)
    [choice], [text] = chatted.choices, completed.choices
    content, lists = choice.logprobs.content, text.logprobs
    assert b"".join(bytes(token.bytes) for token in content).decode(errors="replace") == choice.message.content
    assert [token.logprob for token in content] == lists.token_logprobs
    assert len(content) == chatted.usage.completion_tokens
    for token, likeliest in zip(content, lists.top_logprobs, strict=True):
        assert len(token.top_logprobs) == 2
        assert token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob
        assert len(likeliest) in (1, 2, 3)  # the own one is among the two, or the third; tokens can be spelled alike
    for start, spelling in zip(lists.text_offset, lists.tokens, strict=True):
        assert "\ufffd" in text.text or spelling.startswith("bytes:") or text.text[start:].startswith(spelling)
    for reply in (chatted, completed):
        body = read_body(reply.model_dump_json().encode(), logprobs=True)
        assert isinstance(body, Body)
        assert not body.no_logprobs
        assert body.logprobs is not None
    assert chat(client, model=model, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    pieces = list(complete(client, **fields, logprobs=2, stream=True))
    assert [value for piece in pieces for value in piece.choices[0].logprobs.token_logprobs] == lists.token_logprobs
    assert [start for piece in pieces for start in piece.choices[0].logprobs.text_offset] == lists.text_offset


def test_raw_leaves_out_the_template(client: Any) -> None:
    raw = {"raw": True}
    for model in ("t5", "chat"):
        plain = complete(client, "x", model=model).usage.prompt_tokens
        assert complete(client, "x", model=model, extra_body=raw).usage.prompt_tokens < plain
    # The learner's own template is left out of a chat; the model's chat template stays.
    counts = [
        reply.usage.prompt_tokens for reply in (chat(client, "x", model="chat", extra_body=each) for each in (raw, {}))
    ]
    assert complete(client, "x", model="chat", extra_body=raw).usage.prompt_tokens < counts[0] < counts[1]
    assert complete(client, "Solve: x", extra_body=raw).choices[0].text == complete(client, "x").choices[0].text
    separated = complete(client, "x\nAnswer:\n", model="plain", extra_body=raw)
    assert separated.choices[0].text == complete(client, "x", model="plain").choices[0].text


def test_a_chat_of_several_turns_needs_a_chat_template(client: Any) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "y"},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
    ]
    reply = client.chat.completions.create(model="chat", messages=turns)
    written = f"<system>Be brief.<user>x<assistant>y<user>Solve: {QUESTION}<assistant>"
    same = complete(client, written, model="chat", extra_body={"raw": True})
    assert reply.choices[0].message.content == same.choices[0].text
    assert reply.usage == same.usage
    for model in ("t5", "plain"):
        with pytest.raises(openai.BadRequestError, match="got 4 messages; this model has no chat template") as caught:
            client.chat.completions.create(model=model, messages=turns)
        assert caught.value.param == "messages"
    with pytest.raises(openai.BadRequestError, match="the last message is by 'assistant'; expected one by 'user'"):
        client.chat.completions.create(model="chat", messages=turns[:3])


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_completion_tokens": 5000}, "max_tokens", r"5,000 new ones are asked for; expected at most 4,096 each"),
        (
            {"model": "plain", "max_tokens": 1020},
            "max_tokens",
            r"1,020 new ones are asked for; the model has 1,024 positions",
        ),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"temperature": 1e-300}, "temperature", r"should be 0 \(greedy\), or at least 0.001"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"n": 2}, "n", r"n=2 greedy samples, which are equal; set a temperature"),
        ({"n": 1000, "temperature": 1}, "n", "less than or equal to 128"),
        ({"stop": [""]}, "stop", "at least 1 character"),
        ({"top_logprobs": 2}, "top_logprobs", "needs `logprobs: true`"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        (
            {"frequency_penalty": 0.5},
            "frequency_penalty",
            r"got `frequency_penalty`: 0.5, which is not served; leave it out",
        ),
        ({"response_format": {"type": "json_object"}}, "response_format", "not served"),
        ({"extra_body": {"top_q": 1}}, "top_q", "Extra inputs are not permitted"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_wrong_field_is_named(client: Any, fields: dict[str, Any], param: str, message: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        chat(client, **fields, stream=stream)
    assert str(caught.value.param).startswith(param)
    assert caught.value.type == "invalid_request_error"


def test_fields_that_change_nothing_are_taken(client: Any) -> None:
    neutral = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "user": "me",
        "top_p": 1,
        "seed": None,
    }
    assert chat(client, **neutral).choices == chat(client).choices


def test_bodies_that_are_no_request(url: str) -> None:
    def post(content: bytes, path: str = "/chat/completions") -> tuple[int, str]:
        reply = httpx.post(url + path, content=content, timeout=60)
        return reply.status_code, reply.json()["error"]["message"]

    assert post(b"{") == (400, "the body is not JSON")
    assert post(b"[]") == (400, "the body is list; expected an object")
    assert post(b"[" * 100_000) == (400, "the body is not JSON")
    assert post(b"x" * (17 << 20))[0] == 413
    assert post(b"{}", "/embeddings") == (404, "Not Found")
    assert httpx.get(url + "/completions").status_code == 405
    assert post(json.dumps({"model": "t5", "prompt": []}).encode(), "/completions")[0] == 400
    for model in ("plain", "converted"):
        body = json.dumps({"model": model, "prompt": "", "raw": True, "stream": model == "converted"})
        assert post(body.encode(), "/completions") == (400, "the prompt is empty; expected a text")
    halves = (400, "the body has text that is not Unicode; expected UTF-8, and surrogates in pairs")
    assert post(rb'{"model": "t5", "prompt": "\ud800"}', "/completions") == halves
    assert post(b'{"model": "t5", "prompt": "\xff"}', "/completions") == halves
    for ids in ([1, 2], [[1, 2]]):
        body = json.dumps({"model": "t5", "prompt": ids})
        expected = "`prompt`: expected a text or a list of texts; token ids are not served"
        assert post(body.encode(), "/completions") == (400, expected)
    status, message = post(json.dumps({"model": "t5", "prompt": ["x"] * 5000}).encode(), "/completions")
    assert (status, message) == (400, "got 5,000 prompts with n=1; expected at most 4,096 texts of a request")


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_not_found(client: Any, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError, match="got the model 'nobody'") as caught:
        chat(client, model="nobody", stream=stream)
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


def test_top_k_may_be_above_the_vocabulary(client: Any) -> None:
    for model in LEARNERS:
        fields: dict[str, Any] = {"model": model, "temperature": 1.0, "seed": 3}
        expected = complete(client, **fields).choices
        assert complete(client, **fields, extra_body={"top_k": 10**6}).choices == expected


def test_who_hangs_up_in_the_middle_of_a_body_is_no_fault(served: ServedLearners) -> None:
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/v1/completions", "query_string": b""}
    scope["headers"] = [(b"host", b"127.0.0.1")]
    asyncio.run(build_endpoint(served, token=None, host="127.0.0.1", port=0)(scope, receive, send))
    assert sent[0]["status"] == 499


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[LiveRow]:
    """The rows of all requests from now on."""
    rows: list[LiveRow] = []
    begin = Batcher.begin

    def noting(*args: Any, **options: Any) -> LiveRequest:
        request = begin(*args, **options)
        rows.extend(request.rows)
        return request

    monkeypatch.setattr(Batcher, "begin", noting)
    return rows


def test_a_client_that_hangs_up_before_its_first_token_leaves_the_queue(
    url: str, served: ServedLearners, begun: list[LiveRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    served.close()
    monkeypatch.setattr(TransformersEngine, "stream", lambda *_: free.wait())
    asyncio.run(served.load("t5"))
    try:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/completions", json={"model": "t5", "prompt": "x", "stream": True}, timeout=1)
        until(lambda: len(begun) == 1 and begun[0].cancelled)
    finally:
        free.set()
        served.close()


def test_a_prompt_of_1_mb_is_refused_and_others_do_not_wait_for_it(client: Any) -> None:
    long = "Tom has 3 apples. " * 60_000
    with ThreadPoolExecutor() as pool:
        refusal = pool.submit(chat, client, long)
        assert chat(client).choices
        with pytest.raises(
            openai.BadRequestError, match=r"the prompt has [\d,]+ tokens, .* expected at most 4,096 each"
        ):
            refusal.result()


@pytest.mark.parametrize("model", ["t5", "converted"])
def test_100_requests_at_once_each_get_their_own_text(url: str, client: Any, model: str) -> None:
    """Half of them as streams, with different limits and temperatures."""
    questions = [f"What is {number} + {number}?" for number in range(10)]
    expected = [complete(client, question, model=model).choices[0].text for question in questions]

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as asked:

            async def one(number: int) -> str:
                fields: dict[str, Any] = {"model": model, "prompt": questions[number % 10]}
                if number % 3 == 0:
                    fields |= {"temperature": 1.0, "max_tokens": 5 + number % 7}
                if number % 2:
                    pieces = await asked.completions.create(**fields, stream=True)
                    return "".join([piece.choices[0].text async for piece in pieces])
                return str((await asked.completions.create(**fields)).choices[0].text)

            return await asyncio.gather(*map(one, range(100)))

    texts = asyncio.run(ask())
    wrong = [number for number, text in enumerate(texts) if number % 3 and text != expected[number % 10]]
    # Rounding depends on the rows beside, and may decide between two tokens of equal likelihood.
    assert len(wrong) <= 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_ends_its_text(
    url: str, stream: bool, begun: list[LiveRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    push = LiveRow.push

    def without_an_end(row: LiveRow, *token: Any) -> bool:
        """An untrained model may draw the end of its text at any time, and answer before the client hangs up."""
        row.end_ids = ()
        return push(row, *token)

    monkeypatch.setattr(LiveRow, "push", without_an_end)
    fields = {"model": "t5", "prompt": QUESTION, "max_tokens": 4096, "temperature": 1.0, "n": 4, "stream": stream}
    with httpx.Client() as asked:
        request = asked.build_request("POST", f"{url}/completions", json=fields, timeout=5 if stream else 0.3)
        if stream:
            reply = asked.send(request, stream=True)
            next(reply.iter_lines())
            reply.close()
        else:
            with pytest.raises(httpx.ReadTimeout):
                asked.send(request)
    until(lambda: len(begun) == 4 and all(row.ended for row in begun))
    assert max(row.written for row in begun) < 4096


def test_an_engine_that_fails_is_an_error_of_the_server(
    client: Any, served: ServedLearners, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise ModelError("no memory is left")

    served.close()
    monkeypatch.setattr(TransformersEngine, "stream", fail)
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError, match="no memory is left"):
            complete(client, stream=stream)
    monkeypatch.undo()
    served.close()
    assert complete(client).choices


def test_models_that_are_first_asked_at_once_are_loaded_one_by_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loading: list[int] = [0]
    opened = generation.open_engine

    def noting(*args: Any, **options: Any) -> LiveEngine:
        loading.append(loading[-1] + 1)
        try:
            return opened(*args, **options)
        finally:
            loading.append(loading[-1] - 1)

    async def load() -> None:
        await asyncio.gather(*map(learners.load, learners.models()))

    monkeypatch.setattr(generation, "open_engine", noting)
    learners = ServedLearners(run)
    asyncio.run(load())
    learners.close()
    assert (max(loading), len(loading)) == (1, 17)


def test_a_token_is_the_key_of_the_clients(served: ServedLearners) -> None:
    with endpoint_over(served, token="secret") as url:
        with (
            openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as stranger,
            pytest.raises(openai.AuthenticationError),
        ):
            stranger.models.list()
        with openai.OpenAI(base_url=url, api_key="secret", max_retries=0) as friend:
            assert friend.models.list().data
            assert chat(friend).choices


def test_another_host_name_is_refused(url: str) -> None:
    """A page of another site could give its own name this machine's address."""
    assert httpx.get(f"{url}/models", headers={"Host": "evil.example"}).status_code == 421
    assert httpx.post(f"{url}/completions", headers={"Origin": "https://evil.example"}, json={}).status_code == 403


def until(happened: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
