"""Log-probabilities in the replies of OpenAI-compatible endpoints: two shapes, and four ways to spell half a character.

    {content: [{token, bytes, logprob}]}         chat; llama.cpp's completions too
    {tokens, token_logprobs, text_offset}        completions; the offsets follow from the tokens, and are not read

Where a token splits a character, OpenAI gives its `bytes`, or escapes them in completions ("bytes:\\xf0"). vLLM leaves it empty,
and the token that completes the character spells it whole (earlier versions: each is U+FFFD). SGLang spells its bytes in Latin-1.
llama.cpp leaves it out, and has the last token alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mentorkd.data.token_logprobs import TokenLogprobs, joint, read_value

_Token = tuple[bytes, float | None]
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


def reply_logprobs(choice: Mapping[str, Any], text: str, written: int | None) -> TokenLogprobs:
    """The log-probabilities of a choice's `text`, of which the endpoint has counted `written` tokens (None: not counted).

    The tokens may hold more than the text, such as the reasoning before it, a stop text or an end token; or less, where the
    endpoint dropped those of a stop text. Raises ValueError, with what is wrong, if there are none or they spell another text.
    """
    tokens = _tokens(choice.get("logprobs"))
    if written is not None and len(tokens) < written and not any(map(_is_fragment, tokens)):
        # Some tokens are left out, perhaps those that began a character: what its last token says is not its likelihood.
        tokens = [(spelling, value if spelling.isascii() else None) for spelling, value in tokens]
    return _of_text(tokens, text.encode(errors="replace"))


def _tokens(logprobs: Any) -> list[_Token]:
    if logprobs is None:
        raise ValueError("it has no `logprobs`")
    fields = logprobs if isinstance(logprobs, dict) else {}
    content, texts, values = (fields.get(name) for name in ("content", "tokens", "token_logprobs"))
    if isinstance(content, list) and content:
        if not all(isinstance(entry, dict) and "logprob" in entry for entry in content):
            raise ValueError("a token of its `logprobs` has no `logprob`")
        return [(_spelling(entry.get("token"), entry.get("bytes")), read_value(entry["logprob"])) for entry in content]
    if isinstance(texts, list) and isinstance(values, list) and len(texts) == len(values) > 0:
        return [(_spelling(text, None), read_value(value)) for text, value in zip(texts, values, strict=True)]
    raise ValueError("its `logprobs` have neither `content` nor `tokens` with as many `token_logprobs`")


def _spelling(token: Any, spelled: Any) -> bytes:
    """The bytes of a token."""
    if isinstance(spelled, list) and all(type(byte) is int and 0 <= byte < 256 for byte in spelled):
        return bytes(spelled)
    if spelled is not None or not isinstance(token, str):
        raise ValueError("a token of its `logprobs` has neither text nor bytes")
    text = token.encode(errors="replace")
    if not text.startswith(b"bytes:") or not _ESCAPED.search(text):
        return text
    return _ESCAPED.sub(lambda escape: bytes.fromhex(escape[1].decode()), text.removeprefix(b"bytes:"))


def _is_fragment(token: _Token) -> bool:
    try:
        token[0].decode()
    except UnicodeDecodeError:
        return True
    return False


def _of_text(tokens: Sequence[_Token], text: bytes) -> TokenLogprobs:
    spelled = b"".join(spelling for spelling, _ in tokens)
    if text in spelled:
        # What comes before a reply is its reasoning, and what comes after it is short.
        first = 0 if spelled.startswith(text) else spelled.rfind(text)
        return TokenLogprobs.of_tokens(tokens).part(spelled, first, first + len(text))
    return TokenLogprobs.of_tokens(tokens if text.startswith(spelled) else _respelled(tokens, text))


def _respelled(tokens: Sequence[_Token], text: bytes) -> list[_Token]:
    """The tokens with the bytes of `text`. Raises ValueError if they spell another text.

    From a token that is spelled wrong up to the next that begins in ASCII, tokens count as one: their ASCII characters are
    the text's, and what the text has between these and behind them is theirs as well.
    """
    respelled: list[_Token] = []
    at = place = 0
    while at < len(text) and place < len(tokens):
        spelling, value = tokens[place]
        place += 1
        if not text.startswith(spelling, at):
            while place < len(tokens) and not b"\0" <= tokens[place][0][:1] < b"\x80":
                spelling, value = spelling + tokens[place][0], joint(value, tokens[place][1])
                place += 1
            spelling, whole = _same_ascii(spelling, text, at)
            value = value if whole else None
        respelled.append((spelling, value))
        at += len(spelling)
    return respelled


def _same_ascii(spelling: bytes, text: bytes, first: int) -> tuple[bytes, bool]:
    """The bytes of `text` from `first` on that have the ASCII characters of `spelling`, and whether it has them all."""
    at = _next_ascii(text, first)
    for byte in filter(lambda byte: byte < 128, spelling):
        if at == len(text):
            return text[first:], False
        if text[at] != byte:
            break
        at = _next_ascii(text, at + 1)
    else:
        if at > first:
            return text[first:at], True
    raise ValueError("the tokens of its `logprobs` spell another text")


def _next_ascii(text: bytes, at: int) -> int:
    while at < len(text) and text[at] >= 128:
        at += 1
    return at
