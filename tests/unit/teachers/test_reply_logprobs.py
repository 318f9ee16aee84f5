"""Log-probabilities in replies: the shapes of endpoints, and how they spell half a character."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mentorkd.data.token_logprobs import TokenLogprobs
from mentorkd.teachers.reply_logprobs import reply_logprobs
from mentorkd.teachers.wire import Body, read_body

Tokens = list[tuple[bytes, float]]


def openai_chat(tokens: Tokens) -> dict[str, Any]:
    entries = [{"token": t.decode(errors="backslashreplace"), "bytes": list(t), "logprob": v} for t, v in tokens]
    return {"content": [entry | {"top_logprobs": []} for entry in entries], "refusal": None}


def openai_completions(tokens: Tokens) -> dict[str, Any]:
    def spell(token: bytes) -> str:
        try:
            return token.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(chr(byte) if byte < 128 else f"\\x{byte:02x}" for byte in token)

    return {"tokens": [spell(t) for t, _ in tokens], "token_logprobs": [v for _, v in tokens], "text_offset": [0]}


def vllm(tokens: Tokens) -> dict[str, Any]:
    """A token that leaves a character open is empty, and the next one spells what is whole."""
    spelled, waiting = [], b""
    for token, value in tokens:
        waiting += token
        try:
            text, waiting = waiting.decode(), b""
        except UnicodeDecodeError:
            text = ""
        spelled.append((text, value))
    return {"tokens": [text for text, _ in spelled], "token_logprobs": [value for _, value in spelled]}


def replacing(tokens: Tokens) -> dict[str, Any]:
    spelled = [(t.decode(errors="replace"), v) for t, v in tokens]
    return {"content": [{"token": t, "bytes": list(t.encode()), "logprob": v} for t, v in spelled]}


def sglang(tokens: Tokens) -> dict[str, Any]:
    def spell(token: bytes) -> str:
        try:
            return token.decode()
        except UnicodeDecodeError:
            return token.decode("latin-1")

    return {"tokens": [spell(t) for t, _ in tokens], "token_logprobs": [v for _, v in tokens]}


SHAPES = [openai_chat, openai_completions, vllm, replacing, sglang]
APPLE = "🍎".encode()
SPLIT: Tokens = [
    (b"An", -1.0),
    (b" " + APPLE[:2], -2.0),
    (APPLE[2:3], -4.0),
    (APPLE[3:], -8.0),
    (b" is", -16.0),
    ("é".encode(), -32.0),
    (b".", -64.0),
]


def read(logprobs: Any, text: str, written: int | None = None) -> list[tuple[bytes, float | None]]:
    read = reply_logprobs({"logprobs": logprobs}, text, written)
    return [(text.encode()[a:b], value) for a, b, value in read.spans()]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_character_that_tokens_split_keeps_all_their_values(shape: Any) -> None:
    pieces = read(shape(SPLIT), "An 🍎 isé.", written=len(SPLIT))
    assert b"".join(piece for piece, _ in pieces).decode() == "An 🍎 isé."
    assert sum(value or math.nan for _, value in pieces) == -127.0
    assert pieces[0] == (b"An", -1.0)
    assert pieces[-3:] == [(b" is", -16.0), ("é".encode(), -32.0), (b".", -64.0)]
    if shape in (openai_chat, openai_completions):
        assert pieces == SPLIT
    else:
        assert (" 🍎".encode(), -14.0) in pieces


def test_a_character_of_which_llama_cpp_tells_the_last_token_alone_is_not_known() -> None:
    tokens: Tokens = [(b"An ", -1.0), (APPLE, -8.0), (b".", -2.0), (b"", -0.5)]
    assert read(openai_chat(tokens), "An 🍎.", written=6) == [(b"An ", -1.0), (APPLE, None), (b".", -2.0)]
    assert read(openai_chat(tokens), "An 🍎.", written=4) == tokens[:3]
    # Reasoning counts as written; an endpoint that tells halves of characters tells all of them.
    assert read(openai_chat(SPLIT), "An 🍎 isé.", written=900) == SPLIT


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_may_hold_more_than_the_reply_or_less(shape: Any) -> None:
    tokens: Tokens = [(b"so 5?", -1.0), (b"</think>\n", -2.0), (b" 5", -4.0), (b".\n", -8.0), (b"<end>", -16.0)]
    assert read(shape(tokens), "5.") == [(b"5", -4.0), (b".", -8.0)]
    assert read(shape(tokens[2:]), " 5.\n") == tokens[2:4]
    assert read(shape(tokens[2:4]), " 5.\nQ: and more") == tokens[2:4]


def test_a_token_that_reaches_out_of_the_reply_has_a_value_only_if_whitespace_is_outside() -> None:
    tokens: Tokens = [(b"so</think>5", -1.0), (b" +", -2.0), (b" 6\nQ:", -4.0)]
    assert read(openai_chat(tokens), "5 + 6") == [(b"5", None), (b" +", -2.0), (b" 6", None)]


@pytest.mark.parametrize("text", ["Ãn 🍎", "An 🍎 is x.", "It is 5.", "An 🍎 isé. And more"])
@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_of_another_text_are_told(shape: Any, text: str) -> None:
    if text.startswith("An 🍎 isé."):
        assert read(shape(SPLIT), text)[-1] == (b".", -64.0)
        return
    with pytest.raises(ValueError, match="the tokens of its `logprobs` spell another text"):
        read(shape(SPLIT), text)


@pytest.mark.parametrize(
    ("logprobs", "said"),
    [
        (None, "it has no `logprobs`"),
        ([], "neither `content` nor `tokens`"),
        ("x", "neither `content` nor `tokens`"),
        ({}, "neither `content` nor `tokens`"),
        ({"content": None}, "neither `content` nor `tokens`"),
        ({"content": []}, "neither `content` nor `tokens`"),
        ({"content": [{"token": "a", "prob": 0.5}]}, "has no `logprob`"),
        ({"content": ["a"]}, "has no `logprob`"),
        ({"content": [{"token": None, "logprob": -1}]}, "neither text nor bytes"),
        ({"content": [{"token": "a", "bytes": [300], "logprob": -1}]}, "neither text nor bytes"),
        ({"content": [{"token": "a", "bytes": "a", "logprob": -1}]}, "neither text nor bytes"),
        ({"content": [{"token": "a", "logprob": "-1"}]}, "got the log-probability '-1'"),
        ({"content": [{"token": "a", "logprob": 3}]}, "got the log-probability '3'"),
        ({"tokens": ["a"], "token_logprobs": []}, "neither `content` nor `tokens`"),
        ({"tokens": ["a"], "token_logprobs": {"a": -1}}, "neither `content` nor `tokens`"),
        ({"tokens": [97], "token_logprobs": [-1]}, "neither text nor bytes"),
        ({"tokens": ["token_id:97"], "token_logprobs": [-1]}, "spell another text"),
    ],
)
def test_malformed_log_probabilities_are_told_and_the_reply_is_kept(logprobs: Any, said: str) -> None:
    choice = {"message": {"content": "a"}, "finish_reason": "stop", "logprobs": logprobs}
    body = read_body(json.dumps({"choices": [choice], "usage": {"completion_tokens": 1}}).encode(), logprobs=True)
    assert isinstance(body, Body)
    assert (body.text, body.logprobs) == ("a", None)
    assert said in body.no_logprobs


def test_log_probabilities_are_read_only_where_they_were_asked_for() -> None:
    choice = {"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [-1.0]}}
    content = json.dumps({"choices": [choice]}).encode()
    asked, unasked = read_body(content, logprobs=True), read_body(content)
    assert isinstance(asked, Body)
    assert isinstance(unasked, Body)
    assert asked.logprobs == TokenLogprobs((1,), (-1.0,))
    assert (unasked.logprobs, unasked.no_logprobs) == (None, "")
    for empty in ({"text": "", "logprobs": None}, {"message": {"content": None, "refusal": "no"}}):
        body = read_body(json.dumps({"choices": [empty]}).encode(), logprobs=True)
        assert isinstance(body, Body)
        assert (body.logprobs, body.no_logprobs) == (None, "")


@given(st.text(st.sampled_from("ab .\n\\äé🍎中"), min_size=1, max_size=20), st.lists(st.integers(1, 6), max_size=40))
def test_every_shape_gives_pieces_of_the_reply_in_order_with_all_values(text: str, lengths: list[int]) -> None:
    raw, tokens, at = text.encode(), [], 0
    for length in [*lengths, len(raw)]:
        if raw[at : at + length]:
            tokens.append((raw[at : at + length], -1.0))
            at += length
    for shape in SHAPES:
        pieces = read(shape(tokens), text)
        assert b"".join(piece for piece, _ in pieces) == raw, shape
        assert sum(value or math.nan for _, value in pieces) == -len(tokens), shape


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["content", "tokens", "token_logprobs", "token", "bytes", "logprob"]), inner
            )
        ),
    )
)
def test_nothing_that_an_endpoint_writes_is_a_traceback(logprobs: Any) -> None:
    with contextlib.suppress(ValueError):
        reply_logprobs({"logprobs": logprobs}, "abc", None)
