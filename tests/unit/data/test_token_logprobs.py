"""Log-probabilities of tokens: of a reply, of the rationale in it, of the text that a student learns."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mentorkd.data.prompts import render_target
from mentorkd.data.token_logprobs import TokenLogprobs, rationale_logprobs, read_logprobs, target_logprobs
from mentorkd.errors import DataError
from mentorkd.records import Rationale

NAN = math.nan


def rationale(text: str, ends: list[int], values: list[float | None]) -> Rationale:
    return Rationale.create("q", text, "5", "correct", "teacher", 0, {"logprobs": {"ends": ends, "values": values}})


def in_target(text: str, ends: list[int], values: list[float | None], target: str) -> list[tuple[str, float | None]]:
    """The pieces of the target's text, with None for NaN, which equals nothing."""
    pieces = target_logprobs(rationale(text, ends, values), target)
    assert pieces is not None
    spans = pairwise((0, *pieces.edges))
    return [
        (target[a:b], None if math.isnan(value) else value) for (a, b), value in zip(spans, pieces.values, strict=True)
    ]


def test_a_target_is_cut_where_the_teachers_tokens_end() -> None:
    pieces = in_target("2 + 3 = 5.", [1, 5, 10], [-1.0, -2.0, -3.0], "2 + 3 = 5. --> 5")
    assert pieces == [("2", -1.0), (" + 3", -2.0), (" = 5.", -3.0), (" --> 5", None)]


def test_tokens_that_share_a_character_are_one_piece() -> None:
    text = "a🍎ä."  # bytes: a 1, apple 4, ä 2, full stop 1
    pieces = in_target(text, [1, 2, 4, 6, 8], [-1.0, -2.0, -4.0, -8.0, -16.0], f"{text} --> 5")
    # The token that ends at 6 holds the last byte of the apple and the first one of the ä.
    assert pieces == [("a", -1.0), ("🍎ä.", -30.0), (" --> 5", None)]
    assert in_target(text, [1, 5, 8], [-1.0, None, -4.0], text) == [("a", -1.0), ("🍎", None), ("ä.", -4.0)]


def test_what_the_teacher_did_not_write_is_masked_and_counted() -> None:
    target = "one two --> 5"
    pieces = target_logprobs(rationale("one two", [3, 5], [-1.0, None]), target)
    assert pieces is not None
    assert pieces.edges == (3, 5, len(target))
    assert pieces.masked == len(target) - 3
    # A last token that ends inside a character covers no whole one.
    assert in_target("aé", [1, 2], [-1.0, -1.0], "aé --> 5") == [("a", -1.0), ("é --> 5", None)]


@pytest.mark.parametrize("text", ["2 + 3 --> 5 and ---> so", "--> 5", "a -->b"])
def test_an_arrow_that_the_target_shortens_is_masked(text: str) -> None:
    ends = list(range(1, len(text) + 1))
    target = render_target(text, "5", "arrow")
    pieces = in_target(text, ends, [-1.0] * len(text), target)
    assert "".join(piece for piece, _ in pieces) == target
    assert [piece for piece, value in pieces[:-1] if value is None] == ["->"] * text.count("-->")
    assert all(len(piece) == 1 for piece, value in pieces if value is not None)
    assert pieces[-1] == (" --> 5", None)
    whole = in_target(text, ends, [-1.0] * len(text), render_target(text, "5", "therefore"))
    assert [value for _, value in whole] == [-1.0] * len(text) + [None]


@pytest.mark.parametrize("target", ["5", "2 + 30 = 32 --> 32", "so 2 + 3"])
def test_a_target_without_the_rationale_is_one_masked_piece(target: str) -> None:
    assert in_target("2 + 3", [1, 5], [-1.0, -1.0], target) == [(target, None)]


def test_a_rationale_without_log_probabilities_has_no_pieces() -> None:
    assert target_logprobs(Rationale.create("q", "2 + 3", "5", "correct", "teacher", 0), "2 + 3 --> 5") is None
    assert in_target("", [], [], "--> 5") == [("--> 5", None)]


@pytest.mark.parametrize(
    ("tokens", "text", "expected"),
    [
        # A space that was stripped is no other text; neither is a line's end behind the rationale.
        ([(b" 2", -1), (b" + 3.\n", -2), (b"So 5", -3)], "2 + 3.", {"ends": [1, 6], "values": [-1, -2]}),
        ([(b"\n\n", -1), (b"2 + ", -2), (b"3.\nSo 5", -3)], "2 + 3.", {"ends": [4, 6], "values": [-2, None]}),
        ([(b" ", -1), (b"2", -2)], "2", {"ends": [1], "values": [-2]}),
        ([(b"", -1), (b"2", -2), (b"", -4)], "2", {"ends": [1], "values": [-3]}),
        ([(b"2", -0.123456789)], "2", {"ends": [1], "values": [-0.12346]}),
        ([(b"2 ", -1)], "2 + 3.", {"ends": [2], "values": [-1]}),
    ],
)
def test_a_rationale_takes_its_part_of_the_reply(
    tokens: list[tuple[bytes, float]], text: str, expected: dict[str, Any]
) -> None:
    reply = b"".join(spelling for spelling, _ in tokens).decode()
    reply += text[len(reply) :]
    assert rationale_logprobs(TokenLogprobs.of_tokens(tokens), reply, text) == expected


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (None, "got NoneType, expected an object of `ends` and `values`"),
        ([1], "got list, expected an object"),
        ({"ends": [1]}, r"got the fields \['ends'\]"),
        ({"ends": 1, "values": [1]}, "expected two lists of equal length"),
        ({"ends": [1, 2], "values": [-1.0]}, "expected two lists of equal length"),
        ({"ends": [2, 2], "values": [-1.0, -1.0]}, "ascending whole numbers"),
        ({"ends": [0], "values": [-1.0]}, "ascending whole numbers"),
        ({"ends": [1.0], "values": [-1.0]}, "ascending whole numbers"),
        ({"ends": [True], "values": [-1.0]}, "ascending whole numbers"),
        ({"ends": [1], "values": [0.5]}, r"got the log-probability '0.5', expected a number of at most 0, or null"),
        ({"ends": [1], "values": ["-1"]}, "expected a number"),
        ({"ends": [1], "values": [True]}, "expected a number"),
        ({"ends": [1], "values": [NAN]}, "expected a number"),
        ({"ends": [1], "values": [10**400]}, "expected a number"),
        ({"ends": [9], "values": [-1.0]}, "the last of `ends` is 9, and the text has 3 bytes"),
    ],
)
def test_other_fields_are_refused(fields: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_logprobs(fields, "abc")
    broken = Rationale.create("q", "abc", None, "no_answer", "teacher", 0, {"logprobs": fields})
    with pytest.raises(DataError, match=rf"rationale {broken.id}, `meta.logprobs`: .*{said}"):
        target_logprobs(broken, "abc --> 5")


@pytest.mark.parametrize("value", [-9999.0, -math.inf, -3.4028234663852886e38, -(10**400), None])
def test_what_endpoints_write_for_unlikely_is_no_measurement(value: Any) -> None:
    assert read_logprobs({"ends": [1], "values": [value]}, "a").values == (None,)
    assert read_logprobs({"ends": [1], "values": [1e-7]}, "a").values == (0.0,)


@given(st.text(max_size=30), st.lists(st.integers(1, 9), max_size=30))
@example("🍎 --> ä", [1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
def test_pieces_cover_every_target_in_order_and_lose_no_value(text: str, lengths: list[int]) -> None:
    text = text.strip().encode(errors="replace").decode()
    raw, tokens, at = text.encode(), [], 0
    for length in [*lengths, len(text.encode())]:
        if raw[at : at + length]:
            tokens.append((raw[at : at + length], -float(length)))
            at += length
    fields = rationale_logprobs(TokenLogprobs.of_tokens(tokens), text, text)
    assert TokenLogprobs.from_json(json.loads(json.dumps(fields))).to_json() == fields
    target = render_target(text, "5", "therefore")
    pieces = in_target(text, fields["ends"], fields["values"], target)
    assert "".join(piece for piece, _ in pieces) == target
    assert all(piece for piece, _ in pieces)
    if text:
        assert sum(value for _, value in pieces if value is not None) == sum(value for _, value in tokens)
    arrow = render_target(text, "5", "arrow")
    assert "".join(piece for piece, _ in in_target(text, fields["ends"], fields["values"], arrow)) == arrow
