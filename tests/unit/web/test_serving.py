"""One text, from tokens to scored pieces."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mentorkd.generation.detokenize import Spelling
from mentorkd.generation.live import Token
from mentorkd.web.serving import _Text
from tiny_models import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
SPELL = Spelling(TOKENIZER)
IDS = {SPELL(number): number for number in range(len(TOKENIZER))}


@pytest.mark.parametrize(
    ("spellings", "text", "offsets"),
    [
        ([b"a", b"\xe2", b"b", b"c"], "a\ufffdbc", [0, 1, 2, 3]),
        ([b"a", b"\xe2", b"\x82", b"\xac", b"b"], "a\u20acb", [0, 1, 1, 1, 2]),
        ([b"\xe2", b"\xe2", b"\x82", b"\xac", b"b"], "\ufffd\u20acb", None),
    ],
)
def test_offsets_are_places_in_the_text(spellings: list[bytes], text: str, offsets: list[int] | None) -> None:
    writer: Any = SimpleNamespace(spell=SPELL, tokenizer=TOKENIZER)
    delta = _Text(writer, 0, 1, (), True).push([Token(IDS[spelling], -1.0) for spelling in spellings])
    assert delta.text == text
    assert [token.spelling for token in delta.scored] == spellings
    if offsets is not None:
        assert [token.offset for token in delta.scored] == offsets
    last = delta.scored[-1]
    assert text[last.offset :].encode() == last.spelling
