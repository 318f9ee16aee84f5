"""What data can do to a terminal or to a page: nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mentorkd.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;owned\x07", r"\u001b[2J\u001b]0;owned\u0007"),
        ("\x9b31m", r"\u009b31m"),
        ("safe\rEVIL", r"safe\u000dEVIL"),
        ("user\u202enimda\u202c", r"user\u202enimda\u202c"),
        ("\u2066a\u2069 \u200fb \u061cc", r"\u2066a\u2069 \u200fb \u061cc"),
        ("\ud83d alone", r"\ud83d alone"),
        ("two\nlines,\ta tab,\r\nWindows", "two\nlines,\ta tab,\r\nWindows"),
        ("Füße, שלום, 👩‍🔬 – “ok”", "Füße, שלום, 👩‍🔬 – “ok”"),
    ],
)
def test_what_would_change_other_text_is_shown_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


@given(st.text(st.characters(codec=None), max_size=50))
def test_json_keeps_its_value(text: str) -> None:
    written = printable(json.dumps({"text": text}, ensure_ascii=False))
    assert json.loads(written) == {"text": text}
    written.encode()
