"""The wire format: what is asked, what replies and errors mean."""

from __future__ import annotations

import json
import re
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mentorkd.recipe.teacher import OpenAITeacherConfig
from mentorkd.teachers.cache import request_key
from mentorkd.teachers.wire import (
    Body,
    Fault,
    build_request,
    causes,
    classify_status,
    most_tokens,
    read_body,
    retry_after,
    same_model,
    scrubber,
)


def chat(**choice: Any) -> bytes:
    usage = {"prompt_tokens": 5, "completion_tokens": 7}
    return json.dumps({"model": "m", "choices": [{"finish_reason": "stop", **choice}], "usage": usage}).encode()


def request(**settings: Any) -> dict[str, Any]:
    return build_request(OpenAITeacherConfig(**{"model": "m", **settings}), "Ask", max_tokens=9, temperature=0.7)


def test_requests_of_both_endpoints() -> None:
    assert request(system="Be brief.", stop=["END"], extra_body={"reasoning_effort": "low"}) == {
        "endpoint": "https://api.openai.com/v1/chat/completions",
        "body": {
            "model": "m",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Ask"}],
            "temperature": 0.7,
            "max_tokens": 9,
            "stop": ["END"],
            "reasoning_effort": "low",
        },
    }
    assert request(endpoint="completions", top_p=0.9, max_tokens_field="max_completion_tokens")["body"] == {
        "model": "m",
        "prompt": "Ask",
        "temperature": 0.7,
        "max_completion_tokens": 9,
        "top_p": 0.9,
        "stop": ["\nQ:"],
    }


@pytest.mark.parametrize(
    ("base_url", "endpoint"),
    [
        ("http://localhost:11434/v1", "http://localhost:11434/v1/chat/completions"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1/chat/completions"),
        (
            "https://generativelanguage.googleapis.com/v1beta/openai/",
            "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions",
        ),
    ],
)
def test_addresses_of_compatible_endpoints(base_url: str, endpoint: str) -> None:
    assert request(base_url=base_url)["endpoint"] == endpoint


def test_only_what_shapes_the_reply_is_in_the_key() -> None:
    plain = request_key(request())
    assert plain == request_key(request(concurrency=3, timeout=9, retries=0, budget={"requests": 1}, samples=1))
    changes = [
        {"base_url": "http://e/v1"},
        {"model": "n"},
        {"stop": ["x"]},
        {"endpoint": "completions"},
        {"top_p": 0.5},
    ]
    assert plain not in (keys := {request_key(request(**change)) for change in changes})
    assert len(keys) == len(changes)


@pytest.mark.parametrize(
    ("choice", "text", "reason"),
    [
        ({"message": {"content": "hi"}}, "hi", "stop"),
        ({"text": "hi"}, "hi", "stop"),
        ({"message": {"content": None}}, "", "stop"),
        ({"message": {"content": "hi"}, "finish_reason": "length"}, "hi", "length"),
        ({"message": {"content": "hi"}, "finish_reason": None}, "hi", "stop"),
        ({"message": {"content": "hi"}, "finish_reason": "STOP"}, "hi", "stop"),
        ({"message": {"content": "hi"}, "finish_reason": "MAX_TOKENS"}, "hi", "length"),
        ({"message": {"role": "assistant"}, "finish_reason": "SAFETY"}, "", "content_filter"),
        ({"message": {"content": None, "refusal": "no"}}, "no", "refusal"),
        ({"message": {"content": "", "refusal": ""}}, "", "stop"),
        ({"message": {"content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}}, "hi", "stop"),
    ],
)
def test_replies_are_read(choice: dict[str, Any], text: str, reason: str) -> None:
    assert read_body(chat(**choice)) == Body(text, reason, 5, 7, "m")


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": -1}, {"prompt_tokens": "5"}, {"prompt_tokens": 10**30}, [1]]
)
def test_impossible_usage_is_none(usage: Any) -> None:
    reply = read_body(json.dumps({"choices": [{"text": "hi"}], "usage": usage}).encode())
    assert isinstance(reply, Body)
    assert reply.input_tokens is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        chat(text="hi")[:40],
        b"[]",
        b"null",
        b'{"choices": []}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": {"content": 5}}]}',
        b'{"choices": {"0": 1}}',
        b"[" * 100_000,
    ],
)
def test_unreadable_replies_may_have_been_billed(content: bytes) -> None:
    fault = read_body(content)
    assert isinstance(fault, Fault)
    assert (fault.kind, fault.billed) == ("malformed", True)


@given(
    st.binary()
    | st.recursive(
        st.none() | st.text() | st.integers(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(st.sampled_from(["choices", "message", "content", "usage", "error", "code", "text"]), x)
        ),
    ).map(lambda x: json.dumps(x).encode())
)
def test_no_reply_crashes_the_reader(content: bytes) -> None:
    assert isinstance(read_body(content), (Body, Fault))


@pytest.mark.parametrize(
    ("status", "content", "kind", "billed"),
    [
        (429, b"slow down", "overloaded", False),
        (503, b"", "overloaded", False),
        (529, b"", "overloaded", False),
        (500, b"", "server_error", False),
        (502, b"", "server_error", False),
        (504, b"", "server_error", True),
        (408, b"", "server_error", True),
        (400, b"too long", "rejected", False),
        (422, b"", "rejected", False),
        (302, b"", "rejected", False),
        (401, b"", "fatal", False),
        (404, b"no model", "fatal", False),
        (402, b"", "fatal", False),
        (
            400,
            b'[{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}]',
            "fatal",
            False,
        ),
        (429, b'{"error": {"code": "insufficient_quota"}}', "fatal", False),
    ],
)
def test_statuses_are_classified(status: int, content: bytes, kind: str, billed: bool) -> None:
    fault = classify_status(status, {}, content)
    assert isinstance(fault, Fault)
    assert (fault.kind, fault.billed) == (kind, billed)
    assert f"HTTP {status}" in fault.message


def test_a_content_filter_is_a_refusal() -> None:
    assert classify_status(400, {}, b'{"error": {"code": "content_filter"}}') == Body("", "content_filter", 0, 0, "")


def test_error_in_a_reply_of_status_200_is_classified() -> None:
    fault = read_body(b'{"error": {"message": "upstream", "code": 429}}')
    assert isinstance(fault, Fault)
    assert fault.kind == "overloaded"
    assert isinstance(read_body(b'{"error": "text"}'), Fault)


def test_retry_after_in_all_its_forms() -> None:
    assert retry_after({"retry-after": "7"}, 0.0) == 7.0
    assert retry_after({"retry-after": " 1.5 "}, 0.0) == 1.5
    assert retry_after({"retry-after-ms": "250", "retry-after": "1"}, 0.0) == 0.25
    assert retry_after({"retry-after": formatdate(1030.0, usegmt=True)}, 1000.0) == 30.0
    assert retry_after({"retry-after": formatdate(900.0, usegmt=True)}, 1000.0) == 0.0
    for nonsense in ("", "soon", "-5", "nan", "inf", "1e9", "99999999999", "Mon, 99 Foo 2020"):
        assert retry_after({"retry-after": nonsense}, 0.0) == 0.0


@given(st.text())
def test_bytes_bound_the_tokens(text: str) -> None:
    assert most_tokens(text) >= len(text)


def test_a_date_to_retry_after_is_read_by_the_clock_that_wrote_it() -> None:
    """The endpoint's clock may be hours off ours."""
    headers = {"retry-after": formatdate(1030.0, usegmt=True), "date": formatdate(1000.0, usegmt=True)}
    assert retry_after(headers, 90_000.0) == 30.0
    assert retry_after(headers, 0.0) == 30.0
    assert retry_after(headers | {"date": "yesterday"}, 1010.0) == 20.0


def test_usage_is_read_from_replies_that_cannot_be_used() -> None:
    usage = {"prompt_tokens": 5000, "completion_tokens": 7}
    for reply in ({"choices": []}, {"error": {"message": "upstream", "code": 502}}, {"choices": [{"message": {}}]}):
        outcome = read_body(json.dumps({**reply, "usage": usage}).encode())
        assert (outcome.input_tokens, outcome.output_tokens) == (5000, 7)
    fault = read_body(b'{"choices": []}')
    assert (fault.input_tokens, fault.output_tokens) == (None, None)


def test_causes_are_counted_and_each_is_worded_once() -> None:
    faults = [Fault("timeout", "no reply"), *[Fault("rejected", f"HTTP 400: {n}") for n in range(3)]]
    assert causes(faults) == "3 rejected (HTTP 400: 0), 1 timeout (no reply)"


@pytest.mark.parametrize(
    ("requested", "answered", "same"),
    [
        ("gpt-4o-mini", "gpt-4o-mini-2024-07-18", True),
        ("openai/gpt-4o-mini", "gpt-4o-mini", True),
        ("claude-3-5-sonnet-latest", "claude-3-5-sonnet-20241022", True),
        ("gemini-1.5-flash", "models/gemini-1.5-flash-002", True),
        ("llama3.2", "llama3.2:latest", True),
        ("Qwen/Qwen3-8B", "qwen3-8b@main", True),
        ("/models/m", "/models/m/", True),
        ("m", "", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4", "gpt-3.5", False),
        ("llama3:70b", "llama3:8b", False),
        ("m", "n", False),
    ],
)
def test_another_model_is_told_from_another_spelling(requested: str, answered: str, same: bool) -> None:
    assert same_model(requested, answered) is same


def test_scrubber_removes_the_key_and_makes_text_encodable() -> None:
    scrub = scrubber("sk-0123456789")
    assert scrub("Bearer sk-0123456789!") == "Bearer [key]!"
    assert scrub("half \ud800 pair").encode() == b"half ? pair"
    assert scrubber(None)("text") == "text"


@pytest.mark.parametrize("key", ["k", "k3y", "sk-1", "none", "42", "(a+"])
def test_short_keys_are_removed_from_messages(key: str) -> None:
    message = f"HTTP 500: got Authorization: Bearer {key}; the key {key!r} is unknown"
    for text in (scrubber(key)(message), scrubber(key)(key)):
        assert not re.search(rf"(?<!\w){re.escape(key)}(?!\w)", text)
        assert "[key]" in text


def test_short_keys_that_are_words_stay_in_solutions_only() -> None:
    assert scrubber("none", keep_words=True)("none of them") == "none of them"
    assert scrubber("42", keep_words=True)("40 + 2 = 42") == "40 + 2 = 42"
    assert scrubber("none", keep_words=True)("Bearer none, api_key='none'") == "Bearer [key], api_key='[key]'"
    assert scrubber("k3y", keep_words=True)("the key is k3y.") == "the key is [key]."
    assert scrubber("k3y", keep_words=True)("hockey k3yboard") == "hockey k3yboard"
