"""Text that is safe to show: what the console, error messages and report files show goes through `printable`."""

from __future__ import annotations

import re

_CONTROL = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_DIRECTION = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_UNSAFE = re.compile(rf"\r(?!\n)|[{_CONTROL}{_DIRECTION}\ud800-\udfff]")


def printable(text: str) -> str:
    r"""`text` with characters that change how a terminal or a page shows other text written as `\uXXXX`.

    These are control characters, with which data could colour, move or overwrite the terminal's text (line ends and tabs
    stay), marks that reverse the direction of text (Boucher & Anderson, "Trojan Source", 2021), and lone surrogates, which no
    encoding can write. In JSON, `\uXXXX` is the character itself: `json.loads(printable(json.dumps(value))) == value`.
    """
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def half_character(text: str) -> str | None:
    """What is wrong with a text that no encoding can write; None if nothing is."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"got half a character at position {error.start} (a lone surrogate); correct the text"
    return None
